//! Quotas of roles, at the master: `/mesos/roles` and the call `UPDATE_QUOTA`.

use std::collections::BTreeMap;

use http::Method;
use http::header::ACCEPT;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Session, or_default};
use crate::error::Result;

/// A role with what it may have, and what it has.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Role {
    /// Its name.
    pub name: String,
    /// Its quota.
    #[serde(default, deserialize_with = "or_default")]
    pub quota: Quota,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Limits, and what counts against them. MiB of `mem` and `disk`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Quota {
    /// The most of each resource; what is not there has no limit.
    #[serde(default, deserialize_with = "or_default")]
    pub limit: BTreeMap<String, Value>,
    /// What is in use.
    #[serde(default, deserialize_with = "or_default")]
    pub consumed: BTreeMap<String, Value>,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Quota {
    /// The limits that are amounts.
    #[must_use]
    pub fn limits(&self) -> BTreeMap<String, f64> {
        self.limit.iter().filter_map(|(name, value)| Some((name.clone(), value.as_f64()?))).collect()
    }
}

impl Session {
    /// All roles that the master knows.
    ///
    /// # Errors
    /// [`crate::error::CliError`].
    pub async fn roles(&self) -> Result<Vec<Role>> {
        #[derive(Deserialize)]
        struct Answer {
            roles: Vec<Role>,
        }
        Ok(self.get::<Answer>("/mesos/roles").await?.roles)
    }

    /// Sets the limits of a role; none takes its quota away. Unless `force`, the master refuses limits below what is in use.
    ///
    /// # Errors
    /// [`crate::error::CliError`].
    pub async fn set_quota(&self, role: &str, limits: &BTreeMap<String, f64>, force: bool) -> Result<()> {
        let limits: Map<String, Value> =
            limits.iter().map(|(name, limit)| (name.clone(), json!({"value": limit}))).collect();
        let call = json!({"type": "UPDATE_QUOTA",
            "update_quota": {"force": force, "quota_configs": [{"role": role, "limits": limits}]}});
        let call = self.call(Method::POST, "/mesos/api/v1").header(ACCEPT, "application/json").json(&call);
        self.send(call).await.map(drop)
    }
}
