//! Apps, their tasks, deployments and explanations: `/service/marathon/v2`.

use std::collections::BTreeMap;

use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Session, or_default, quantity};
use crate::error::{CliError, Result};
use crate::text::encode;

pub(super) const ROOT: &str = "/service/marathon/v2";

/// An app. What has no field of its own is in `other`, so that nothing is lost on the way to `-o json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct App {
    /// Its id, with a slash in front.
    pub id: String,
    /// Instances wanted.
    #[serde(default, deserialize_with = "or_default")]
    pub instances: u64,
    /// Cores an instance.
    #[serde(default, with = "quantity")]
    pub cpus: f64,
    /// Mebibytes an instance.
    #[serde(default, with = "quantity")]
    pub mem: f64,
    /// The moment of the last change.
    #[serde(default, deserialize_with = "or_default")]
    pub version: String,
    /// Instances that are being started.
    #[serde(default, deserialize_with = "or_default")]
    pub tasks_staged: u64,
    /// Instances that run.
    #[serde(default, deserialize_with = "or_default")]
    pub tasks_running: u64,
    /// Instances whose checks pass.
    #[serde(default, deserialize_with = "or_default")]
    pub tasks_healthy: u64,
    /// Instances whose checks fail.
    #[serde(default, deserialize_with = "or_default")]
    pub tasks_unhealthy: u64,
    /// Health checks.
    #[serde(default, deserialize_with = "or_default")]
    pub health_checks: Vec<Value>,
    /// Labels.
    #[serde(default, deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
    /// Deployments under way.
    #[serde(default, deserialize_with = "or_default")]
    pub deployments: Vec<Reference>,
    /// Its instances; only where one app was asked for.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<Task>,
    /// The last failure of an instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_task_failure: Option<Failure>,
    /// Why it has as many instances as it has, where that is left to the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscale_status: Option<Scaling>,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl App {
    /// How many instances are as they should be: healthy where there are checks, running elsewhere.
    #[must_use]
    pub fn good(&self) -> u64 {
        if self.health_checks.is_empty() { self.tasks_running } else { self.tasks_healthy }
    }

    /// Whether everything is as wanted and nothing is under way.
    #[must_use]
    pub fn settled(&self) -> bool {
        self.deployments.is_empty() && self.good() >= self.instances && self.tasks_unhealthy == 0
    }
}

/// A deployment's id.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// The id.
    pub id: String,
}

/// Why an instance ended.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// The task.
    #[serde(default, deserialize_with = "or_default")]
    pub task_id: String,
    /// Its last state.
    #[serde(default, deserialize_with = "or_default")]
    pub state: String,
    /// The reason in words.
    #[serde(default, deserialize_with = "or_default")]
    pub message: String,
    /// The node's name.
    #[serde(default, deserialize_with = "or_default")]
    pub host: String,
    /// The node's id.
    #[serde(default, deserialize_with = "or_default")]
    pub slave_id: String,
    /// When.
    #[serde(default, deserialize_with = "or_default")]
    pub timestamp: String,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// An instance of an app.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Task {
    /// Its id.
    pub id: String,
    /// The node's name.
    #[serde(default, deserialize_with = "or_default")]
    pub host: String,
    /// The node's id.
    #[serde(default, deserialize_with = "or_default")]
    pub slave_id: String,
    /// `TASK_RUNNING` and the like.
    #[serde(default, deserialize_with = "or_default")]
    pub state: String,
    /// Host ports.
    #[serde(default, deserialize_with = "or_default")]
    pub ports: Vec<u16>,
    /// When it was launched.
    #[serde(default, deserialize_with = "or_default")]
    pub staged_at: String,
    /// When it began to run.
    #[serde(default, deserialize_with = "or_default")]
    pub started_at: String,
    /// The app's version that it runs.
    #[serde(default, deserialize_with = "or_default")]
    pub version: String,
    /// What the checks say.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub health_check_results: Vec<Health>,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// What a check says of an instance.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// Whether it passes.
    #[serde(default, deserialize_with = "or_default")]
    pub alive: bool,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A deployment under way.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deployment {
    /// Its id.
    pub id: String,
    /// The apps it changes.
    #[serde(default, deserialize_with = "or_default")]
    pub affected_apps: Vec<String>,
    /// The step at work, from 1.
    #[serde(default, deserialize_with = "or_default")]
    pub current_step: u64,
    /// All steps.
    #[serde(default, deserialize_with = "or_default")]
    pub total_steps: u64,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Deployment {
    /// Whether it changes the app or pod of that id.
    #[must_use]
    pub fn changes(&self, id: &str) -> bool {
        let pods = self.other.get("affectedPods").and_then(Value::as_array).into_iter().flatten();
        self.affected_apps.iter().any(|one| one == id) || pods.into_iter().any(|one| one == id)
    }
}

/// The answer to a change.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// The deployment that carries it out.
    #[serde(default, deserialize_with = "or_default")]
    pub deployment_id: String,
    /// The version it makes.
    #[serde(default, deserialize_with = "or_default")]
    pub version: String,
}

