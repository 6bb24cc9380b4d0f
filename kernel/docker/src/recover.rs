//! After a restart of the agent: what is on record, and what the engine has with our label.

use crate::body::{LABEL_FILES, LABEL_ID, LABEL_INSTANCE, LABEL_SANDBOX};
use crate::container::{Container, Doing, doing, inspect};
use crate::inner::Inner;
use crate::record::Record;
use crate::spec::container_name;
use bollard::query_parameters::ListContainersOptions;
use plenum_containers::spec::check_id;
use plenum_containers::{Exit, Recovered, RecoveredState, RuntimeError};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// See [`plenum_containers::Runtime::recover`]. An engine that is away holds up nothing: what is on record counts as
/// running until the engine says otherwise.
pub async fn recover(inner: &Arc<Inner>) -> Result<Vec<Recovered>, RuntimeError> {
    let records = inner.records.clone();
    let all = tokio::task::spawn_blocking(move || records.all()).await.unwrap_or_default();
    let mut wanted: BTreeMap<String, Record> =
        all.into_iter().map(|record| (record.id.clone(), record)).collect();
    let patience = inner.config.patience.min(inner.config.ping);
    if inner.engine.ready("list containers", patience).await.is_ok() {
        for record in labelled(inner).await {
            wanted.entry(record.id.clone()).or_insert(record);
        }
    }
    let mut found = Vec::new();
    for (id, record) in wanted {
        if record.doomed {
            // With an engine that is away the keeper does it, when that is back.
            if inner.engine.health().borrow().is_ready() {
                crate::destroy::remove_doomed(inner, &id).await;
            }
            continue;
        }
        if inner.table.lock().contains_key(&id) {
            continue;
        }
        inner.records.write(&record)?;
        let container = inner.enter(record)?;
        let state = look(inner, &container).await;
        let launched = (container.record().pid > 0).then(|| container.launched(Vec::new()));
        inner.attend(&container);
        found.push(Recovered { id, state, launched });
    }
    inner.recovered.store(true, Ordering::Release);
    Ok(found)
}

async fn look(inner: &Inner, container: &Container) -> RecoveredState {
    let record = container.record();
    // One that is away has been waited for once; not again for each container.
    let ready = inner.engine.health().borrow().is_ready();
    let asked = match ready {
        true => inspect(&inner.engine, &container_name(&record.id), inner.config.ping).await.map_err(drop),
        false => Err(()),
    };
    match asked {
        Ok(None) => RecoveredState::Lost,
        Ok(Some(found)) => match doing(&found) {
            Doing::Running => {
                crate::launch::note_process(container, &found);
                RecoveredState::Running
            }
            Doing::Ended => RecoveredState::Finished(container.exit_of(&found)),
            // The agent died between creation and start: nothing has run, and nobody waits for it.
            Doing::Waiting => RecoveredState::Lost,
        },
        // The engine is away. What was created is watched until it is back.
        Err(()) if record.created => RecoveredState::Running,
        Err(()) => RecoveredState::Finished(Exit::lost()),
    }
}

/// The engine's containers with our label, as records.
pub async fn labelled(inner: &Inner) -> Vec<Record> {
    let label = format!("{LABEL_INSTANCE}={}", inner.config.instance);
    let options = ListContainersOptions {
        all: true,
        filters: Some(HashMap::from([("label".to_owned(), vec![label])])),
        ..ListContainersOptions::default()
    };
    let call = |docker: bollard::Docker| async move { docker.list_containers(Some(options)).await };
    let list = inner.engine.call("list containers", inner.config.call, call).await.unwrap_or_default();
    list.into_iter().filter_map(|one| from_labels(&one.labels.unwrap_or_default())).collect()
}

fn from_labels(labels: &HashMap<String, String>) -> Option<Record> {
    let id = labels.get(LABEL_ID)?;
    check_id(id).ok()?;
    let (stdout, stderr) = labels.get(LABEL_FILES)?.split_once('/')?;
    Some(Record {
        id: id.clone(),
        sandbox: labels.get(LABEL_SANDBOX)?.into(),
        stdout: stdout.to_owned(),
        stderr: stderr.to_owned(),
        engine_id: String::new(),
        disk_bytes: None,
        upper: None,
        log_path: None,
        pid: 0,
        start: 0,
        addresses: Vec::new(),
        boot_id: String::new(),
        created: true,
        stop_signal: None,
        killed: false,
        doomed: false,
        image: String::new(),
    })
}
