//! `plenum app why`: what an app waits for, and each node's verdict. Pure.

use crate::api::apps::{InTheWay, Scaling, Why};
use crate::table::{Cell, Look, Table, Tone};
use crate::text::{age_of, clean};

/// The explanation as text.
pub(crate) fn text(why: &Why, look: Look, now: i64) -> String {
    let id = clean(&why.app);
    let mut out = match &why.blocker {
        Some(blocker) if why.blockers.is_empty() => format!("{id}: {}\n", clean(blocker)),
        Some(_) => why.blockers.iter().map(|one| in_the_way(&id, one, now)).collect(),
        None => format!("{id} is as wanted\n"),
    };
    if why.delay_left_seconds > 0 && why.blockers.is_empty() {
        out.push_str(&format!(
            "instances failed; the next one is launched in {} s. See `plenum app logs {id}`\n",
            why.delay_left_seconds
        ));
    }
    if let Some(scaling) = &why.autoscale {
        out.push_str(&format!("{}\n", number(&id, scaling, now)));
    }
    if why.blocker.is_none() {
        return out;
    }
    if why.nodes.is_empty() {
        if why.missing > 0 && why.delay_left_seconds == 0 {
            out.push_str("no node has offered anything yet; see `plenum node list` and `plenum status`\n");
        }
        return out;
    }
    let mut table = Table::new(
        &["NODE", "VERDICT", "RULE", "NEEDED", "HAD", "NEAREST FIX"],
        &["SEEN", "NODE ID", "REASON"],
        "",
    );
    for node in &why.nodes {
        let seen = age_of(now, &node.at);
        if node.broken.is_empty() {
            let verdict = if node.fits {
                Cell::toned("fits", Tone::Good)
            } else {
                Cell::toned("does not fit", Tone::Bad)
            };
            table.row(vec![
                Cell::from(&node.host),
                verdict,
                "-".into(),
                "-".into(),
                "-".into(),
                "-".into(),
                seen.into(),
                Cell::from(&node.agent_id),
            ]);
            continue;
        }
        for (i, broken) in node.broken.iter().enumerate() {
            let (host, verdict) = if i == 0 { (node.host.as_str(), "does not fit") } else { ("", "") };
            table.row(vec![
                host.into(),
                Cell::toned(verdict, Tone::Bad),
                Cell::from(&broken.rule),
                Cell::from(&broken.needed),
                Cell::from(&broken.had),
                Cell::from(&broken.fix),
                if i == 0 { Cell::from(&seen) } else { "".into() },
                if i == 0 { Cell::from(&node.agent_id) } else { "".into() },
                Cell::from(&broken.reason),
            ]);
        }
    }
    out.push('\n');
    out.push_str(&table.render(look));
    out
}

/// Why an app that leaves the number of its instances to the cluster has as many as it has.
pub(crate) fn number(id: &str, scaling: &Scaling, now: i64) -> String {
    let count = match (scaling.current, scaling.desired) {
        (current, desired) if current == desired => format!("{current} instances"),
        (current, desired) => format!("{current} instances, soon {desired}"),
    };
    let Scaling { min, max, why, at, .. } = scaling;
    format!("{id}: {count} of {min} to {max}: {} (looked {} ago)", clean(why), age_of(now, at))
}

/// What it is, since when, and what would help.
fn in_the_way(id: &str, one: &InTheWay, now: i64) -> String {
    let since = match one.since.as_str() {
        "" => String::new(),
        at => format!(" (for {})", age_of(now, at)),
    };
    let fix = match clean(&one.fix) {
        fix if fix.is_empty() => String::new(),
        fix => format!("    {fix}\n"),
    };
    format!("{id}: {}{since}\n{fix}", clean(&one.text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn why(value: serde_json::Value) -> Why {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_number_of_instances_is_explained() {
        let given = why(
            json!({"app": "/web", "blocker": null, "autoscale": {"current": 2, "desired": 4, "min": 1, "max": 9,
            "why": "cpu is 90 % on the mean of 2, the target is 50 %", "at": "1970-01-01T00:00:02.000Z"}}),
        );
        assert_eq!(
            text(&given, Look::default(), 5_000),
            "/web is as wanted\n/web: 2 instances, soon 4 of 1 to 9: cpu is 90 % on the mean of 2, the target is 50 % (looked 3s ago)\n"
        );
    }

    #[test]
    fn each_node_says_which_rules_it_breaks() {
        let broken = |rule: &str, needed: &str, had: &str, fix: &str| json!({"reason": "R", "rule": rule, "needed": needed, "had": had, "fix": fix});
        let given = why(json!({
            "app": "/big", "blocker": "1 instances wait for a suitable offer", "missing": 1, "delayLeftSeconds": 7, "deployments": [],
            "nodes": [
                {"agentId": "a1", "host": "n1", "fits": false, "at": "1970-01-01T00:00:00.000Z",
                 "broken": [broken("cpus", "4", "2", "lower the app's cpus"), broken("ports", "port 80", "taken", "let the port be chosen")]},
                {"agentId": "a2", "host": "n2", "fits": true, "broken": [], "at": "1970-01-01T00:00:00.000Z"}
            ]
        }));
        assert_eq!(
            text(&given, Look::default(), 5_000),
            "/big: 1 instances wait for a suitable offer\n\
             instances failed; the next one is launched in 7 s. See `plenum app logs /big`\n\n\
             NODE  VERDICT       RULE   NEEDED   HAD    NEAREST FIX\n\
             n1    does not fit  cpus   4        2      lower the app's cpus\n\
             \u{20}                   ports  port 80  taken  let the port be chosen\n\
             n2    fits          -      -        -      -\n"
        );
        let wide = text(&given, Look { wide: true, ..Look::default() }, 5_000);
        assert!(wide.contains("lower the app's cpus    5s    a1       R\n"), "{wide}");
    }

    #[test]
    fn everything_in_the_way_is_named_with_what_helps() {
        let given =
            why(json!({"app": "/a", "blocker": "it fails", "delayLeftSeconds": 3, "nodes": [], "blockers": [
            {"kind": "failing", "text": "it fails", "since": "1970-01-01T00:00:00.000Z", "fix": "mend it"},
            {"kind": "ends", "text": "one has not ended", "fix": ""}]}));
        assert_eq!(
            text(&given, Look::default(), 5_000),
            "/a: it fails (for 5s)\n    mend it\n/a: one has not ended\n"
        );
    }

    #[test]
    fn nothing_to_explain_is_said() {
        assert_eq!(text(&why(json!({"app": "/a", "nodes": null})), Look::default(), 0), "/a is as wanted\n");
        let none = why(json!({"app": "/a", "blocker": "waits", "missing": 2}));
        assert!(text(&none, Look::default(), 0).contains("plenum node list"));
    }
}
