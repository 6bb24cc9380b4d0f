//! What of the machine a container could reach, all told: for an agent that allows only some of it. Pure.

use crate::body;
use crate::spec::{DockerSpec, SANDBOX, SpecFault};
use bollard::models::MountType;
use std::path::PathBuf;

/// What a container could reach.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reach {
    /// Paths of the host that are mounted, without the sandbox.
    pub paths: Vec<PathBuf>,
    /// Volume drivers, other than the engine's own.
    pub drivers: Vec<String>,
    /// Why it is as good as the machine's root, if it is.
    pub machine: Option<&'static str>,
}

/// Reads it from what the engine would be told, options of `docker run` included.
///
/// # Errors
/// [`SpecFault`], as creating it would give.
pub fn reach(spec: &DockerSpec) -> Result<Reach, SpecFault> {
    let request = body::create(spec, "", 0)?;
    let host = request.host_config.unwrap_or_default();
    let mut paths = Vec::new();
    for bind in host.binds.iter().flatten() {
        let source = bind.split(':').next().unwrap_or_default();
        // Without a slash it is a volume of the engine.
        if source.starts_with('/') {
            paths.push(PathBuf::from(source));
        }
    }
    for mount in host.mounts.iter().flatten() {
        let sandbox = mount.target.as_deref() == Some(SANDBOX)
            && mount.source.as_deref() == Some(&*spec.sandbox.display().to_string());
        if mount.typ == Some(MountType::BIND) && !sandbox {
            paths.push(PathBuf::from(mount.source.clone().unwrap_or_default()));
        }
    }
    let mut drivers: Vec<String> = spec_drivers(&host);
    for mount in host.mounts.iter().flatten() {
        let config = mount.volume_options.as_ref().and_then(|options| options.driver_config.as_ref());
        let Some(config) = config else { continue };
        // The engine's own driver mounts what its options say: a folder or disk of the machine, for example.
        let device = config.options.as_ref().and_then(|options| options.get("device"));
        if let Some(device) = device.filter(|_| is_local(config.name.as_deref())) {
            paths.extend(device.starts_with('/').then(|| PathBuf::from(device)));
        }
        drivers.extend(config.name.clone().filter(|name| !is_local(Some(name))));
    }
    drivers.sort_unstable();
    drivers.dedup();
    let own = |mode: &Option<String>| mode.as_deref() == Some("host");
    let unconfined = host.security_opt.iter().flatten().any(|option| option.contains("unconfined"));
    let machine = [
        (host.privileged == Some(true), "it is privileged"),
        (own(&host.pid_mode), "it sees the machine's processes"),
        (own(&host.ipc_mode), "it shares the machine's IPC"),
        (host.cap_add.iter().flatten().next().is_some(), "it has capabilities of its own choice"),
        (host.devices.iter().flatten().next().is_some(), "it has devices of the machine"),
        (host.volumes_from.iter().flatten().next().is_some(), "it has volumes of other containers"),
        (unconfined, "it is unconfined"),
    ];
    let machine = machine.into_iter().find_map(|(holds, why)| holds.then_some(why));
    Ok(Reach { paths, drivers, machine })
}

fn is_local(driver: Option<&str>) -> bool {
    matches!(driver, None | Some("" | "local"))
}

/// The driver of volumes that are named without one.
fn spec_drivers(host: &bollard::models::HostConfig) -> Vec<String> {
    host.volume_driver.clone().into_iter().filter(|driver| !is_local(Some(driver))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{DockerVolume, VolumeSource};

    #[test]
    fn every_way_to_the_machine_is_seen() {
        let plain = DockerSpec::new("c", "/sandbox", "image");
        assert_eq!(reach(&plain).unwrap(), Reach::default());
        let with = |name: &str, value: &str| {
            let mut spec = plain.clone();
            spec.parameters.push((name.to_owned(), value.to_owned()));
            reach(&spec).unwrap()
        };
        assert_eq!(with("volume", "/etc:/x:ro").paths, [PathBuf::from("/etc")]);
        assert_eq!(with("mount", "type=bind,source=/etc,target=/x").paths, [PathBuf::from("/etc")]);
        assert_eq!(with("volume", "data:/x"), Reach::default());
        for (name, value) in [("privileged", "true"), ("pid", "host"), ("cap-add", "SYS_ADMIN")] {
            assert!(with(name, value).machine.is_some(), "{name}");
        }
        let device = "type=volume,source=x,target=/x,volume-driver=local,volume-opt=type=none,volume-opt=o=bind,volume-opt=device=/etc";
        assert_eq!(with("mount", device).paths, [PathBuf::from("/etc")]);
        assert_eq!(with("volume-driver", "vendor").drivers, ["vendor"]);
        let vendor = "type=volume,source=x,target=/x,volume-driver=vendor,volume-opt=device=/etc";
        assert_eq!(with("mount", vendor), Reach { drivers: vec!["vendor".to_owned()], ..Reach::default() });
        let mut spec = plain.clone();
        spec.volumes.push(DockerVolume {
            source: VolumeSource::Path("/srv".into()),
            target: "/x".to_owned(),
            read_only: true,
            propagation: None,
        });
        assert_eq!(reach(&spec).unwrap().paths, [PathBuf::from("/srv")]);
    }
}
