//! Containers: their image and its credentials, and GPUs, which not all kinds can have.

use serde_json::Value;

use super::super::app::App;
use super::Flaws;

pub(super) fn container(app: &App, flaws: &mut Flaws) {
    let Some(container) = &app.container else { return };
    let docker = container.kind == "DOCKER";
    flaws.unless(!docker || container.docker.is_some(), "/container/docker", "not defined");
    let gpus = "GPU resources only work with the Mesos containerizer";
    flaws.unless(!docker || app.gpus == 0, "/", gpus);
    let config = container.docker.as_ref().and_then(|d| d.pull_config.as_ref());
    let path = "/container/docker/pullConfig";
    let secret = config.and_then(|c| c.get("secret")).and_then(Value::as_str);
    if docker {
        flaws.unless(config.is_none(), path, "pullConfig is not supported with Docker containerizer");
    } else {
        let known = secret.is_none_or(|secret| app.secrets.contains_key(secret));
        flaws.unless(known, path, "pullConfig.secret must refer to an existing secret");
    }
}
