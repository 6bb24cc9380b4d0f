//! A cluster to point a client at: an open master and one agent that only pretends. Run by hand:
//! `PLENUM_SERVE_SECONDS=60 cargo test -p plenum-master --test all by_hand -- --ignored --nocapture`.

use std::time::Duration;

use plenum_api::internal::{StatusUpdate, agent_message, master_message};
use plenum_api::mesos::{self, TaskState};

use super::fixture::{Agent, Cluster};
use super::flow;

fn update(framework: &mesos::FrameworkId, task: &mesos::TaskId, state: TaskState) -> agent_message::Kind {
    let status = mesos::TaskStatus {
        task_id: task.clone(),
        state: state as i32,
        uuid: Some(vec![state as u8; 16].into()),
        timestamp: Some(1.0),
        source: Some(mesos::task_status::Source::Executor as i32),
        ..Default::default()
    };
    agent_message::Kind::StatusUpdate(StatusUpdate {
        framework_id: framework.clone(),
        status,
        latest_state: Some(state as i32),
        ..Default::default()
    })
}

/// Runs what it is told to run: what sleeps until it is killed, the rest to its end.
async fn pretend(mut agent: Agent) {
    let mut short = std::collections::BTreeSet::new();
    while let Some(kind) = agent.hear().await {
        match kind {
            master_message::Kind::RunTasks(run) => {
                let id = run.framework_info.id.unwrap_or_default();
                for task in run.tasks {
                    let command = task.command.and_then(|c| c.value).unwrap_or_default();
                    if !command.contains("sleep") {
                        short.insert(task.task_id.value.clone());
                    }
                    agent.say(vec![update(&id, &task.task_id, TaskState::TaskRunning)]).await;
                }
            }
            master_message::Kind::AcknowledgeStatus(ack) if short.remove(&ack.task_id.value) => {
                agent.say(vec![update(&ack.framework_id, &ack.task_id, TaskState::TaskFinished)]).await;
            }
            master_message::Kind::KillTask(kill) => {
                agent.say(vec![update(&kill.framework_id, &kill.task_id, TaskState::TaskKilled)]).await;
            }
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "serves until its time is up"]
async fn by_hand() {
    let seconds = std::env::var("PLENUM_SERVE_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(60);
    let cluster = Cluster::new(true);
    let up = cluster.up().await;
    let (agent, id, _) = flow::join(&up, &cluster).await;
    println!("master {} agent {id}", up.http);
    let agent = tokio::spawn(pretend(agent));
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    assert!(!agent.is_finished(), "the agent stayed connected");
    up.down().await;
}
