//! Starting a container: record, image, creation, start. Each step is found again by the container's name.

use crate::body;
use crate::container::{Container, Doing, doing, inspect};
use crate::inner::Inner;
use crate::pull::{self, Progress};
use crate::record::Record;
use crate::spec::{DockerSpec, container_name};
use bollard::models::{ContainerCreateBody, ContainerInspectResponse};
use bollard::query_parameters::{CreateContainerOptions, StartContainerOptions};
use plenum_containers::spec::{SpecError, check_id};
use plenum_containers::{Launched, RuntimeError};
use std::sync::Arc;

/// See [`crate::DockerRuntime::start`].
pub async fn launch(inner: &Arc<Inner>, spec: DockerSpec) -> Result<Launched, RuntimeError> {
    check(&spec)?;
    let request = body::create(&spec, &inner.config.instance, inner.config.keep_output)
        .map_err(|fault| RuntimeError::Engine(fault.to_string()))?;
    let record = Record {
        id: spec.id.clone(),
        sandbox: spec.sandbox.clone(),
        stdout: spec.stdout.clone(),
        stderr: spec.stderr.clone(),
        engine_id: String::new(),
        disk_bytes: spec.disk.map(|limit| limit.bytes),
        upper: None,
        log_path: None,
        pid: 0,
        start: 0,
        boot_id: String::new(),
        addresses: Vec::new(),
        created: false,
        stop_signal: None,
        killed: false,
        doomed: false,
        image: String::new(),
    };
    let container = inner.enter(record)?;
    let id = spec.id.clone();
    let (inner, work) = (Arc::clone(inner), Arc::clone(inner));
    let steps = tokio::spawn(async move {
        let outcome = steps(&work, &container, &spec, request).await;
        work.pulls.lock().remove(&spec.id);
        match outcome {
            Ok(launched) => {
                work.attend(&container);
                Ok(launched)
            }
            Err(error) => {
                // What fails leaves nothing; what cannot be removed now is removed by the keeper.
                container.change(|record| record.doomed = true);
                work.table.lock().remove(&spec.id);
                crate::destroy::remove_doomed(&work, &spec.id).await;
                Err(error)
            }
        }
    });
    steps.await.unwrap_or_else(|_| {
        inner.table.lock().remove(&id);
        Err(RuntimeError::Engine(format!("the launch of container {id} was cut short")))
    })
}

fn check(spec: &DockerSpec) -> Result<(), RuntimeError> {
    check_id(&spec.id)?;
    if !spec.sandbox.is_absolute() {
        return Err(SpecError::Sandbox(spec.sandbox.clone()).into());
    }
    for (what, name) in [("stdout", &spec.stdout), ("stderr", &spec.stderr)] {
        if name.is_empty() || name.contains(['/', '\0']) || name == "." || name == ".." {
            return Err(SpecError::Inside { what, name: name.clone() }.into());
        }
    }
    Ok(())
}

async fn steps(
    inner: &Arc<Inner>,
    container: &Container,
    spec: &DockerSpec,
    request: ContainerCreateBody,
) -> Result<Launched, RuntimeError> {
    let name = container_name(&spec.id);
    inner.records.write(&container.record())?;
    inner.engine.ready(&format!("start container {}", spec.id), inner.config.patience).await?;
    let progress = |now: Progress| {
        inner.pulls.lock().insert(spec.id.clone(), now);
    };
    let mut off = container.off.subscribe();
    let image = tokio::select! {
        image = pull::provide(&inner.engine, &inner.config, &spec.image, &inner.images, &progress) => image?,
        _ = off.wait_for(|off| *off) => {
            return Err(RuntimeError::Engine(format!("the launch of container {} was called off", spec.id)));
        }
    };
    let digest = pull::pinned(&image, &spec.image.name);
    container.change(|record| record.image = digest.unwrap_or_default());
    let own = request.stop_signal.clone();
    let stop = own.or_else(|| image.config.and_then(|config| config.stop_signal));
    container.change(|record| record.stop_signal = stop.filter(|signal| !signal.is_empty()));
    let options = CreateContainerOptions { name: Some(name.clone()), ..CreateContainerOptions::default() };
    let create =
        |docker: bollard::Docker| async move { docker.create_container(Some(options), request).await };
    let made = match inner.engine.call("create a container", spec.launch_deadline, create).await {
        Err(error) if error.status() == Some(409) => return Err(taken(inner, &spec.id, &name).await),
        made => made?,
    };
    container.change(|record| record.created = true);
    let start = |docker: bollard::Docker| {
        let name = name.clone();
        async move { docker.start_container(&name, None::<StartContainerOptions>).await }
    };
    inner.engine.call("start a container", spec.launch_deadline, start).await?;
    // It runs; an engine that hangs just now does not undo that.
    if let Ok(Some(found)) = inspect(&inner.engine, &name, inner.config.call).await {
        note_process(container, &found);
    }
    Ok(container.launched(made.warnings))
}

