//! What the gateway itself serves: the start page, the form for logging in, the CA's certificate, and the few JSON documents by which
//! clients learn what kind of cluster this is.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use plenum_base::auth::Authenticator;
use plenum_base::client::Client;
use plenum_base::places::Role;
use serde_json::{Value, json};

use crate::answers::{Failure, frame, html};
use crate::proxy::Proxy;
use crate::route::Page;
use crate::status::Overview;

/// How long a component has to show that it is there.
const PROBE: Duration = Duration::from_secs(2);

/// What the documents say.
#[derive(Debug)]
pub struct Pages {
    /// The release of DC/OS whose interfaces are spoken.
    pub release: String,
    /// The address under which the cluster is known.
    pub address: IpAddr,
    /// The CA's certificate.
    pub ca: PathBuf,
    /// Knows how the whole cluster is.
    pub overview: Overview,
}

impl Pages {
    /// Serves one.
    pub async fn serve(
        &self,
        page: Page,
        authenticator: &Authenticator,
        proxy: &Proxy,
        headers: &HeaderMap,
    ) -> Response {
        match page {
            Page::Home => html(StatusCode::OK, home()),
            Page::Login => html(StatusCode::OK, login()),
            Page::Script => file("text/javascript; charset=utf-8", include_str!("assets/gateway.js")),
            Page::Style => file("text/css; charset=utf-8", include_str!("assets/gateway.css")),
            Page::Ca => self.certificate(headers).await,
            Page::Version => json_reply(&json!({
                "version": self.release,
                "dcos-image-commit": concat!("plenum-", env!("CARGO_PKG_VERSION")),
                "bootstrap-id": concat!("plenum-", env!("CARGO_PKG_VERSION")),
                "dcos-variant": "open",
            })),
            Page::Metadata => match authenticator.cluster_id() {
                Some(id) => json_reply(&json!({"PUBLIC_IPV4": self.address.to_string(), "CLUSTER_ID": id})),
                None => Failure::unreachable("the cluster's policy").answer(headers),
            },
            Page::BuildInfo => json_reply(&json!({
                "plenum": {"package_version": env!("CARGO_PKG_VERSION"), "dcos_release": self.release},
            })),
            Page::Health => json_reply(&self.health(proxy).await),
            Page::HealthUnits => json_reply(&crate::status::units(&*self.overview.look().await)),
            Page::HealthNodes => json_reply(&crate::status::nodes(&*self.overview.look().await)),
            Page::Status => match serde_json::to_value(&*self.overview.look().await) {
                Ok(value) => json_reply(&value),
                Err(_) => Failure::unreachable("the cluster's status").answer(headers),
            },
        }
    }

    /// The CA's certificates and nothing else that may stand in the file.
    async fn certificate(&self, headers: &HeaderMap) -> Response {
        let read = tokio::time::timeout(PROBE, tokio::fs::read_to_string(&self.ca)).await;
        match read {
            Ok(Ok(text)) if text.contains("PRIVATE KEY") => {
                tracing::error!(path = %self.ca.display(), "the CA file holds a private key; it is not served");
                Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL", "the CA file is not usable")
                    .answer(headers)
            }
            Ok(Ok(text)) => ([(CONTENT_TYPE, "application/x-x509-ca-cert")], text).into_response(),
            Ok(Err(_)) | Err(_) => Failure::unreachable("the CA's certificate").answer(headers),
        }
    }

    /// How the components are: one that answers anything is there.
    async fn health(&self, proxy: &Proxy) -> Value {
        let clients = &proxy.clients;
        let all = [
            (Role::Identity, &clients.identity.known),
            (Role::Master, &clients.master.known),
            (Role::Services, &clients.services.known),
            (Role::Catalog, &clients.catalog.known),
            (Role::Discovery, &clients.discovery.known),
        ];
        let units = all.map(|(role, client)| {
            let base = proxy.cluster.of(role).into_iter().next().unwrap_or_default();
            unit(role.as_str(), client.clone(), base)
        });
        let mut units: Vec<Value> = futures_util::future::join_all(units).await;
        units.push(unit_value("gateway", Ok(())));
        json!({
            "units": units,
            "hostname": self.address.to_string(),
            "ip": self.address.to_string(),
            "dcos_version": self.release,
            "node_role": "master",
            "mesos_id": "",
            "dcos_diagnostics_version": env!("CARGO_PKG_VERSION"),
            "system": {},
        })
    }
}

async fn unit(name: &'static str, client: Client, base: String) -> Value {
    let answer = client.get(&format!("{base}/")).deadline(PROBE).send().await;
    unit_value(name, answer.map(drop).map_err(|error| error.to_string()))
}

fn unit_value(name: &str, answer: Result<(), String>) -> Value {
    json!({
        "id": format!("plenum-{name}"),
        "name": name,
        "health": i32::from(answer.is_err()),
        "output": answer.err().unwrap_or_default(),
        "description": format!("the component {name}"),
        "help": format!("see `plenum status` and the log of {name}"),
    })
}

fn json_reply(value: &Value) -> Response {
    ([(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")], value.to_string()).into_response()
}

fn file(kind: &'static str, text: &'static str) -> Response {
    ([(CONTENT_TYPE, kind), (CACHE_CONTROL, "public, max-age=300")], text).into_response()
}

fn home() -> String {
    let body = "<p>This cluster answers here for all of its services.</p>\
        <ul><li><a href=\"/login\">Log in</a></li>\
        <li><a href=\"/service/marathon/v2/apps\">Apps</a> (JSON)</li>\
        <li><a href=\"/mesos/state-summary\">Nodes and frameworks</a> (JSON)</li>\
        <li><a href=\"/system/health/v1\">Components</a> (JSON)</li>\
        <li><a href=\"/ca/dcos-ca.crt\">The cluster's CA certificate</a></li></ul>\
        <p>On the command line: <code>plenum status</code>, or <code>dcos cluster setup</code> with this address.</p>";
    frame("Plenum", body, "")
}

fn login() -> String {
    let body = "<form id=\"login\"><label>User<input name=\"uid\" autocomplete=\"username\" required autofocus></label>\
        <label>Password<input name=\"password\" type=\"password\" autocomplete=\"current-password\" required></label>\
        <button>Log in</button><p id=\"problem\" role=\"alert\"></p></form>";
    frame("Log in", body, "<script src=\"/assets/gateway.js\" defer></script>")
}
