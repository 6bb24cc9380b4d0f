//! Apps with persistent volumes, and others whose instances cannot run side by side: what they may be, and what of them may change.

use serde_json::Value;

use super::super::app::{App, Unreachable};
use super::super::error::Flaw;
use super::{Flaws, decimal};

pub(super) fn resident(app: &App, flaws: &mut Flaws) {
    let stays = app.is_resident();
    let over = app.upgrade_strategy.maximum_over_capacity;
    if over != 0.0 && (stays || app.has_volumes("external")) {
        flaws.add("/upgradeStrategy/maximumOverCapacity", format!("got {}, expected 0.0", decimal(over)));
    }
    let disabled = matches!(app.unreachable_strategy, Unreachable::Disabled(_));
    flaws.unless(!stays || disabled, "/", "unreachableStrategy must be disabled for resident tasks");
    flaws.unless(!stays || app.role != "*", "/role", "Resident apps cannot have the role *");
}

/// What is wrong with making `after` of `before`.
pub fn changes(before: &App, after: &App) -> Vec<Flaw> {
    let mut flaws = Flaws(Vec::new());
    if !before.is_resident() && !after.is_resident() {
        return flaws.0;
    }
    let same = persistent(before) == persistent(after);
    flaws.unless(same, "/", "Persistent volumes can not be changed!");
    let error = "Services with persistent volumes configured may not change resource requirements. \
                 If you need to make this change, please create a new service.";
    flaws.unless(before.cpus == after.cpus, "/cpus", error);
    flaws.unless(before.mem == after.mem, "/mem", error);
    flaws.unless(before.disk == after.disk, "/disk", error);
    flaws.unless(before.gpus == after.gpus, "/gpus", error);
    flaws.unless(before.require_ports == after.require_ports, "/requirePorts", error);
    let error = "Services with persistent volumes configured may not change host ports. \
                 If you need to make this change, please create a new service.";
    let ports = |app: &App| {
        let mut ports: Vec<Option<u16>> = app.ports().iter().map(|port| port.host).collect();
        ports.sort_unstable();
        ports
    };
    flaws.unless(ports(before) == ports(after), "/", error);
    flaws.0
}

fn persistent(app: &App) -> Vec<&Value> {
    let volumes = app.container.iter().flat_map(|c| &c.volumes);
    let mut kept: Vec<&Value> =
        volumes.filter(|v| v.get("persistent").is_some_and(|p| !p.is_null())).collect();
    kept.sort_by_key(|volume| volume.get("containerPath").and_then(Value::as_str));
    kept
}
