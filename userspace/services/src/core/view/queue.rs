//! Why instances wait: Marathon's queue, and our own answer by node. Both from the verdicts that matching left.

use plenum_api::Now;
use serde_json::{Value, json};

use super::super::id::PathId;
use super::super::matching::Reason;
use super::super::{Entry, Snapshot, time};

/// `/v2/queue`: every app with instances to launch.
pub fn queue(state: &Snapshot, now: Now, last_offers: bool) -> Value {
    let waiting = state.entries().filter(|(_, e)| e.missing > 0);
    let items: Vec<Value> = waiting.map(|(_, entry)| item(entry, now, last_offers)).collect();
    json!({"queue": items})
}

fn item(entry: &Entry, now: Now, last_offers: bool) -> Value {
    let tally = &entry.tally;
    let left = entry.held_until().since(now.mono);
    let moment = |at: Option<plenum_api::Millis>| at.map_or(Value::Null, |at| Value::from(time::text(at)));
    let mut out = json!({
        "count": entry.missing,
        "since": moment(entry.waiting),
        "delay": {"timeLeftSeconds": left.0.div_ceil(1000), "overdue": left.0 == 0},
        "processedOffersSummary": {
            "processedOffersCount": tally.processed,
            "unusedOffersCount": tally.unused,
            "lastUnusedOfferAt": moment(tally.last_unused),
            "lastUsedOfferAt": moment(tally.last_used),
            "rejectSummaryLastOffers": funnel_last(entry),
            "rejectSummaryLaunchAttempt": funnel(tally.processed, |r| tally.reasons.get(&r).copied().unwrap_or(0)),
        },
    });
    out[if entry.wanted.pod().is_some() { "pod" } else { "app" }] = Value::Object(entry.wanted.to_json());
    // Marathon 1.9 and later say the role. The default one goes without saying: clients from before refuse an unknown key.
    if entry.wanted.role() != "*" {
        out["role"] = Value::from(entry.wanted.role());
    }
    if last_offers {
        let refused = tally.nodes.iter().filter(|(_, n)| !n.broken.is_empty());
        out["lastUnusedOffers"] = refused
            .map(|(agent, node)| {
                let reasons: Vec<Reason> = node.broken.iter().map(|b| b.reason).collect();
                let offer = json!({"agentId": agent, "hostname": node.host, "id": "", "resources": [], "attributes": []});
                json!({"offer": offer, "reason": reasons, "timestamp": time::text(node.at)})
            })
            .collect();
    }
    out
}

/// Each node's last offer goes through the rules in order and drops out at the first it breaks.
fn funnel_last(entry: &Entry) -> Vec<Value> {
    let nodes = &entry.tally.nodes;
    let first = |reason: Reason| {
        nodes.values().filter(|n| n.broken.first().is_some_and(|b| b.reason == reason)).count()
    };
    let total = u64::try_from(nodes.len()).unwrap_or(u64::MAX);
    funnel(total, |reason| u64::try_from(first(reason)).unwrap_or(u64::MAX))
}

fn funnel(total: u64, declined: impl Fn(Reason) -> u64) -> Vec<Value> {
    let mut left = total;
    let step = |reason: &Reason| {
        let declined = declined(*reason);
        let out = json!({"reason": reason.name(), "declined": declined, "processed": left});
        left = left.saturating_sub(declined);
        out
    };
    Reason::ALL.iter().map(step).collect()
}

/// Why an app is not as wanted: what it waits for, and each node's verdict.
pub fn why(state: &Snapshot, id: &PathId, now: Now) -> Option<Value> {
    let entry = state.entry(id)?;
    let left = entry.held_until().since(now.mono);
    let blockers = state.blockers(entry, now);
    let nodes: Vec<Value> = entry
        .tally
        .nodes
        .iter()
        .map(|(agent, node)| {
            json!({
                "agentId": agent,
                "host": node.host,
                "fits": node.broken.is_empty(),
                "broken": node.broken,
                "at": time::text(node.at),
            })
        })
        .collect();
    let waits: Vec<Value> = state
        .deployments
        .values()
        .filter(|d| d.affects(id))
        .map(|d| {
            let others = d.current().iter().filter(|a| a.app != *id);
            let blockers = others.filter_map(|a| {
                let blocker = state.blockers(state.apps.get(&a.app)?, now).into_iter().next()?;
                Some(json!({"app": a.app, "blocker": blocker.text}))
            });
            json!({"deployment": d.id, "turn": !d.holds(id), "others": blockers.collect::<Vec<_>>()})
        })
        .collect();
    let mut out = json!({
        "app": id,
        "blocker": blockers.first().map(|worst| &worst.text),
        "blockers": blockers,
        "missing": entry.missing,
        "delayLeftSeconds": left.0.div_ceil(1000),
        "deployments": waits,
        "nodes": nodes,
    });
    if let Some(status) = entry.autoscale_status() {
        out["autoscale"] = status.clone();
    }
    Some(out)
}
