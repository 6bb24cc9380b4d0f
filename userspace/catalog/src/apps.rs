//! The catalog's way to the service scheduler and to the master: it installs by creating an app and uninstalls by deleting it.

use std::time::Duration;

use http::StatusCode;
use plenum_base::client::{Client, ClientError};
use serde_json::{Map, Value};

use crate::api::error::CosmosError;
use crate::api::packages::InstalledApp;

/// Clients of the two, and where they are.
#[derive(Clone, Debug)]
pub struct Apps {
    /// Shows the catalog's certificate to the service scheduler.
    pub services: Client,
    /// The scheduler's base address, such as `https://127.88.0.1:8080`.
    pub services_url: String,
    /// Shows the catalog's certificate to the master.
    pub master: Client,
    /// The master's base address.
    pub master_url: String,
}

const PATIENCE: Duration = Duration::from_secs(20);

fn unreachable(error: &ClientError) -> CosmosError {
    CosmosError::unavailable(&error.to_string())
}

impl Apps {
    /// Every app that came from a package.
    pub async fn installed(&self) -> Result<Vec<InstalledApp>, CosmosError> {
        let url = format!("{}/v2/apps", self.services_url);
        let reply =
            self.services.get(&url).deadline(PATIENCE).send().await.map_err(|error| unreachable(&error))?;
        let status = reply.status;
        let body = reply.bytes().await.map_err(|error| unreachable(&error))?;
        let answer: Option<Value> = serde_json::from_slice(&body).ok();
        match answer.as_ref().and_then(|answer| answer.get("apps")).and_then(Value::as_array) {
            Some(apps) if status.is_success() => Ok(apps.iter().filter_map(InstalledApp::read).collect()),
            _ => Err(CosmosError::services(status.as_u16(), &String::from_utf8_lossy(&body))),
        }
    }

    /// Creates an app and gives its id.
    pub async fn create(&self, app: &Map<String, Value>) -> Result<String, CosmosError> {
        let url = format!("{}/v2/apps", self.services_url);
        let call = self.services.post(&url).json(app).deadline(PATIENCE);
        let reply = call.send().await.map_err(|error| unreachable(&error))?;
        let status = reply.status;
        let body = reply.bytes().await.map_err(|error| unreachable(&error))?;
        if status == StatusCode::CONFLICT {
            return Err(CosmosError::already_installed());
        }
        let created: Option<Value> = serde_json::from_slice(&body).ok();
        match created.as_ref().and_then(|app| app.get("id")).and_then(Value::as_str) {
            Some(id) if status.is_success() => Ok(id.to_owned()),
            _ => Err(CosmosError::services(status.as_u16(), &String::from_utf8_lossy(&body))),
        }
    }

    /// Deletes an app. One that is gone already counts as deleted: the request may be a repetition.
    pub async fn delete(&self, id: &str) -> Result<(), CosmosError> {
        let url = format!("{}/v2/apps/{}?force=true", self.services_url, id.trim_start_matches('/'));
        let reply = self
            .services
            .delete(&url)
            .deadline(PATIENCE)
            .send()
            .await
            .map_err(|error| unreachable(&error))?;
        let status = reply.status;
        if status.is_success() || status == StatusCode::NOT_FOUND {
            return Ok(());
        }
        let body = reply.bytes().await.map_err(|error| unreachable(&error))?;
        Err(CosmosError::services(status.as_u16(), &String::from_utf8_lossy(&body)))
    }

    /// Tears down the framework that a deleted app registered, if exactly one has the name.
    pub async fn teardown(&self, name: &str) -> Result<(), CosmosError> {
        let url = format!("{}/frameworks", self.master_url);
        let reply =
            self.master.get(&url).deadline(PATIENCE).send().await.map_err(|error| unreachable(&error))?;
        let frameworks: Value = reply.json().await.map_err(|error| unreachable(&error))?;
        let named = |framework: &&Value| framework.get("name").and_then(Value::as_str) == Some(name);
        let ids: Vec<String> = frameworks
            .get("frameworks")
            .and_then(Value::as_array)
            .map(Vec::as_slice)
            .unwrap_or_default()
            .iter()
            .filter(named)
            .filter_map(|framework| Some(framework.get("id")?.as_str()?.to_owned()))
            .collect();
        let [id] = ids.as_slice() else {
            return if ids.is_empty() { Ok(()) } else { Err(CosmosError::multiple_frameworks(name, &ids)) };
        };
        let url = format!("{}/teardown", self.master_url);
        let form = "application/x-www-form-urlencoded";
        let call = self.master.post(&url).header(http::header::CONTENT_TYPE, form);
        let call = call.body(plenum_base::client::full(format!("frameworkId={id}"))).deadline(PATIENCE);
        call.send().await.map_err(|error| unreachable(&error))?;
        Ok(())
    }
}