/// See [`crate::DockerRuntime::fetch`].
pub async fn fetch(inner: &Inner, id: &str) -> Result<(), RuntimeError> {
    let wish = inner.announced.lock().get(id).map(|spec| spec.image.clone());
    let wish = wish.ok_or_else(|| RuntimeError::NotFound(id.to_owned()))?;
    /// A pull that is given up is no longer under way.
    struct Under<'a>(&'a Inner, &'a str);
    impl Drop for Under<'_> {
        fn drop(&mut self) {
            self.0.pulls.lock().remove(self.1);
        }
    }
    let under = Under(inner, id);
    inner.engine.ready(&format!("pull image {}", wish.name), inner.config.patience).await?;
    let progress = |now: Progress| {
        inner.pulls.lock().insert(id.to_owned(), now);
    };
    pull::provide(&inner.engine, &inner.config, &wish, &inner.images, &progress).await?;
    drop(under);
    if let Some(spec) = inner.announced.lock().get_mut(id) {
        spec.image.force_pull = false;
    }
    Ok(())
}

/// Notes the first process of a running container.
pub fn note_process(container: &Container, found: &ContainerInspectResponse) {
    let upper = found.graph_driver.as_ref().and_then(|driver| driver.data.get("UpperDir")).map(Into::into);
    let id = found.id.clone().unwrap_or_default();
    let log = found.log_path.as_ref().filter(|path| !path.is_empty()).map(Into::into);
    container.change(|record| (record.engine_id, record.upper, record.log_path) = (id, upper, log));
    if doing(found) != Doing::Running {
        return;
    }
    let pid = found.state.as_ref().and_then(|state| state.pid).and_then(|pid| i32::try_from(pid).ok());
    let Some(who) = pid.and_then(plenum_shim::proc::identify) else { return };
    let networks = found.network_settings.as_ref().and_then(|settings| settings.networks.as_ref());
    let ends = networks.into_iter().flat_map(|networks| networks.values());
    let addresses = ends.flat_map(|end| [&end.ip_address, &end.global_ipv6_address]);
    let addresses = addresses.flatten().filter_map(|address| address.parse().ok()).collect();
    container.change(|record| {
        record.addresses = addresses;
        (record.pid, record.start, record.boot_id) = (who.pid, who.start, plenum_shim::proc::boot_id());
    });
}

/// The name is taken: by an earlier launch of ours, or by somebody.
async fn taken(inner: &Inner, id: &str, name: &str) -> RuntimeError {
    let found = inspect(&inner.engine, name, inner.config.call).await.ok().flatten();
    let labels = found.and_then(|found| found.config).and_then(|config| config.labels).unwrap_or_default();
    if labels.get(body::LABEL_INSTANCE) == Some(&inner.config.instance) {
        return RuntimeError::Exists(id.to_owned());
    }
    RuntimeError::Engine(format!(
        "the Docker engine has a container {name} that is not this agent's; remove it with `docker rm {name}`"
    ))
}
