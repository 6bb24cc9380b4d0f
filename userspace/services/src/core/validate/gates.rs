//! What Marathon takes and this release does not: refused, so that nobody believes to have it. Each line goes when what it names comes.

use serde_json::Value;

use super::super::app::App;
use super::super::schema::{NO_CSI, NO_DISKS};
use super::Flaws;

pub(super) fn gates(app: &App, flaws: &mut Flaws) {
    let custom = !app.executor.is_empty() && app.executor != "//cmd";
    let error = "custom executors are not supported: leave it empty or use '//cmd'";
    flaws.unless(!custom, "/executor", error);
    let error = "the agent runs one health check a task: give one";
    flaws.unless(app.health_checks.len() <= 1, "/healthChecks", error);
    let volumes = app.container.iter().flat_map(|c| &c.volumes);
    for (i, volume) in volumes.enumerate() {
        let some = |key: &str| volume.get(key).filter(|v| !v.is_null());
        let path = format!("/container/volumes({i})");
        let kind = some("persistent").and_then(|p| p.get("type")).and_then(Value::as_str);
        let root = kind.is_none_or(|kind| kind == "root");
        flaws.unless(root, &format!("{path}/persistent/type"), NO_DISKS);
        let csi = some("external").and_then(|e| e.get("provider")).and_then(Value::as_str) == Some("csi");
        flaws.unless(!csi, &format!("{path}/external/provider"), NO_CSI);
    }
}
