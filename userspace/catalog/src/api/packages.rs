//! What the Cosmos API answers about packages, as functions of an index and of the apps that run. Pure.

use serde_json::{Map, Value};

use super::bodies::{
    DescribeRequest, InstallRequest, InstallResponse, Installed, ListRequest, ListVersionsResponse,
    PackageInformation, RenderResponse, UninstallRequest, Uninstalled,
};
use super::error::CosmosError;
use crate::definition::{Package, without_nulls};
use crate::index::{Entry, Index};
use crate::render;

/// The entry that a request names.
pub fn find<'a>(index: &'a Index, name: &str, version: Option<&str>) -> Result<&'a Entry, CosmosError> {
    match (index.find(name, version), version) {
        (Some(entry), _) => Ok(entry),
        (None, Some(version)) if !index.versions(name).is_empty() => {
            Err(CosmosError::no_version(name, version))
        }
        (None, _) => Err(CosmosError::no_package(name)),
    }
}

/// `/package/describe` in a version of the answer.
pub fn describe(index: &Index, request: &DescribeRequest, version: u8) -> Result<Value, CosmosError> {
    let entry = find(index, &request.package_name, request.package_version.as_deref())?;
    let definition = json(&*entry.package)?;
    if version >= 3 {
        return Ok(without_nulls(serde_json::json!({ "package": definition })));
    }
    flat(&entry.package, definition)
}

/// The older, flat form: the definition's parts side by side. It knows no upgrade paths and nothing newer than 4.0.
fn flat(package: &Package, definition: Value) -> Result<Value, CosmosError> {
    if package.packaging_version == "5.0"
        || package.upgrades_from.is_some()
        || package.downgrades_to.is_some()
    {
        let message = "This package cannot be described in version 2 of the answer; accept version 3";
        return Err(CosmosError {
            kind: "ConversionFromPackageToV2DescribeResponse",
            ..CosmosError::body(message)
        });
    }
    let Value::Object(mut fields) = without_nulls(definition) else {
        return Err(CosmosError::unhandled("no object"));
    };
    let mut answer = Map::new();
    for part in ["marathon", "resource", "config", "command"] {
        if let Some(value) = fields.remove(part) {
            let key = if part == "marathon" { "marathonMustache" } else { part };
            answer.insert(key.to_owned(), value);
        }
    }
    if let Some(template) = package.template().ok().flatten() {
        answer.insert("marathonMustache".to_owned(), Value::String(template));
    }
    fields.remove("releaseVersion");
    if package.packaging_version == "4.0" {
        fields.insert("packagingVersion".to_owned(), Value::from("3.0"));
    }
    answer.insert("package".to_owned(), Value::Object(fields));
    Ok(Value::Object(answer))
}

/// `/package/list-versions`.
pub fn list_versions(index: &Index, name: &str) -> Result<ListVersionsResponse, CosmosError> {
    let versions = index.versions(name);
    if versions.is_empty() {
        return Err(CosmosError::no_package(name));
    }
    let row = |entry: &Entry| (entry.package.version.clone(), entry.package.release_version.to_string());
    Ok(ListVersionsResponse { results: versions.iter().map(row).collect() })
}

/// The app that a request makes of its package.
pub fn app(entry: &Entry, request: &InstallRequest) -> Result<Map<String, Value>, CosmosError> {
    let none = Map::new();
    let package = &entry.package;
    render::app(render::Request {
        package,
        options: request.options.as_ref().unwrap_or(&none),
        app_id: request.app_id.as_deref(),
        source: &entry.source,
    })
    .map_err(|error| CosmosError::rendering(&package.name, &package.version, error))
}

/// `/package/render`.
pub fn rendered(index: &Index, request: &InstallRequest) -> Result<RenderResponse, CosmosError> {
    let entry = find(index, &request.package_name, request.package_version.as_deref())?;
    Ok(RenderResponse { marathon_json: without_nulls(Value::Object(app(entry, request)?)) })
}

