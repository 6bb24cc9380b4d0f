//! Versions of apps, pods, groups and deployments: `/service/marathon/v2`, as values, since they are compared and shown whole.

use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Session;
use super::apps::{Change, Deployment, ROOT, path};
use crate::error::Result;

/// What the cluster adds when it shows an app or a pod, and does not take back.
pub const SHOWN_ONLY: [&str; 14] = [
    "version",
    "versionInfo",
    "tasks",
    "tasksStaged",
    "tasksRunning",
    "tasksHealthy",
    "tasksUnhealthy",
    "deployments",
    "lastTaskFailure",
    "taskStats",
    "readinessCheckResults",
    "autoscaleStatus",
    "ports",
    "fetchedAt",
];

/// A description without what only the cluster says.
#[must_use]
pub fn bare(mut value: Value) -> Value {
    if let Value::Object(map) = &mut value {
        map.retain(|key, _| !SHOWN_ONLY.contains(&key.as_str()));
    }
    value
}

impl Session {
    /// An app's description with its version.
    ///
    /// # Errors
    /// [`crate::error::CliError`]; a refusal with status 404 where there is no such app. So it is for all that follow.
    pub async fn app_value(&self, id: &str) -> Result<Value> {
        #[derive(Deserialize)]
        struct Answer {
            app: Value,
        }
        Ok(self.get::<Answer>(&format!("{ROOT}/apps/{}", path(id)?)).await?.app)
    }

    /// An app's versions, the newest first.
    ///
    /// # Errors
    /// As above.
    pub async fn app_versions(&self, id: &str) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        struct Answer {
            versions: Vec<String>,
        }
        let mut versions = self.get::<Answer>(&format!("{ROOT}/apps/{}/versions", path(id)?)).await?.versions;
        versions.sort_by(|a, b| b.cmp(a));
        Ok(versions)
    }

    /// One of them.
    ///
    /// # Errors
    /// As above.
    pub async fn app_version(&self, id: &str, version: &str) -> Result<Value> {
        let version = crate::text::encode(version, false);
        self.get(&format!("{ROOT}/apps/{}/versions/{version}", path(id)?)).await
    }

    /// Makes an app what it was in that version.
    ///
    /// # Errors
    /// As above.
    pub async fn roll_back(&self, id: &str, version: &str, force: bool) -> Result<Change> {
        let at = format!("{ROOT}/apps/{}?force={force}", path(id)?);
        self.exchange(Method::PUT, &at, &json!({"version": version})).await
    }

    /// Changes some fields of an app.
    ///
    /// # Errors
    /// As above.
    pub async fn patch_app(&self, id: &str, fields: &Value, force: bool) -> Result<Change> {
        let at = format!("{ROOT}/apps/{}?force={force}", path(id)?);
        self.exchange(Method::PATCH, &at, fields).await
    }

    /// How all pods are.
    ///
    /// # Errors
    /// As above.
    pub async fn pods(&self) -> Result<Vec<Value>> {
        self.get(&format!("{ROOT}/pods/::status")).await
    }

    /// How a pod is.
    ///
    /// # Errors
    /// As above.
    pub async fn pod_status(&self, id: &str) -> Result<Value> {
        self.get(&format!("{ROOT}/pods/{}::status", path(id)?)).await
    }

    /// A pod's description.
    ///
    /// # Errors
    /// As above.
    pub async fn pod(&self, id: &str) -> Result<Value> {
        self.get(&format!("{ROOT}/pods/{}", path(id)?)).await
    }

    /// Creates a pod (`new`), or replaces its description.
    ///
    /// # Errors
    /// As above.
    pub async fn put_pod(&self, id: &str, pod: &Value, new: bool, force: bool) -> Result<Value> {
        if new {
            return self.exchange(Method::POST, &format!("{ROOT}/pods?force={force}"), pod).await;
        }
        self.exchange(Method::PUT, &format!("{ROOT}/pods/{}?force={force}", path(id)?), pod).await
    }

    /// Removes a pod.
    ///
    /// # Errors
    /// As above.
    pub async fn remove_pod(&self, id: &str, force: bool) -> Result<()> {
        let call = self.call(Method::DELETE, &format!("{ROOT}/pods/{}?force={force}", path(id)?));
        self.send(call).await.map(drop)
    }

    /// Ends one instance of a pod.
    ///
    /// # Errors
    /// As above.
    pub async fn kill_pod(&self, id: &str, instance: &str) -> Result<()> {
        let instance = crate::text::encode(instance, false);
        let call = self.call(Method::DELETE, &format!("{ROOT}/pods/{}::instances/{instance}", path(id)?));
        self.send(call).await.map(drop)
    }

    /// A group with everything below it; all there is for `/`.
    ///
    /// # Errors
    /// As above.
    pub async fn group(&self, id: &str) -> Result<Value> {
        let at = match id.trim_matches('/') {
            "" => format!("{ROOT}/groups"),
            id => format!("{ROOT}/groups/{}", path(id)?),
        };
        let embed = "embed=group.apps&embed=group.groups&embed=group.pods&embed=group.apps.counts";
        self.get(&format!("{at}?{embed}")).await
    }

    /// Removes a group and everything in it.
    ///
    /// # Errors
    /// As above.
    pub async fn remove_group(&self, id: &str, force: bool) -> Result<Change> {
        let at = format!("{ROOT}/groups/{}?force={force}", path(id)?);
        self.exchange(Method::DELETE, &at, &json!({})).await
    }

    /// Multiplies the instances of all apps of a group.
    ///
    /// # Errors
    /// As above.
    pub async fn scale_group(&self, id: &str, factor: f64, force: bool) -> Result<Change> {
        let at = format!("{ROOT}/groups/{}?force={force}", path(id)?);
        self.exchange(Method::PUT, &at, &json!({"scaleBy": factor})).await
    }

    /// The deployment of that id, or whose id begins so.
    ///
    /// # Errors
    /// As above; [`crate::error::CliError::Usage`] where there is none, or more than one.
    pub async fn deployment(&self, id: &str) -> Result<Deployment> {
        let mut found: Vec<Deployment> = self.deployments().await?;
        found.retain(|one| one.id.starts_with(id));
        let usage = |text: String| crate::error::CliError::Usage(text);
        match (found.pop(), found.is_empty()) {
            (Some(one), true) => Ok(one),
            (Some(_), false) => {
                Err(usage(format!("several deployments begin with {id}; give more of the id")))
            }
            (None, _) => Err(usage(format!(
                "no deployment {id} is under way: it has ended, or never was; see `plenum deployment list`"
            ))),
        }
    }

    /// Ends a deployment: takes back what it did, or (`stop`) leaves everything as it is now.
    ///
    /// # Errors
    /// As above.
    pub async fn cancel(&self, id: &str, stop: bool) -> Result<()> {
        let id = crate::text::encode(id, false);
        let call = self.call(Method::DELETE, &format!("{ROOT}/deployments/{id}?force={stop}"));
        self.send(call).await.map(drop)
    }
}
