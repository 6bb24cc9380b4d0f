//! A package's definition as repositories carry it (Universe, packaging versions 2.0 to 5.0). Unknown fields are dropped; known
//! ones that are absent are written as null, because that is the form which is stored beside an installed app.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Versions of the packaging format that are understood.
pub const PACKAGING_VERSIONS: [&str; 4] = ["2.0", "3.0", "4.0", "5.0"];

/// One release of a package.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Package {
    /// One of [`PACKAGING_VERSIONS`].
    pub packaging_version: String,
    /// The package's name: `[a-z][a-z0-9-]*[a-z0-9]`.
    pub name: String,
    /// An opaque text: versions are compared for equality only.
    pub version: String,
    /// Orders the releases of a package: the highest is the newest.
    pub release_version: u64,
    /// Whom to ask.
    pub maintainer: String,
    /// For people.
    pub description: String,
    /// Words to be found by.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Whether the package is shown among the first.
    #[serde(default)]
    pub selected: Option<bool>,
    /// Where its source is.
    #[serde(default)]
    pub scm: Option<String>,
    /// Its web site.
    #[serde(default)]
    pub website: Option<String>,
    /// Whether its app registers a framework.
    #[serde(default)]
    pub framework: Option<bool>,
    /// Shown before installing.
    #[serde(default)]
    pub pre_install_notes: Option<String>,
    /// Shown after installing.
    #[serde(default)]
    pub post_install_notes: Option<String>,
    /// Shown after uninstalling.
    #[serde(default)]
    pub post_uninstall_notes: Option<String>,
    /// Its licences.
    #[serde(default)]
    pub licenses: Option<Vec<License>>,
    /// The oldest release of the datacenter that may see it; 999 hides it.
    #[serde(default)]
    pub min_dcos_release_version: Option<String>,
    /// Versions it upgrades from: exact, or `*`.
    #[serde(default)]
    pub upgrades_from: Option<Vec<String>>,
    /// Versions it downgrades to: exact, or `*`.
    #[serde(default)]
    pub downgrades_to: Option<Vec<String>>,
    /// The package that installs it.
    #[serde(default)]
    pub manager: Option<Manager>,
    /// Seconds since the epoch.
    #[serde(default)]
    pub last_updated: Option<u64>,
    /// Whether it is known not to work well.
    #[serde(default)]
    pub has_known_issues: Option<bool>,
    /// The app's template; absent in packages that are only a command or an interface.
    #[serde(default)]
    pub marathon: Option<Marathon>,
    /// Images, assets, command-line programs.
    #[serde(default)]
    pub resource: Option<Resource>,
    /// The options' JSON Schema, draft 4.
    #[serde(default)]
    pub config: Option<Value>,
    /// What an old package's command line installs.
    #[serde(default)]
    pub command: Option<Value>,
}

/// A licence.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct License {
    /// Its name.
    pub name: String,
    /// Its text.
    pub url: String,
}

/// The package that manages another.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Manager {
    /// Its name.
    pub package_name: String,
    /// Its least version.
    #[serde(default)]
    pub min_package_version: Option<String>,
}

/// The app's template.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Marathon {
    /// Mustache that renders to an app, in base64.
    #[serde(rename = "v2AppMustacheTemplate")]
    pub template: String,
}

/// `resource.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Resource {
    /// What tasks fetch.
    #[serde(default)]
    pub assets: Option<Assets>,
    /// What people see.
    #[serde(default)]
    pub images: Option<Images>,
    /// The package's command-line program. Not part of packaging version 2.0.
    #[serde(default)]
    pub cli: Option<Value>,
}

/// What tasks fetch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Assets {
    /// Addresses by key.
    #[serde(default)]
    pub uris: Option<BTreeMap<String, String>>,
    /// Container images.
    #[serde(default)]
    pub container: Option<Container>,
}

/// Container images.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Container {
    /// References by key.
    #[serde(default)]
    pub docker: BTreeMap<String, String>,
}

/// What people see.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Images {
    /// 48 pixels.
    #[serde(default)]
    pub icon_small: Option<String>,
    /// 96 pixels.
    #[serde(default)]
    pub icon_medium: Option<String>,
    /// 256 pixels.
    #[serde(default)]
    pub icon_large: Option<String>,
    /// Pictures.
    #[serde(default)]
    pub screenshots: Option<Vec<String>>,
}

/// Why a definition was set aside. It costs only itself: the rest of its repository is served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{package}: {reason}")]
pub struct BadDefinition {
    /// Name and release as far as they could be read.
    pub package: String,
    /// What is wrong.
    pub reason: String,
}

impl Package {
    /// Reads one definition out of a repository's answer.
    pub fn read(value: Value) -> Result<Self, BadDefinition> {
        let text = |field: &str| value.get(field).map(Value::to_string).unwrap_or_default();
        let label = format!("{} release {}", text("name"), text("releaseVersion"));
        let bad = |reason: String| BadDefinition { package: label.clone(), reason };
        let package: Self = serde_json::from_value(value).map_err(|error| bad(error.to_string()))?;
        package.check().map_err(|reason| bad(reason.to_owned()))?;
        Ok(package)
    }

    fn check(&self) -> Result<(), &'static str> {
        let name = self.name.as_bytes();
        let edge =
            |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        let inside = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
        let version = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
        if !PACKAGING_VERSIONS.contains(&self.packaging_version.as_str()) {
            Err("unknown packagingVersion")
        } else if !(edge(name.last())
            && name.first().is_some_and(u8::is_ascii_lowercase)
            && name.iter().all(inside))
        {
            Err("the name is not of the form [a-z][a-z0-9-]*[a-z0-9]")
        } else if self.version.is_empty() || !self.version.bytes().all(version) {
            Err("the version is not of the form [-a-zA-Z0-9.]+")
        } else if self.tags.iter().any(|tag| tag.is_empty() || tag.contains(char::is_whitespace)) {
            Err("a tag is empty or has blanks")
        } else if self.template().is_err() {
            Err("the app's template is not base64 of UTF-8 text")
        } else {
            Ok(())
        }
    }

    /// The app's template as text; nothing where the package has none.
    pub fn template(&self) -> Result<Option<String>, &'static str> {
        use base64::Engine as _;
        let Some(marathon) = &self.marathon else { return Ok(None) };
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(marathon.template.trim())
            .map_err(|_| "not base64")?;
        String::from_utf8(bytes).map(Some).map_err(|_| "not UTF-8")
    }

    /// `resource` as templates see it. Packaging version 2.0 knows no `cli`.
    pub fn resource_for_template(&self) -> Option<Value> {
        let mut value = serde_json::to_value(self.resource.as_ref()?).ok()?;
        if self.packaging_version == "2.0"
            && let Some(fields) = value.as_object_mut()
        {
            fields.remove("cli");
        }
        Some(value)
    }

    /// Whether a datacenter of this release may see the package.
    pub fn is_visible_to(&self, release: &str) -> bool {
        let least = numbers(self.min_dcos_release_version.as_deref().unwrap_or("0"));
        least <= numbers(release)
    }
}

/// The numeric parts of a release such as `2.0`, for comparing.
fn numbers(release: &str) -> Vec<u64> {
    release.split('.').map(|part| part.parse().unwrap_or(0)).collect()
}

/// The value without its null fields, at any depth: how answers are written.
pub fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields
                .into_iter()
                .filter(|(_, field)| !field.is_null())
                .map(|(key, field)| (key, without_nulls(field)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}