/// Why an app is not as wanted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Why {
    /// The app's id.
    #[serde(default, deserialize_with = "or_default")]
    pub app: String,
    /// What it waits for, in one sentence.
    #[serde(default)]
    pub blocker: Option<String>,
    /// Instances still to be launched.
    #[serde(default, deserialize_with = "or_default")]
    pub missing: u64,
    /// Seconds until the next launch after failures.
    #[serde(default, deserialize_with = "or_default")]
    pub delay_left_seconds: u64,
    /// Everything it waits for, the worst first; a cluster of an earlier version names none.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub blockers: Vec<InTheWay>,
    /// Why it has as many instances as it has, where that is left to the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscale: Option<Scaling>,
    /// Each node's verdict.
    #[serde(default, deserialize_with = "or_default")]
    pub nodes: Vec<Verdict>,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// What was found about the number of an app's instances.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Scaling {
    /// So many are wanted.
    pub current: u64,
    /// So many are right.
    pub desired: u64,
    /// The fewest.
    pub min: u64,
    /// The most.
    pub max: u64,
    /// Why.
    pub why: String,
    /// When that was found.
    pub at: String,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// One thing that an app waits for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InTheWay {
    /// In a sentence.
    #[serde(default, deserialize_with = "or_default")]
    pub text: String,
    /// Since when, as a date and time.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub since: String,
    /// What would help.
    #[serde(default, deserialize_with = "or_default")]
    pub fix: String,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// What a node's last offer meant for an app.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// The node's id.
    #[serde(default, deserialize_with = "or_default")]
    pub agent_id: String,
    /// The node's name.
    #[serde(default, deserialize_with = "or_default")]
    pub host: String,
    /// Whether an instance fits.
    #[serde(default, deserialize_with = "or_default")]
    pub fits: bool,
    /// The rules that were broken.
    #[serde(default, deserialize_with = "or_default")]
    pub broken: Vec<Broken>,
    /// When the offer came.
    #[serde(default, deserialize_with = "or_default")]
    pub at: String,
}

/// A rule that a node broke.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Broken {
    /// Marathon's name for the kind of rule.
    pub reason: String,
    /// The rule.
    pub rule: String,
    /// What it asks for.
    pub needed: String,
    /// What there was.
    pub had: String,
    /// The nearest change that would help.
    pub fix: String,
}

/// The path of an app's id, which may be typed without its first slash.
pub(super) fn path(id: &str) -> Result<String> {
    let id = id.trim_matches('/');
    if id.is_empty() {
        return Err(CliError::Usage("an app's id is missing; `plenum app list` shows them".to_owned()));
    }
    Ok(encode(id, true))
}

impl Session {
    /// All apps.
    ///
    /// # Errors
    /// [`CliError`].
    pub async fn apps(&self) -> Result<Vec<App>> {
        #[derive(Deserialize)]
        struct Answer {
            apps: Vec<App>,
        }
        let embed = "embed=apps.counts&embed=apps.deployments";
        Ok(self.get::<Answer>(&format!("{ROOT}/apps?{embed}")).await?.apps)
    }

