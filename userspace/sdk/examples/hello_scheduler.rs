//! A whole framework: runs commands one after another as offers come, prints what becomes of them, and leaves.
//!
//! `cargo run -p plenum-sdk --example hello_scheduler -- http://127.0.0.1:5050 'echo one' 'echo two'`
//!
//! `PLENUM_TOKEN` is sent as a bearer token; `PLENUM_CA` names a file with the cluster's CA certificate for https.

use std::collections::VecDeque;
use std::error::Error;

use plenum_sdk::mesos::{CommandInfo, FrameworkInfo, Offer, Resource, TaskInfo, TaskState, value};
use plenum_sdk::scheduler::{self, Happening, Options};
use plenum_sdk::{Client, Credentials};

const CPUS: f64 = 0.1;
const MEM: f64 = 32.0;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let master = arguments.next().ok_or("usage: hello_scheduler MASTER COMMAND...")?;
    let mut waiting: VecDeque<(usize, String)> = arguments.enumerate().collect();
    let mut left = waiting.len();

    let mut client = match std::env::var("PLENUM_CA") {
        Ok(path) => Client::with_ca(&std::fs::read_to_string(path)?)?,
        Err(_) => Client::plain()?,
    };
    if let Ok(token) = std::env::var("PLENUM_TOKEN") {
        client = client.with_credentials(Credentials::Bearer(token));
    }
    let framework = FrameworkInfo { user: "root".into(), name: "hello".into(), ..Default::default() };
    let mut options = Options::new([master], framework);
    options.auto_acknowledge = true;
    let (scheduler, mut events) = scheduler::connect(client, options);

    while left > 0 {
        let Some(happening) = events.next().await else { break };
        match happening {
            Happening::Subscribed { framework_id, master } => {
                println!("subscribed to {master} as {framework_id}")
            }
            Happening::Disconnected { reason } => println!("disconnected: {reason}"),
            Happening::Failed { reason } => return Err(reason.into()),
            Happening::Event(event) => {
                for offer in event.offers.into_iter().flat_map(|o| o.offers) {
                    let fits = amount(&offer, "cpus") >= CPUS && amount(&offer, "mem") >= MEM;
                    match if fits { waiting.pop_front() } else { None } {
                        Some((n, command)) => {
                            let task = task(&offer, n, command);
                            scheduler.launch(offer.id, vec![task]).await?;
                        }
                        None => scheduler.decline(vec![offer.id], 5.0).await?,
                    }
                }
                if let Some(update) = event.update {
                    let state = TaskState::try_from(update.status.state)?;
                    println!(
                        "{}: {} {}",
                        update.status.task_id,
                        state.as_str_name(),
                        update.status.message()
                    );
                    if !matches!(
                        state,
                        TaskState::TaskStaging | TaskState::TaskStarting | TaskState::TaskRunning
                    ) {
                        left -= 1;
                    }
                }
            }
        }
    }
    scheduler.teardown().await?;
    Ok(())
}

fn amount(offer: &Offer, name: &str) -> f64 {
    offer.resources.iter().filter(|r| r.name == name).filter_map(|r| r.scalar).map(|s| s.value).sum()
}

fn task(offer: &Offer, n: usize, command: String) -> TaskInfo {
    let part = |name: &str, amount: f64| {
        let whole = offer.resources.iter().find(|r| r.name == name)?.clone();
        Some(Resource { scalar: Some(value::Scalar { value: amount }), ..whole })
    };
    TaskInfo {
        name: format!("hello-{n}"),
        task_id: format!("hello-{n}-{}", std::process::id()).into(),
        agent_id: offer.agent_id.clone(),
        resources: [part("cpus", CPUS), part("mem", MEM)].into_iter().flatten().collect(),
        command: Some(CommandInfo { value: Some(command), shell: Some(true), ..Default::default() }),
        ..Default::default()
    }
}
