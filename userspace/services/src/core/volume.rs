//! Volumes that outlive the runs of an instance, and what of an offer is reserved for one. An instance with such volumes is pinned to the
//! node where they are: all that it takes is reserved there for its role, under labels that say whose it is. Names and labels are Marathon's.

use plenum_api::IdSource;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::definition::Definition;
use super::id::{InstanceId, PathId};
use super::instance::Record;
use super::matching::{Amount, Portion, thousandths};

/// The label of a reservation that names the framework it was made by.
pub const FRAMEWORK_LABEL: &str = "marathon_framework_id";
/// The label that names the instance it was made for.
pub const INSTANCE_LABEL: &str = "marathon_task_id";

/// A volume of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Local {
    /// Where it is mounted, in the sandbox.
    pub path: String,
    /// Its name on the agent: `<app>#<path>#<uuid>`.
    pub id: String,
    /// MiB.
    pub size: u64,
}

impl Local {
    /// As clients read it.
    pub fn to_json(&self, app: &PathId) -> Value {
        let uuid = self.id.rsplit('#').next().unwrap_or_default();
        json!({"runSpecId": app, "containerPath": self.path, "uuid": uuid, "persistenceId": self.id})
    }
}

/// New volumes for an instance of `definition`; none where it has none.
pub fn fresh(definition: &Definition, ids: &mut dyn IdSource) -> Vec<Local> {
    let app = definition.id().safe();
    let one = |(path, size): (String, u64)| {
        let id = format!("{app}#{path}#{}", ids.uuid_text());
        Local { path, id, size }
    };
    definition.volumes().into_iter().map(one).collect()
}

/// Whose a reserved part of an offer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The framework that reserved it.
    pub framework: String,
    /// The instance that it was reserved for.
    pub instance: InstanceId,
    /// The volume that it is.
    pub volume: Option<String>,
}

/// What is reserved for an instance with volumes, as it is offered while the instance does not run.
pub fn claimed(definition: &Definition, record: &Record, framework: &str) -> Vec<Portion> {
    let needs = definition.needs();
    let portion = |name: &str, amount, volume: Option<&Local>| Portion {
        name: name.to_owned(),
        reserved: record.role.clone(),
        amount,
        claim: Some(Box::new(Claim {
            framework: framework.to_owned(),
            instance: record.id.clone(),
            volume: volume.map(|volume| volume.id.clone()),
        })),
    };
    let scalars = [
        ("cpus", thousandths(needs.cpus)),
        ("mem", thousandths(needs.mem)),
        ("disk", thousandths(needs.disk)),
        ("gpus", i64::from(needs.gpus).saturating_mul(1000)),
    ];
    let scalars = scalars.into_iter().filter(|(_, amount)| *amount > 0);
    let scalars = scalars.map(|(name, amount)| portion(name, Amount::Scalar(amount), None));
    let volumes = record.volumes.iter().map(|v| portion("disk", Amount::Scalar(mebibytes(v.size)), Some(v)));
    let ports = record.host_ports.iter().flatten().map(|port| (u64::from(*port), u64::from(*port)));
    let ports: Vec<_> = ports.collect();
    let ports = (!ports.is_empty()).then(|| portion("ports", Amount::Ranges(ports), None));
    scalars.chain(volumes).chain(ports).collect()
}

/// A volume's size as an amount of disk.
pub(super) fn mebibytes(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX).saturating_mul(1000)
}
