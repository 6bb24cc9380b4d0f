//! Packages and their repositories: the Cosmos API at `/package`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Session, or_default};
use crate::error::Result;

/// A package that a search found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Found {
    /// Its name.
    pub name: String,
    /// Its newest version.
    #[serde(default, deserialize_with = "or_default")]
    pub current_version: String,
    /// Release numbers by version; numbers or texts.
    #[serde(default, deserialize_with = "or_default")]
    pub versions: BTreeMap<String, Value>,
    /// For people.
    #[serde(default, deserialize_with = "or_default")]
    pub description: String,
    /// Words to be found by.
    #[serde(default, deserialize_with = "or_default")]
    pub tags: Vec<String>,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// An installed package.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Installed {
    /// The app it became.
    #[serde(default, deserialize_with = "or_default")]
    pub app_id: String,
    /// What it was installed from.
    #[serde(default, deserialize_with = "or_default")]
    pub package_information: Information,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// What an app was installed from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Information {
    /// The definition.
    #[serde(default, deserialize_with = "or_default")]
    pub package_definition: Map<String, Value>,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// What to install.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Installation {
    /// The package's name.
    pub name: String,
    /// Its version; the newest where absent.
    pub version: Option<String>,
    /// The app's id; the package's own where absent.
    pub app_id: Option<String>,
    /// Options over the package's defaults.
    pub options: Option<Map<String, Value>>,
}

/// The answer to an installation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Installing {
    /// The package's name.
    #[serde(default, deserialize_with = "or_default")]
    pub package_name: String,
    /// Its version.
    #[serde(default, deserialize_with = "or_default")]
    pub package_version: String,
    /// The app; none where the package has no app.
    #[serde(default)]
    pub app_id: Option<String>,
    /// For people.
    #[serde(default)]
    pub post_install_notes: Option<String>,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// What was uninstalled.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Uninstalled {
    /// The package's name.
    #[serde(default, deserialize_with = "or_default")]
    pub package_name: String,
    /// The app.
    #[serde(default, deserialize_with = "or_default")]
    pub app_id: String,
    /// For people.
    #[serde(default)]
    pub post_uninstall_notes: Option<String>,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A repository of packages.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repository {
    /// Its name.
    pub name: String,
    /// Its address.
    pub uri: String,
}

#[derive(Deserialize)]
struct Repositories {
    repositories: Vec<Repository>,
}

/// An object without the members that are null.
fn object<const N: usize>(members: [(&str, Value); N]) -> Value {
    members
        .into_iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(k, v)| (k.to_owned(), v))
        .collect::<Map<_, _>>()
        .into()
}

impl Session {
    /// Packages that fit the words; all without words.
    ///
    /// # Errors
    /// [`crate::error::CliError`].
    pub async fn search(&self, query: Option<&str>) -> Result<Vec<Found>> {
        #[derive(Deserialize)]
        struct Answer {
            packages: Vec<Found>,
        }
        let body = object([("query", json!(query))]);
        let answer: Answer = self.ask_catalog("/package/search", "package.search", 1, &body).await?;
        Ok(answer.packages)
    }

    /// A package's definition.
    ///
    /// # Errors
    /// [`crate::error::CliError`].
    pub async fn describe(&self, name: &str, version: Option<&str>) -> Result<Map<String, Value>> {
        #[derive(Deserialize)]
        struct Answer {
            package: Map<String, Value>,
        }
        let body = object([("packageName", json!(name)), ("packageVersion", json!(version))]);
        let answer: Answer = self.ask_catalog("/package/describe", "package.describe", 3, &body).await?;
        Ok(answer.package)
    }

    /// Installed packages.
    ///
    /// # Errors
    /// [`crate::error::CliError`].
    pub async fn installed(&self) -> Result<Vec<Installed>> {
        #[derive(Deserialize)]
        struct Answer {
            packages: Vec<Installed>,
        }
        let answer: Answer = self.ask_catalog("/package/list", "package.list", 1, &json!({})).await?;
        Ok(answer.packages)
    }

    /// Installs a package.
    ///
    /// # Errors
    /// [`crate::error::CliError`]; a refusal with status 409 where it is installed already.
    pub async fn install(&self, what: &Installation) -> Result<Installing> {
        let body = object([
            ("packageName", json!(what.name)),
            ("packageVersion", json!(what.version)),
            ("appId", json!(what.app_id)),
            ("options", json!(what.options)),
        ]);
        self.ask_catalog("/package/install", "package.install", 2, &body).await
    }

    /// Uninstalls a package: its only app, the app named, or all.
    ///
    /// # Errors
    /// [`crate::error::CliError`].
    pub async fn uninstall(&self, name: &str, app_id: Option<&str>, all: bool) -> Result<Vec<Uninstalled>> {
        #[derive(Deserialize)]
        struct Answer {
            results: Vec<Uninstalled>,
        }
        let all = if all { json!(true) } else { Value::Null };
        let body = object([("packageName", json!(name)), ("appId", json!(app_id)), ("all", all)]);
        let answer: Answer = self.ask_catalog("/package/uninstall", "package.uninstall", 1, &body).await?;
        Ok(answer.results)
    }

    /// The repositories, the first leads.
    ///
    /// # Errors
    /// [`crate::error::CliError`].
    pub async fn repositories(&self) -> Result<Vec<Repository>> {
        let path = "/package/repository/list";
        let answer: Repositories = self.ask_catalog(path, "package.repository.list", 1, &json!({})).await?;
        Ok(answer.repositories)
    }

    /// Adds a repository, at the end or at `index`.
    ///
    /// # Errors
    /// [`crate::error::CliError`].
    pub async fn add_repository(&self, name: &str, uri: &str, index: Option<u32>) -> Result<Vec<Repository>> {
        let body = object([("name", json!(name)), ("uri", json!(uri)), ("index", json!(index))]);
        let path = "/package/repository/add";
        let answer: Repositories = self.ask_catalog(path, "package.repository.add", 1, &body).await?;
        Ok(answer.repositories)
    }

    /// Removes a repository by its name.
    ///
    /// # Errors
    /// [`crate::error::CliError`].
    pub async fn remove_repository(&self, name: &str) -> Result<Vec<Repository>> {
        let path = "/package/repository/delete";
        let body = json!({"name": name});
        let answer: Repositories = self.ask_catalog(path, "package.repository.delete", 1, &body).await?;
        Ok(answer.repositories)
    }
}
