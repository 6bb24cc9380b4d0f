//! Every path of the API with its methods and parameters.

use crate::core::schema::Standing::{self, Differs, Kept, Missing, Works};

/// A path and what may be done with it.
#[derive(Debug)]
pub struct Endpoint {
    /// The methods that are treated alike.
    pub methods: &'static [&'static str],
    /// The path; `{id}` stands for a path of an app or a group.
    pub path: &'static str,
    /// What becomes of such a request.
    pub standing: Standing,
    /// Parameters of the query.
    pub query: &'static [(&'static str, Standing)],
}

type Query = &'static [(&'static str, Standing)];

const fn at(methods: &'static [&'static str], path: &'static str, query: Query) -> Endpoint {
    Endpoint { methods, path, standing: Works, query }
}

const fn but(
    methods: &'static [&'static str],
    path: &'static str,
    standing: Standing,
    query: Query,
) -> Endpoint {
    Endpoint { methods, path, standing, query }
}

const READ: &[&str] = &["GET", "HEAD"];
const OURS: &str = "Marathon has none";
const NOT_YET: &str = "not built yet";
const BACKUP: &str = "the cluster's store is backed up, by `plenum store backup`";
const GONE: &str = "Marathon 1.8 removed it";
const NO_VOLUMES: &str = "pods have no volumes to wipe yet";
const FORCE: (&str, Standing) = ("force", Works);
const DRY: (&str, Standing) =
    ("dryRun", Differs("a `plan` besides `steps`; for each change, not only of groups"));
const EMBED: (&str, Standing) = ("embed", Works);
const WIPE: (&str, Standing) = ("wipe", Works);
const NO_WIPE: (&str, Standing) = ("wipe", Kept(NO_VOLUMES));