/// The answer to `/package/install` once the app is there.
pub fn installed(package: &Package, app_id: Option<String>) -> InstallResponse {
    InstallResponse {
        package_name: package.name.clone(),
        package_version: package.version.clone(),
        app_id,
        post_install_notes: package.post_install_notes.clone(),
        cli: package.resource.as_ref().and_then(|resource| resource.cli.clone()),
    }
}

/// An app that was installed from a package, as its labels tell.
#[derive(Clone, Debug)]
pub struct InstalledApp {
    /// The app's id.
    pub id: String,
    /// The package's name.
    pub name: String,
    /// The package's version.
    pub version: Option<String>,
    /// The framework's name that the app registers, where it does.
    pub framework: Option<String>,
    /// The definition out of the label; absent where that is none of ours.
    pub definition: Option<Value>,
}

impl InstalledApp {
    /// Reads an app of the service scheduler; nothing where it comes from no package.
    pub fn read(app: &Value) -> Option<Self> {
        let label = |name: &str| app.get("labels")?.get(name)?.as_str().map(str::to_owned);
        Some(Self {
            id: app.get("id")?.as_str()?.to_owned(),
            name: label(render::NAME)?,
            version: label(render::VERSION),
            framework: label("DCOS_PACKAGE_FRAMEWORK_NAME"),
            definition: label(render::DEFINITION).and_then(|label| render::definition(&label)),
        })
    }

    fn notes(&self) -> Option<String> {
        Some(self.definition.as_ref()?.get("postUninstallNotes")?.as_str()?.to_owned())
    }

    /// The entry that `/package/uninstall` answers with.
    pub fn uninstalled(&self) -> Uninstalled {
        Uninstalled {
            package_name: self.name.clone(),
            app_id: self.id.clone(),
            package_version: self.version.clone(),
            post_uninstall_notes: self.notes(),
        }
    }
}

/// `/package/list` over the apps that run.
pub fn list(apps: &[InstalledApp], request: &ListRequest) -> Vec<Installed> {
    let wanted = |app: &&InstalledApp| {
        request.package_name.as_ref().is_none_or(|name| *name == app.name)
            && request.app_id.as_ref().is_none_or(|id| same_id(id, &app.id))
    };
    let mut rows: Vec<_> =
        apps.iter().filter(wanted).filter_map(|app| Some((app, app.definition.clone()?))).collect();
    rows.sort_by(|(left, _), (right, _)| (&left.name, &left.id).cmp(&(&right.name, &right.id)));
    rows.into_iter()
        .map(|(app, definition)| {
            let mut definition = without_nulls(definition);
            let fields = definition.as_object_mut();
            let resource = fields.and_then(|fields| {
                for part in ["marathon", "config", "command"] {
                    fields.remove(part);
                }
                fields.remove("resource")
            });
            let package_information =
                PackageInformation { package_definition: definition, resource_definition: resource };
            Installed { app_id: app.id.clone(), package_information }
        })
        .collect()
}

/// Which apps an uninstallation means.
pub fn chosen<'a>(
    apps: &'a [InstalledApp],
    request: &UninstallRequest,
) -> Result<Vec<&'a InstalledApp>, CosmosError> {
    let name = &request.package_name;
    let of_package: Vec<_> = apps.iter().filter(|app| app.name == *name).collect();
    if of_package.is_empty() {
        return Err(CosmosError::not_installed(name));
    }
    if let Some(id) = &request.app_id {
        let named: Vec<_> = of_package.into_iter().filter(|app| same_id(id, &app.id)).collect();
        return if named.is_empty() { Err(CosmosError::no_app_of_package(name, id)) } else { Ok(named) };
    }
    if of_package.len() > 1 && request.all != Some(true) {
        let ids: Vec<_> = of_package.iter().map(|app| app.id.clone()).collect();
        return Err(CosmosError::ambiguous(name, &ids));
    }
    Ok(of_package)
}

fn same_id(left: &str, right: &str) -> bool {
    left.trim_start_matches('/') == right.trim_start_matches('/')
}

fn json<T: serde::Serialize>(value: T) -> Result<Value, CosmosError> {
    serde_json::to_value(value).map_err(|error| CosmosError::unhandled(error.to_string()))
}
