//! Volumes of a task. Pure.

use super::Task;
use crate::spec::{DockerSpec, DockerVolume, SANDBOX, SpecFault, VolumeSource};
use plenum_api::mesos::Volume;
use plenum_api::mesos::container_info::DockerInfo;
use plenum_api::mesos::mount_propagation::Mode as Propagation;
use plenum_api::mesos::volume::Mode;
use plenum_api::mesos::volume::source::sandbox_path::Type as Sandbox;
use plenum_api::mesos::volume::source::{DockerVolume as Named, Type};
use std::path::{Component, Path, PathBuf};

const FIELD: &str = "container.volumes";

pub(super) fn apply(task: &Task<'_>, docker: &DockerInfo, spec: &mut DockerSpec) -> Result<(), SpecFault> {
    spec.volume_driver = docker.volume_driver.clone();
    for volume in &task.container.volumes {
        let target = target(volume)?;
        let (source, propagation) = source(task, docker, volume)?;
        spec.volumes.push(DockerVolume { source, target, read_only: volume.mode() == Mode::Ro, propagation });
    }
    Ok(())
}

fn fault(volume: &Volume, why: impl std::fmt::Display) -> SpecFault {
    SpecFault::field(FIELD, format!("{:?}: {why}", volume.container_path))
}

/// A relative path is in the sandbox, as Mesos has it.
fn target(volume: &Volume) -> Result<String, SpecFault> {
    let path = Path::new(&volume.container_path);
    let odd = |c: char| c == ':' || c == '\0' || c == '\n';
    if volume.container_path.is_empty()
        || volume.container_path.contains(odd)
        || path.components().any(|part| part == Component::ParentDir)
        || path.components().all(|part| part == Component::RootDir)
    {
        return Err(fault(volume, "give a path in the container, without '..' and ':'"));
    }
    Ok(Path::new(SANDBOX).join(path).display().to_string())
}

type Source = (VolumeSource, Option<&'static str>);

fn source(task: &Task<'_>, docker: &DockerInfo, volume: &Volume) -> Result<Source, SpecFault> {
    if volume.image.is_some() {
        return Err(fault(volume, "the engine has no volumes from images; use a container of type MESOS"));
    }
    if let Some(path) = &volume.host_path {
        return Ok((host(task, docker, volume, path)?, None));
    }
    let Some(source) = &volume.source else {
        return Err(fault(volume, "say `host_path` or `source`"));
    };
    match source.r#type() {
        Type::HostPath => {
            let info =
                source.host_path.as_ref().ok_or_else(|| fault(volume, "`source.host_path` is missing"))?;
            let propagation = match info.mount_propagation.as_ref().map(|p| p.mode()) {
                Some(Propagation::HostToContainer) => Some("rslave"),
                Some(Propagation::Bidirectional) => Some("rshared"),
                Some(Propagation::Unknown) | None => None,
            };
            Ok((host(task, docker, volume, &info.path)?, propagation))
        }
        Type::SandboxPath => {
            let info = source
                .sandbox_path
                .as_ref()
                .ok_or_else(|| fault(volume, "`source.sandbox_path` is missing"))?;
            if info.r#type() == Sandbox::Parent {
                return Err(fault(volume, "a Docker container has no parent whose sandbox it could share"));
            }
            Ok((VolumeSource::Path(inside(task, volume, &info.path)?), None))
        }
        Type::DockerVolume => {
            let info = source
                .docker_volume
                .as_ref()
                .ok_or_else(|| fault(volume, "`source.docker_volume` is missing"))?;
            named(docker, volume, info).map(|source| (source, None))
        }
        Type::Secret => Err(fault(volume, "secrets are given to Docker containers as variables only")),
        Type::CsiVolume => Err(fault(volume, "the engine has no CSI volumes; use a container of type MESOS")),
        Type::Unknown => Err(fault(volume, "this type of source is not known")),
    }
}

fn host(
    task: &Task<'_>,
    docker: &DockerInfo,
    volume: &Volume,
    path: &str,
) -> Result<VolumeSource, SpecFault> {
    if path.is_empty() || path.contains('\0') {
        return Err(fault(volume, "`host_path` is empty"));
    }
    if path.starts_with('/') {
        return Ok(VolumeSource::Path(path.into()));
    }
    if let Some(driver) = &docker.volume_driver {
        let (name, driver) = (path.to_owned(), Some(driver.clone()));
        return Ok(VolumeSource::Named { name, driver, options: Default::default() });
    }
    if !volume.container_path.starts_with('/') {
        return Err(fault(volume, "both paths are relative: the task finds this in its sandbox already"));
    }
    Ok(VolumeSource::Path(inside(task, volume, path)?))
}

/// A path in the sandbox on the host.
fn inside(task: &Task<'_>, volume: &Volume, path: &str) -> Result<PathBuf, SpecFault> {
    let normal = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    if path.is_empty() || !Path::new(path).components().all(normal) {
        return Err(fault(
            volume,
            format!("{path:?} leads out of the sandbox; give a relative path without '..'"),
        ));
    }
    Ok(task.sandbox.join(path))
}

fn named(docker: &DockerInfo, volume: &Volume, info: &Named) -> Result<VolumeSource, SpecFault> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if info.name.is_empty() || !info.name.chars().all(fits) {
        return Err(fault(volume, format!("{:?} is no name of a volume", info.name)));
    }
    if let (Some(own), Some(common)) = (&info.driver, &docker.volume_driver)
        && own != common
    {
        return Err(fault(
            volume,
            "its driver differs from `container.docker.volume_driver`; one task has one",
        ));
    }
    let options = info.driver_options.iter().flat_map(|options| &options.parameter);
    Ok(VolumeSource::Named {
        name: info.name.clone(),
        driver: info.driver.clone().or_else(|| docker.volume_driver.clone()),
        options: options.map(|option| (option.key.clone(), option.value.clone())).collect(),
    })
}
