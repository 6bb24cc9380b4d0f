//! Calls to the master, in the order the core asked for them. What fails is not repeated here: the core compares views
//! with the master and asks again. Only offers have to be given back, whatever became of the call that was to use or decline them: the master would
//! keep them for us as long as the subscription lasts, and offer those nodes no more.

use std::collections::HashMap;
use std::time::Duration;

use plenum_api::mesos::{self, DurationInfo, KillPolicy, offer};
use plenum_sdk::CallError;
use plenum_sdk::scheduler::Scheduler;
use tokio::sync::mpsc;

use super::Lead;
use crate::core::{Effect, Launch};
use crate::wire;

/// Between attempts to give offers back.
const SOON: Duration = Duration::from_secs(1);

/// What the caller is told.
pub(super) enum Order {
    /// Offers to remember, since launches are cut out of them.
    Offers(Vec<mesos::Offer>),
    /// They are void.
    Forget,
    /// An effect that is a call.
    Call(Box<Effect>),
}

/// Carries orders out until the sender is gone; reports failures.
pub(super) async fn run(
    scheduler: Scheduler,
    lead: Lead,
    mut orders: mpsc::UnboundedReceiver<Order>,
    failed: mpsc::Sender<()>,
) {
    let mut offers: HashMap<String, mesos::Offer> = HashMap::new();
    let mut owed: Vec<mesos::OfferId> = Vec::new();
    loop {
        let order = tokio::select! {
            order = orders.recv() => order,
            () = tokio::time::sleep(SOON), if !owed.is_empty() => {
                give_back(&scheduler, &mut owed).await;
                continue;
            }
        };
        let Some(order) = order else { return };
        // This process may have been stopped since the order was given: whoever leads now knows better.
        if !lead.holds() {
            return;
        }
        match order {
            Order::Offers(new) => offers.extend(new.into_iter().map(|o| (o.id.value.clone(), o))),
            Order::Forget => {
                offers.clear();
                owed.clear();
            }
            Order::Call(effect) => {
                let used = offers_of(&effect);
                if let Err(error) = call(&scheduler, &mut offers, *effect).await {
                    tracing::debug!(%error, "a call to the master failed");
                    owed.extend(used);
                    // A full channel says the same already.
                    let _ = failed.try_send(());
                }
            }
        }
    }
}

/// The offers that a call uses up.
fn offers_of(effect: &Effect) -> Vec<mesos::OfferId> {
    match effect {
        Effect::Accept { offer, .. } => vec![offer.as_str().into()],
        Effect::Decline { offers, .. } => offers.iter().map(|offer| offer.as_str().into()).collect(),
        _ => Vec::new(),
    }
}

/// Gives offers back that may still be ours. One that the master used meanwhile is none any more, which does no harm.
async fn give_back(scheduler: &Scheduler, owed: &mut Vec<mesos::OfferId>) {
    if !scheduler.is_subscribed() {
        return;
    }
    match scheduler.decline(owed.clone(), 0.0).await {
        Ok(()) => owed.clear(),
        Err(error) => tracing::debug!(%error, "offers could not be given back"),
    }
}

async fn call(
    scheduler: &Scheduler,
    offers: &mut HashMap<String, mesos::Offer>,
    effect: Effect,
) -> Result<(), CallError> {
    match effect {
        Effect::Accept { offer, launches, frees, refuse } => {
            // An offer that is gone cannot be used: the instances will be found missing and replaced.
            let Some(whole) = offers.remove(&offer) else { return Err(CallError::NotSubscribed) };
            let mut all: Vec<_> = frees.iter().flat_map(|free| wire::volume::free(free, &whole)).collect();
            all.extend(operations(&launches, &framework(&whole), &whole));
            scheduler.accept(vec![whole.id], all, refuse.as_secs_f64()).await
        }
        Effect::Decline { offers: ids, refuse } => {
            for id in &ids {
                offers.remove(id);
            }
            scheduler.decline(ids.into_iter().map(Into::into).collect(), refuse.as_secs_f64()).await
        }
        Effect::Kill { task, agent, grace } => {
            let grace_period = grace.map(|g| DurationInfo { nanoseconds: g.as_nanos() });
            let policy = grace_period.map(|g| KillPolicy { grace_period: Some(g) });
            scheduler.kill(task.into(), agent.map(Into::into), policy).await
        }
        Effect::Acknowledge { task, agent, uuid } => {
            scheduler.acknowledge(agent.into(), task.into(), uuid.into()).await
        }
        Effect::Reconcile(tasks) => {
            let tasks = tasks.into_iter().map(|(task, agent)| (task.into(), agent.map(Into::into)));
            scheduler.reconcile(tasks.collect()).await
        }
        Effect::Revive => scheduler.revive(Vec::new()).await,
        Effect::Suppress => scheduler.suppress(Vec::new()).await,
        Effect::Commit(_)
        | Effect::Reply { .. }
        | Effect::Publish(_)
        | Effect::Probe(_)
        | Effect::Measure(_) => Ok(()),
    }
}

fn framework(offer: &mesos::Offer) -> String {
    offer.framework_id.value.clone()
}

/// What instances with volumes need first; then all apps' tasks in one, and a group for each pod.
fn operations(launches: &[Launch], framework: &str, offer: &mesos::Offer) -> Vec<offer::Operation> {
    let apps = launches.iter().filter_map(|l| Some(wire::task_info(l, l.definition.app()?, offer)));
    let task_infos: Vec<mesos::TaskInfo> = apps.collect();
    let tasks = (!task_infos.is_empty()).then(|| offer::Operation {
        r#type: Some(offer::operation::Type::Launch.into()),
        launch: Some(offer::operation::Launch { task_infos }),
        ..Default::default()
    });
    let pods = launches.iter().filter_map(|l| Some(wire::group(l, l.definition.pod()?, framework, offer)));
    let groups = pods.map(|(executor, tasks)| offer::Operation {
        r#type: Some(offer::operation::Type::LaunchGroup.into()),
        launch_group: Some(offer::operation::LaunchGroup {
            executor,
            task_group: mesos::TaskGroupInfo { tasks },
        }),
        ..Default::default()
    });
    let before = launches.iter().flat_map(|l| wire::volume::operations(l, offer));
    before.chain(tasks).chain(groups).collect()
}