    /// One app with its instances.
    ///
    /// # Errors
    /// [`CliError`]; a refusal with status 404 where there is no such app.
    pub async fn app(&self, id: &str) -> Result<App> {
        #[derive(Deserialize)]
        struct Answer {
            app: App,
        }
        let embed = "embed=app.tasks&embed=app.counts&embed=app.deployments&embed=app.lastTaskFailure";
        Ok(self.get::<Answer>(&format!("{ROOT}/apps/{}?{embed}", path(id)?)).await?.app)
    }

    /// Creates an app or replaces its whole description.
    ///
    /// # Errors
    /// [`CliError`].
    pub async fn put_app(&self, id: &str, app: &Value, force: bool) -> Result<Change> {
        let at = format!("{ROOT}/apps/{}?partialUpdate=false&force={force}", path(id)?);
        self.exchange(Method::PUT, &at, app).await
    }

    /// Creates or replaces several apps in one deployment.
    ///
    /// # Errors
    /// [`CliError`].
    pub async fn put_apps(&self, apps: &Value, force: bool) -> Result<Change> {
        self.exchange(Method::PUT, &format!("{ROOT}/apps?partialUpdate=false&force={force}"), apps).await
    }

    /// Creates or updates a group of apps in one deployment.
    ///
    /// # Errors
    /// [`CliError`].
    pub async fn put_group(&self, group: &Value, force: bool) -> Result<Change> {
        self.exchange(Method::PUT, &format!("{ROOT}/groups?force={force}"), group).await
    }

    /// Sets the number of instances.
    ///
    /// # Errors
    /// [`CliError`].
    pub async fn scale(&self, id: &str, instances: u64, force: bool) -> Result<Change> {
        let at = format!("{ROOT}/apps/{}?force={force}", path(id)?);
        self.exchange(Method::PATCH, &at, &json!({"instances": instances})).await
    }

    /// Replaces all instances, a few at a time.
    ///
    /// # Errors
    /// [`CliError`].
    pub async fn restart(&self, id: &str, force: bool) -> Result<Change> {
        let at = format!("{ROOT}/apps/{}/restart?force={force}", path(id)?);
        self.exchange(Method::POST, &at, &json!({})).await
    }

    /// Ends these tasks; others take their place, unless their apps shrink with them (`scale`). `wipe` destroys their volumes.
    ///
    /// # Errors
    /// [`CliError`].
    pub async fn kill_tasks(&self, tasks: &[String], scale: bool, wipe: bool, force: bool) -> Result<()> {
        let at = format!("{ROOT}/tasks/delete?scale={scale}&wipe={wipe}&force={force}");
        self.exchange::<Value>(Method::POST, &at, &json!({"ids": tasks})).await.map(drop)
    }

    /// What runs or lies on nodes and is wanted by nobody.
    ///
    /// # Errors
    /// [`CliError`].
    pub async fn unknown_tasks(&self) -> Result<Value> {
        self.get(&format!("{ROOT}/tasks/unknown")).await
    }

    /// Makes such tasks instances of their apps.
    ///
    /// # Errors
    /// [`CliError`].
    pub async fn adopt(&self, tasks: &[String]) -> Result<Value> {
        self.exchange(Method::POST, &format!("{ROOT}/tasks/adopt"), &json!({"ids": tasks})).await
    }

    /// Removes an app and its instances.
    ///
    /// # Errors
    /// [`CliError`].
    pub async fn remove(&self, id: &str, force: bool) -> Result<Change> {
        let at = format!("{ROOT}/apps/{}?force={force}", path(id)?);
        self.exchange(Method::DELETE, &at, &json!({})).await
    }

    /// Why an app is not as wanted.
    ///
    /// # Errors
    /// [`CliError`].
    pub async fn why(&self, id: &str) -> Result<Why> {
        self.get(&format!("{ROOT}/apps/{}/why", path(id)?)).await
    }

    /// Deployments under way.
    ///
    /// # Errors
    /// [`CliError`].
    pub async fn deployments(&self) -> Result<Vec<Deployment>> {
        self.get(&format!("{ROOT}/deployments")).await
    }
}