/// All of them.
pub const ENDPOINTS: &[Endpoint] = &[
    at(READ, "/v2/apps", &[("cmd", Works), ("id", Works), ("label", Works), EMBED]),
    at(&["POST"], "/v2/apps", &[FORCE, DRY]),
    at(&["PUT"], "/v2/apps", &[FORCE, DRY, ("partialUpdate", Works)]),
    at(&["PATCH"], "/v2/apps", &[FORCE, DRY]),
    at(READ, "/v2/apps/{id}", &[EMBED]),
    at(READ, "/v2/apps/{id}/*", &[EMBED]),
    at(&["PUT"], "/v2/apps/{id}", &[FORCE, DRY, ("partialUpdate", Works)]),
    at(&["PATCH"], "/v2/apps/{id}", &[FORCE, DRY]),
    at(
        &["DELETE"],
        "/v2/apps/{id}",
        &[("force", Differs("`true` where it is left out, as in Marathon")), DRY],
    ),
    at(&["POST"], "/v2/apps/{id}/restart", &[FORCE, DRY]),
    at(READ, "/v2/apps/{id}/tasks", &[("containerNetworks", Missing(NOT_YET))]),
    at(&["DELETE"], "/v2/apps/{id}/tasks", &[("host", Works), ("scale", Works), WIPE, FORCE]),
    at(&["DELETE"], "/v2/apps/{id}/tasks/{taskId}", &[("host", Works), ("scale", Works), WIPE, FORCE]),
    at(READ, "/v2/apps/{id}/versions", &[]),
    at(READ, "/v2/apps/{id}/versions/{version}", &[]),
    but(READ, "/v2/apps/{id}/why", Differs(OURS), &[]),
    but(READ, "/v2/apps/{id}/ended", Differs(OURS), &[]),
    at(READ, "/v2/pods", &[]),
    at(&["POST"], "/v2/pods", &[FORCE, DRY]),
    at(&["GET", "HEAD", "PUT", "DELETE"], "/v2/pods/{id}", &[FORCE]),
    at(READ, "/v2/pods/::status", &[]),
    at(READ, "/v2/pods/{id}::status", &[]),
    at(READ, "/v2/pods/{id}::versions", &[]),
    at(READ, "/v2/pods/{id}::versions/{version}", &[]),
    at(&["DELETE"], "/v2/pods/{id}::instances", &[NO_WIPE]),
    at(&["DELETE"], "/v2/pods/{id}::instances/{instanceId}", &[NO_WIPE]),
    at(READ, "/v2/groups", GROUPS),
    at(READ, "/v2/groups/{id}", GROUPS),
    but(
        READ,
        "/v2/groups/{id}/apps",
        Differs("`{\"apps\": […]}` with the parameters of `/v2/apps`"),
        &[EMBED],
    ),
    but(READ, "/v2/groups/{id}/tasks", Differs(OURS), &[]),
    but(READ, "/v2/groups/{id}/versions", Differs(GROUP_VERSIONS), &[]),
    at(READ, "/v2/groups/{id}/versions/{version}", &[("embed", Works)]),
    at(&["POST"], "/v2/groups", &[FORCE, DRY]),
    at(&["POST"], "/v2/groups/{id}", &[FORCE, DRY]),
    at(&["PUT"], "/v2/groups", &[FORCE, DRY]),
    at(&["PUT"], "/v2/groups/{id}", &[FORCE, DRY]),
    at(&["DELETE"], "/v2/groups", &[FORCE, DRY]),
    at(&["DELETE"], "/v2/groups/{id}", &[FORCE, DRY]),
    at(&["PATCH"], "/v2/groups/{id}", &[]),
    at(READ, "/v2/tasks", &[("status", Works), ("status[]", Works)]),
    at(&["POST"], "/v2/tasks/delete", &[("scale", Works), WIPE, FORCE]),
    but(READ, "/v2/tasks/unknown", Differs(OURS), &[]),
    but(&["POST"], "/v2/tasks/adopt", Differs(OURS), &[]),
    at(READ, "/v2/deployments", &[]),
    at(&["DELETE"], "/v2/deployments/{id}", &[FORCE, DRY]),
    but(
        READ,
        "/v2/events",
        Differs("streams go on where the header `Last-Event-ID` says, as an addition"),
        &[("event_type", Works), ("plan-format", Kept("Marathon 1.8 passes it over as well"))],
    ),
    at(READ, "/v2/info", &[]),
    at(READ, "/v2/leader", &[]),
    but(
        &["DELETE"],
        "/v2/leader",
        Differs("the process ends and is started again at once"),
        &[("backup", Missing(BACKUP)), ("restore", Missing(BACKUP))],
    ),
    at(READ, "/v2/queue", &[("embed", Works)]),
    at(&["DELETE"], "/v2/queue/{id}/delay", &[]),
    but(READ, "/v2/plugins", Differs("always empty: there are no plugins"), &[]),
    but(READ, "/v2/plugins/{id}/{path}", Missing("there are no plugins"), &[]),
    but(READ, "/v2/artifacts", Missing(GONE), &[]),
    but(READ, "/v2/eventSubscriptions", Missing(GONE), &[]),
    at(READ, "/ping", &[]),
    but(READ, "/metrics", Differs("gauges of what there is; no timers"), &[]),
    but(READ, "/metrics/prometheus", Differs("gauges of what there is; no timers"), &[]),
    but(READ, "/config", Missing("`/v2/info` has what there is of it"), &[]),
    but(
        &["GET", "POST"],
        "/logging",
        Missing("what is logged is a setting of the host, `logging.filter`"),
        &[],
    ),
    but(READ, "/help", Missing("this page"), &[]),
    but(READ, "/ui", Missing("Marathon's own pages are not part of this"), &[]),
    but(READ, "/", Differs("an empty page"), &[]),
];

const GROUPS: Query = &[("embed", Works)];
const GROUP_VERSIONS: &str =
    "the moments at which something in the group changed, of the last 100 changes anywhere";
