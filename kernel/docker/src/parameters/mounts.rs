//! The options that mount something: `volume`, `mount`, `tmpfs`. Pure.

use super::parse::{bytes, pair, switch};
use crate::body::Draft;
use bollard::models::{
    Mount, MountBindOptions, MountBindOptionsPropagationEnum as Propagation, MountTmpfsOptions, MountType,
    MountVolumeOptions, MountVolumeOptionsDriverConfig,
};

/// `source:target[:words]`, or a target alone.
pub fn volume(draft: &mut Draft, text: &str) -> Result<(), String> {
    let target = text.split(':').nth(1).unwrap_or(text);
    if !target.starts_with('/') {
        return Err(format!("{text:?}: the path in the container must be absolute"));
    }
    if text.contains(':') {
        draft.host.binds.get_or_insert_default().push(text.to_owned());
    } else {
        draft.body.volumes.get_or_insert_default().push(text.to_owned());
    }
    Ok(())
}

/// `/target[:options]`.
pub fn tmpfs(draft: &mut Draft, text: &str) -> Result<(), String> {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    if !target.starts_with('/') {
        return Err(format!("{text:?}: the path in the container must be absolute"));
    }
    draft.host.tmpfs.get_or_insert_default().insert(target.to_owned(), options.to_owned());
    Ok(())
}

/// `type=bind,source=/a,target=/b,...`.
pub fn mount(draft: &mut Draft, text: &str) -> Result<(), String> {
    let mut mount = Mount { typ: Some(MountType::VOLUME), ..Mount::default() };
    for word in text.split(',') {
        let (name, value) = pair(word)?;
        field(&mut mount, &name, value)?;
    }
    if !mount.target.as_deref().unwrap_or_default().starts_with('/') {
        return Err(format!("{text:?}: say target=/path, where it is shown in the container"));
    }
    draft.host.mounts.get_or_insert_default().push(mount);
    Ok(())
}

fn field(mount: &mut Mount, name: &str, value: String) -> Result<(), String> {
    match name {
        "type" => {
            mount.typ = Some(match value.as_str() {
                "bind" => MountType::BIND,
                "volume" => MountType::VOLUME,
                "tmpfs" => MountType::TMPFS,
                _ => return Err(format!("type {value:?}: use bind, volume or tmpfs")),
            });
        }
        "source" | "src" => mount.source = Some(value),
        "target" | "destination" | "dst" => mount.target = Some(value),
        "readonly" | "ro" => mount.read_only = Some(switch(&value)?),
        "consistency" => mount.consistency = Some(value),
        "bind-propagation" => {
            let propagation = match value.as_str() {
                "private" => Propagation::PRIVATE,
                "rprivate" => Propagation::RPRIVATE,
                "shared" => Propagation::SHARED,
                "rshared" => Propagation::RSHARED,
                "slave" => Propagation::SLAVE,
                "rslave" => Propagation::RSLAVE,
                _ => return Err(format!("bind-propagation {value:?}: use rprivate, rslave or rshared")),
            };
            let options = mount.bind_options.get_or_insert_with(MountBindOptions::default);
            options.propagation = Some(propagation);
        }
        "volume-nocopy" => volume_options(mount).no_copy = Some(switch(&value)?),
        "volume-label" => {
            let (name, value) = pair(&value)?;
            volume_options(mount).labels.get_or_insert_default().insert(name, value);
        }
        "volume-driver" => driver(mount).name = Some(value),
        "volume-opt" => {
            let (name, value) = pair(&value)?;
            driver(mount).options.get_or_insert_default().insert(name, value);
        }
        "tmpfs-size" => tmpfs_options(mount).size_bytes = Some(bytes(&value)?),
        "tmpfs-mode" => {
            let mode =
                i64::from_str_radix(&value, 8).map_err(|_| format!("tmpfs-mode {value:?} is not octal"))?;
            tmpfs_options(mount).mode = Some(mode);
        }
        _ => return Err(format!("a mount has no field {name:?}; it has type, source, target, readonly")),
    }
    Ok(())
}

fn volume_options(mount: &mut Mount) -> &mut MountVolumeOptions {
    mount.volume_options.get_or_insert_with(MountVolumeOptions::default)
}

fn driver(mount: &mut Mount) -> &mut MountVolumeOptionsDriverConfig {
    volume_options(mount).driver_config.get_or_insert_with(MountVolumeOptionsDriverConfig::default)
}

fn tmpfs_options(mount: &mut Mount) -> &mut MountTmpfsOptions {
    mount.tmpfs_options.get_or_insert_with(MountTmpfsOptions::default)
}
