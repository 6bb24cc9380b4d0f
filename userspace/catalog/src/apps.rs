//! The catalog's way to the service scheduler and to the master: it installs by creating an app and uninstalls by deleting it.

use http::header::CONTENT_TYPE;
use http::{HeaderName, StatusCode};
use plenum_base::client::{ClientError, full};
use serde_json::{Map, Value};

use crate::api::error::CosmosError;
use crate::api::packages::InstalledApp;
use crate::peer::Peer;

/// The way to the two.
#[derive(Clone, Debug)]
pub struct Apps {
    /// The service scheduler.
    pub services: Peer,
    /// The master.
    pub master: Peer,
}

/// In whose name something is changed, and the key by which the scheduler knows a repetition.
#[derive(Clone, Copy, Debug)]
pub struct As<'a> {
    /// The caller's name.
    pub principal: &'a str,
    /// The key.
    pub key: &'a str,
}

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The scheduler trusts the catalog about it.
const FOR: HeaderName = HeaderName::from_static("x-plenum-principal");

fn unreachable(error: &ClientError) -> CosmosError {
    CosmosError::unavailable(&error.to_string())
}

impl Apps {
    /// Every app that came from a package.
    pub async fn installed(&self) -> Result<Vec<InstalledApp>, CosmosError> {
        let make = |client: &plenum_base::client::Client, base: &str| client.get(&format!("{base}/v2/apps"));
        let reply = self.services.ask(make).await.map_err(|error| unreachable(&error))?;
        let status = reply.status;
        let body = reply.bytes().await.map_err(|error| unreachable(&error))?;
        let answer: Option<Value> = serde_json::from_slice(&body).ok();
        match answer.as_ref().and_then(|answer| answer.get("apps")).and_then(Value::as_array) {
            Some(apps) if status.is_success() => Ok(apps.iter().filter_map(InstalledApp::read).collect()),
            _ => Err(CosmosError::services(status.as_u16(), &String::from_utf8_lossy(&body))),
        }
    }

    /// Creates an app and gives its id.
    pub async fn create(&self, app: &Map<String, Value>, by: As<'_>) -> Result<String, CosmosError> {
        let reply = self
            .services
            .ask(|client, base| {
                client
                    .post(&format!("{base}/v2/apps"))
                    .json(app)
                    .header(KEY, by.key)
                    .header(FOR, by.principal)
            })
            .await
            .map_err(|error| unreachable(&error))?;
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
    pub async fn delete(&self, id: &str, by: As<'_>) -> Result<(), CosmosError> {
        let path = format!("/v2/apps/{}?force=true", id.trim_start_matches('/'));
        let reply = self
            .services
            .ask(|client, base| {
                client.delete(&format!("{base}{path}")).header(KEY, by.key).header(FOR, by.principal)
            })
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
        let make =
            |client: &plenum_base::client::Client, base: &str| client.get(&format!("{base}/frameworks"));
        let reply = self.master.ask(make).await.map_err(|error| unreachable(&error))?;
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
        let form = "application/x-www-form-urlencoded";
        self.master
            .ask(|client, base| {
                let call = client.post(&format!("{base}/teardown")).header(CONTENT_TYPE, form);
                call.body(full(format!("frameworkId={id}")))
            })
            .await
            .map_err(|error| unreachable(&error))?;
        Ok(())
    }
}
