//! What the machine offers when the configuration does not say: resources, boot id, attributes.

use std::path::Path;

use plenum_api::mesos::{Attribute, Resource, value};
use plenum_api::resources::Resources;

/// Ports that private agents of DC/OS offer: everything unprivileged but the ports of its own services.
pub const PRIVATE_PORTS: &str = "[1025-2180,2182-3887,3889-5049,5052-8079,8082-8180,8182-32000]";
/// Ports that public agents of DC/OS offer.
pub const PUBLIC_PORTS: &str = "[1-21,23-5050,5052-32000]";

/// Why the configuration of resources or attributes cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The text of `resources`.
    #[error("resources: {0}")]
    Resources(String),
    /// GPUs that are not there, or parts of one.
    #[error(
        "resources: {offered} GPUs are to be offered and the device files of {known} are known; \
         list the files of each under `agent.devices.gpus`, or offer fewer"
    )]
    Gpus {
        /// In `resources`.
        offered: f64,
        /// Known.
        known: u32,
    },
    /// The text of `attributes`.
    #[error("attributes: `{0}` is not `name:value`; write for example `rack:a1;ssd:true`")]
    Attribute(String),
}

/// GPUs are whole, and each that is offered has device files.
///
/// # Errors
/// [`MachineError::Gpus`].
pub fn check_gpus(resources: &[Resource], known: u32) -> Result<(), MachineError> {
    let gpus = resources.iter().filter(|resource| resource.name == "gpus");
    let offered: f64 = gpus.filter_map(|resource| resource.scalar.as_ref()).map(|scalar| scalar.value).sum();
    if offered.fract() != 0.0 || offered > f64::from(known) {
        return Err(MachineError::Gpus { offered, known });
    }
    Ok(())
}

/// What is not configured is measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// Processors.
    pub cpus: f64,
    /// MiB of memory in all.
    pub mem: u64,
    /// MiB of disk in all, below the working folder.
    pub disk: u64,
}

/// Measures this machine.
pub fn measure(work_dir: &Path) -> Measured {
    let cpus = std::thread::available_parallelism().map_or(1.0, |count| count.get() as f64);
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok())
        .unwrap_or(0);
    let disk = nix::sys::statvfs::statvfs(work_dir)
        .map_or(0, |stat| stat.blocks().saturating_mul(stat.fragment_size()) / (1024 * 1024));
    Measured { cpus, mem: kib / 1024, disk }
}

/// Leaves something to the machine itself: all but `spare`, or half where that is more.
fn leave(total: u64, spare: u64) -> u64 {
    if total > spare.saturating_mul(2) { total - spare } else { total / 2 }
}

/// The resources to offer: what `text` says, and for names it does not say what was measured (memory less 1 GiB, disk less 5 GiB,
/// or half of it where that is more), `gpus` if there are any, and `ports`.
///
/// # Errors
/// [`MachineError::Resources`].
pub fn resources(
    text: &str,
    role: &str,
    measured: Measured,
    gpus: u32,
    ports: &str,
) -> Result<Vec<Resource>, MachineError> {
    let parse =
        |text: &str| Resources::parse(text, role).map_err(|error| MachineError::Resources(error.to_string()));
    let mut all = parse(text)?.to_mesos();
    let has = |all: &[Resource], name: &str| all.iter().any(|resource| resource.name == name);
    let rest = [
        ("cpus", format!("cpus:{}", measured.cpus)),
        ("mem", format!("mem:{}", leave(measured.mem, 1024))),
        ("disk", format!("disk:{}", leave(measured.disk, 5 * 1024))),
        ("gpus", format!("gpus:{gpus}")),
        ("ports", format!("ports:{ports}")),
    ];
    for (name, text) in rest {
        if !has(&all, name) && (name != "gpus" || gpus > 0) {
            all.extend(parse(&text)?.to_mesos());
        }
    }
    Ok(all)
}

/// Attributes as Mesos' flag has them: `rack:a1;level:10;ports:[1-2]`.
///
/// # Errors
/// [`MachineError::Attribute`].
pub fn attributes(text: &str) -> Result<Vec<Attribute>, MachineError> {
    let parts = text.split(';').map(str::trim).filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (name, value) = part
                .split_once(':')
                .map(|(name, value)| (name.trim(), value.trim()))
                .filter(|(name, value)| !name.is_empty() && !value.is_empty())
                .ok_or_else(|| MachineError::Attribute(part.to_owned()))?;
            let mut attribute = Attribute { name: name.to_owned(), ..Default::default() };
            if let Some(ranges) = ranges(value) {
                attribute.set_type(value::Type::Ranges);
                attribute.ranges = Some(value::Ranges { range: ranges });
            } else if let Some(number) = value.parse::<f64>().ok().filter(|number| number.is_finite()) {
                attribute.set_type(value::Type::Scalar);
                attribute.scalar = Some(value::Scalar { value: number });
            } else {
                attribute.set_type(value::Type::Text);
                attribute.text = Some(value::Text { value: value.to_owned() });
            }
            Ok(attribute)
        })
        .collect()
}

fn ranges(text: &str) -> Option<Vec<value::Range>> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    inner
        .split(',')
        .map(|part| {
            let (begin, end) = part.trim().split_once('-')?;
            Some(value::Range { begin: begin.trim().parse().ok()?, end: end.trim().parse().ok()? })
        })
        .collect()
}

/// Differs after each boot.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_is_measured() {
        let measured = Measured { cpus: 4.0, mem: 8192, disk: 6000 };
        let get = |all: &[Resource], name: &str| {
            let one = all.iter().find(|one| one.name == name).unwrap();
            one.scalar.as_ref().map(|scalar| scalar.value)
        };
        let all = resources("cpus:2;gpus:1", "*", measured, 2, "[31000-32000]").unwrap();
        assert_eq!(get(&all, "cpus"), Some(2.0));
        assert_eq!(get(&all, "gpus"), Some(1.0));
        assert_eq!(get(&all, "mem"), Some(7168.0));
        assert_eq!(get(&all, "disk"), Some(3000.0), "half, where the spare would be more");
        assert_eq!(all.iter().filter(|one| one.name == "ports").count(), 1);
        assert!(check_gpus(&all, 1).is_ok() && check_gpus(&all, 0).is_err());
        let half = resources("gpus:0.5", "*", measured, 2, "[31000-32000]").unwrap();
        assert!(check_gpus(&half, 2).unwrap_err().to_string().contains("agent.devices.gpus"));
        assert!(resources("cpus:lots", "*", measured, 0, PRIVATE_PORTS).is_err());
        assert_eq!(get(&resources("", "*", measured, 2, PUBLIC_PORTS).unwrap(), "gpus"), Some(2.0));
        assert!(resources("", "*", measured, 0, PUBLIC_PORTS).unwrap().iter().all(|one| one.name != "gpus"));
    }

    #[test]
    fn attributes_have_types() {
        let all = attributes("rack:a1; level:10 ;span:[1-2,5-9]").unwrap();
        let types: Vec<value::Type> = all.iter().map(Attribute::r#type).collect();
        assert_eq!(types, [value::Type::Text, value::Type::Scalar, value::Type::Ranges]);
        assert!(attributes("").unwrap().is_empty());
        for bad in ["rack", ":x", "x:"] {
            assert!(attributes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn this_machine_can_be_measured() {
        let measured = measure(Path::new("/"));
        assert!(measured.cpus >= 1.0 && measured.mem > 0 && measured.disk > 0);
        assert!(!boot_id().is_empty());
    }
}
