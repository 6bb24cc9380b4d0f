//! Fields of answers that are not apps, fields of pods, and types of events.

use crate::core::schema::Standing::{self, Differs, Kept, Missing, Shown};

type Fields = &'static [(&'static str, Standing)];

/// Answers by their names.
pub const ANSWERS: &[(&str, Fields)] = &[
    ("Task", TASK),
    ("Deployment", DEPLOYMENT),
    ("DeploymentResult", RESULT),
    ("Group", GROUP),
    ("QueueItem", QUEUE),
    ("Info", INFO),
    ("PodStatus", POD_STATUS),
];

/// A task of `/v2/tasks`.
pub const TASK: Fields = &[
    ("id", Shown),
    ("appId", Shown),
    ("host", Shown),
    ("ports", Shown),
    ("servicePorts", Shown),
    ("ipAddresses", Shown),
    ("slaveId", Shown),
    ("state", Shown),
    ("stagedAt", Shown),
    ("startedAt", Shown),
    ("version", Shown),
    ("healthCheckResults", Shown),
    ("checkResult", Shown),
    ("localVolumes", Shown),
    ("region", Shown),
    ("zone", Shown),
    ("role", Shown),
];

/// An item of `/v2/deployments`.
pub const DEPLOYMENT: Fields = &[
    ("id", Shown),
    ("version", Shown),
    ("affectedApps", Shown),
    ("affectedPods", Shown),
    ("steps", Shown),
    ("currentActions", Shown),
    ("currentStep", Shown),
    ("totalSteps", Shown),
];

/// What a change is answered with.
pub const RESULT: Fields = &[("version", Shown), ("deploymentId", Shown)];

/// A group.
pub const GROUP: Fields = &[
    ("id", Shown),
    ("apps", Shown),
    ("groups", Shown),
    ("pods", Shown),
    ("dependencies", Shown),
    ("version", Differs("when something in it last changed; in Marathon, when anything did")),
    ("enforceRole", Shown),
];

/// An item of `/v2/queue`.
pub const QUEUE: Fields = &[
    ("count", Shown),
    ("role", Differs("left out for `*`")),
    ("since", Shown),
    ("delay", Shown),
    ("processedOffersSummary", Shown),
    ("lastUnusedOffers", Differs("offers have no id and no resources")),
    ("app", Shown),
    ("pod", Shown),
];

/// `/v2/info`.
pub const INFO: Fields = &[
    ("name", Shown),
    ("version", Differs("that of the Marathon whose API this is")),
    ("buildref", Shown),
    ("elected", Shown),
    ("leader", Shown),
    ("frameworkId", Shown),
    ("marathon_config", Differs("what there is of it")),
    ("zookeeper_config", Kept("always empty: there is no ZooKeeper")),
    ("http_config", Kept("always empty")),
];

/// Fields of the status of a pod.
pub const POD_STATUS: Fields = &[
    ("id", Shown),
    ("status", Shown),
    ("instances[].id", Shown),
    ("instances[].status", Shown),
    ("instances[].statusSince", Shown),
    ("instances[].conditions", Kept("always empty, as in Marathon")),
    ("instances[].agentHostname", Shown),
    ("instances[].agentId", Shown),
    ("instances[].agentRegion", Shown),
    ("instances[].agentZone", Shown),
    ("instances[].resources", Shown),
    ("instances[].networks[].name", Shown),
    ("instances[].networks[].addresses", Shown),
    ("instances[].containers[].name", Shown),
    ("instances[].containers[].status", Shown),
    ("instances[].containers[].containerId", Shown),
    ("instances[].containers[].endpoints[].name", Shown),
    ("instances[].containers[].endpoints[].allocatedHostPort", Shown),
    ("instances[].containers[].endpoints[].healthy", Shown),
    (
        "instances[].containers[].termination.exitCode",
        Differs("where the node tells it: of a command that ended by itself"),
    ),
    ("instances[].containers[].termination.message", Shown),
    ("instances[].containers[].conditions", Shown),
    ("instances[].localVolumes", Kept("always empty: pods have no persistent volumes yet")),
    ("instances[].specReference", Shown),
    ("instances[].role", Shown),
    (
        "terminationHistory[]",
        Differs("the last ten that were asked to end and the last ten that were not; for a week"),
    ),
];

/// Types of events.
pub const EVENTS: Fields = &[
    ("api_post_event", Shown),
    ("pod_created_event", Shown),
    ("pod_updated_event", Shown),
    ("pod_deleted_event", Shown),
    ("scheduler_registered_event", Shown),
    ("scheduler_reregistered_event", Shown),
    ("scheduler_disconnected_event", Shown),
    ("subscribe_event", Missing("Marathon 1.8 removed callbacks")),
    ("unsubscribe_event", Missing("Marathon 1.8 removed callbacks")),
    ("event_stream_attached", Shown),
    ("event_stream_detached", Shown),
    ("add_health_check_event", Shown),
    ("remove_health_check_event", Shown),
    ("failed_health_check_event", Shown),
    ("health_status_changed_event", Shown),
    ("unhealthy_instance_kill_event", Shown),
    (
        "unhealthy_task_kill_event",
        Differs(
            "the older name of `unhealthy_instance_kill_event`: sent to those who name it in `event_type`",
        ),
    ),
    ("group_change_success", Shown),
    ("group_change_failed", Shown),
    ("deployment_success", Shown),
    ("deployment_failed", Shown),
    ("deployment_info", Shown),
    ("deployment_step_success", Shown),
    ("deployment_step_failure", Shown),
    ("app_terminated_event", Shown),
    ("status_update_event", Shown),
    ("instance_changed_event", Shown),
    ("unknown_instance_terminated_event", Shown),
    ("instance_health_changed_event", Shown),
    ("framework_message_event", Shown),
    ("gap", Differs("an addition: events were missed, to one who came back with `Last-Event-ID`")),
];
