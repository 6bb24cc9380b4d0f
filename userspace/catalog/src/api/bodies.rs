//! Requests and answers of the Cosmos API. Answers leave absent fields out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::index::Found;

/// `/package/search`.
#[derive(Debug, Deserialize)]
pub struct SearchRequest {
    /// Words; everything where absent.
    pub query: Option<String>,
}

/// The answer to a search.
#[derive(Debug, Serialize)]
pub struct SearchResponse {
    /// A row a package.
    pub packages: Vec<Found>,
}

/// `/package/describe`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DescribeRequest {
    /// The package's name.
    pub package_name: String,
    /// Its version; the newest where absent.
    pub package_version: Option<String>,
}

/// `/package/list-versions`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListVersionsRequest {
    /// The package's name.
    pub package_name: String,
    /// Required by clients' habit, without effect.
    #[allow(dead_code)]
    pub include_package_versions: bool,
}

/// The answer to `/package/list-versions`.
#[derive(Debug, Serialize)]
pub struct ListVersionsResponse {
    /// Release numbers, as text, by version.
    pub results: BTreeMap<String, String>,
}

/// `/package/render` and `/package/install`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstallRequest {
    /// The package's name.
    pub package_name: String,
    /// Its version; the newest where absent.
    pub package_version: Option<String>,
    /// Options over the defaults.
    pub options: Option<Map<String, Value>>,
    /// The app's id; the template's where absent.
    pub app_id: Option<String>,
}

/// The answer to `/package/render`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RenderResponse {
    /// The app.
    pub marathon_json: Value,
}

/// The answer to `/package/install`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InstallResponse {
    /// The package's name.
    pub package_name: String,
    /// Its version.
    pub package_version: String,
    /// The app's id; absent where the package has no app.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_id: Option<String>,
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub post_install_notes: Option<String>,
    /// The package's command-line program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cli: Option<Value>,
}

/// `/package/list`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListRequest {
    /// Only this package.
    pub package_name: Option<String>,
    /// Only this app.
    pub app_id: Option<String>,
}

/// The answer to `/package/list`.
#[derive(Debug, Serialize)]
pub struct ListResponse {
    /// An entry an installed app.
    pub packages: Vec<Installed>,
}

/// An installed package.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Installed {
    /// The app's id.
    pub app_id: String,
    /// What it was installed from.
    pub package_information: PackageInformation,
}

/// What an app was installed from.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PackageInformation {
    /// The definition without resources, schema and template.
    pub package_definition: Value,
    /// The resources.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_definition: Option<Value>,
}

/// `/package/uninstall`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UninstallRequest {
    /// The package's name.
    pub package_name: String,
    /// Which app, where there are several.
    pub app_id: Option<String>,
    /// All of them.
    pub all: Option<bool>,
}

/// The answer to `/package/uninstall`.
#[derive(Debug, Serialize)]
pub struct UninstallResponse {
    /// An entry an app.
    pub results: Vec<Uninstalled>,
}

/// What was uninstalled.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Uninstalled {
    /// The package's name.
    pub package_name: String,
    /// The app's id.
    pub app_id: String,
    /// The package's version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub package_version: Option<String>,
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub post_uninstall_notes: Option<String>,
}

/// A repository as clients see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryEntry {
    /// Its name.
    pub name: String,
    /// Its address.
    pub uri: String,
}

/// `/package/repository/add`.
#[derive(Debug, Deserialize)]
pub struct RepositoryAddRequest {
    /// Its name.
    pub name: String,
    /// Its address.
    pub uri: String,
    /// Its place in the list; the end where absent.
    pub index: Option<i64>,
}

/// `/package/repository/delete`.
#[derive(Debug, Deserialize)]
pub struct RepositoryDeleteRequest {
    /// Its name.
    pub name: Option<String>,
    /// Its address.
    pub uri: Option<String>,
}

/// All repositories, in the order in which they lead.
#[derive(Debug, Serialize)]
pub struct RepositoriesResponse {
    /// The list.
    pub repositories: Vec<RepositoryEntry>,
}
