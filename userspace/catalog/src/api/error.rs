//! Refusals in Cosmos' form: a class name, a sentence and data. Clients tell them apart by `type`.

use serde::Serialize;
use serde_json::{Value, json};

use crate::render::RenderError;

/// The media type of every refusal.
pub const MEDIA_TYPE: &str = "application/vnd.dcos.package.error+json;charset=utf-8;version=v1";

/// A refusal.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CosmosError {
    /// The HTTP status.
    #[serde(skip)]
    pub status: u16,
    /// The class.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// A sentence that says what to do.
    pub message: String,
    /// What the sentence speaks of.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub data: Value,
}

impl CosmosError {
    fn new(status: u16, kind: &'static str, message: impl Into<String>, data: Value) -> Self {
        Self { status, kind, message: message.into(), data }
    }

    /// A request of another type than the endpoint's.
    pub fn content_type(given: Option<&str>, supported: &str) -> Self {
        let data = json!({"supported": [supported], "actual": given});
        Self::new(400, "UnsupportedContentType", format!("Send this Content-Type: {supported}"), data)
    }

    /// A client that takes none of the endpoint's types.
    pub fn accept(given: Option<&str>, supported: &[String]) -> Self {
        let data = json!({"supported": supported, "actual": given});
        Self::new(400, "UnsupportedAccept", format!("Accept one of: {}", supported.join(", ")), data)
    }

    /// A body that is not JSON, or not of the endpoint's form.
    pub fn body(message: &str) -> Self {
        Self::new(
            400,
            "JsonDecodingError",
            format!("The request's body cannot be read: {message}"),
            Value::Null,
        )
    }

    /// No package of the name.
    pub fn no_package(name: &str) -> Self {
        Self::new(400, "PackageNotFound", format!("Package [{name}] not found"), json!({"packageName": name}))
    }

    /// No such version of a package.
    pub fn no_version(name: &str, version: &str) -> Self {
        let data = json!({"packageName": name, "packageVersion": version});
        Self::new(400, "VersionNotFound", format!("Version [{version}] of package [{name}] not found"), data)
    }

    /// An app of the id is there already.
    pub fn already_installed() -> Self {
        Self::new(409, "PackageAlreadyInstalled", "Package is already installed", Value::Null)
    }

    /// No app of the package runs.
    pub fn not_installed(name: &str) -> Self {
        Self::new(
            400,
            "PackageNotInstalled",
            format!("Package [{name}] is not installed"),
            json!({"packageName": name}),
        )
    }

    /// The named app is not of the package.
    pub fn no_app_of_package(name: &str, app: &str) -> Self {
        let data = json!({"packageName": name, "appId": app});
        Self::new(
            400,
            "UninstallNonExistentAppForPackage",
            format!("Package [{name}] with id [{app}] is not installed"),
            data,
        )
    }

    /// Several apps of the package run, and none was named.
    pub fn ambiguous(name: &str, apps: &[String]) -> Self {
        let message = format!("Multiple apps named [{name}] are installed: [{}]", apps.join(", "));
        Self::new(400, "AmbiguousAppId", message, json!({"packageName": name, "appIds": apps}))
    }

    /// The package has no app.
    pub fn no_template(name: &str, version: &str) -> Self {
        let data = json!({"packageName": name, "packageVersion": version});
        let message = format!(
            "Package: [{name}] version: [{version}] does not have a Marathon template defined and can not be rendered"
        );
        Self::new(400, "ServiceMarathonTemplateNotFound", message, data)
    }

    /// The service scheduler refused.
    pub fn services(status: u16, body: &str) -> Self {
        let data = json!({"marathonStatus": status, "marathonError": body});
        if status >= 500 {
            Self::new(
                502,
                "MarathonBadGateway",
                format!("The service scheduler answered {status}; try again"),
                data,
            )
        } else {
            Self::new(
                400,
                "MarathonBadResponse",
                format!("The service scheduler refused the app: {body}"),
                data,
            )
        }
    }

    /// The service scheduler cannot be reached.
    pub fn unavailable(message: &str) -> Self {
        Self::new(
            503,
            "ServiceUnavailable",
            format!("The service scheduler cannot be reached: {message}"),
            json!({"serviceName": "marathon"}),
        )
    }

    /// A repository of the name or address is there already.
    pub fn repository_present(name: &str, uri: &str) -> Self {
        let message = format!("Repository [{name}] or address [{uri}] is already present");
        Self::new(400, "RepositoryAlreadyPresent", message, json!({"name": name, "uri": uri}))
    }

    /// No repository of the name or address.
    pub fn no_repository(what: &str) -> Self {
        Self::new(
            400,
            "RepositoryNotPresent",
            format!("Repository [{what}] is not present"),
            json!({"nameOrUri": what}),
        )
    }

    /// Neither name nor address was given.
    pub fn name_or_uri_missing() -> Self {
        Self::new(400, "RepoNameOrUriMissing", "Give the repository's name or its uri", Value::Null)
    }

    /// An index beyond the list's end.
    pub fn index_out_of_bounds(attempted: i64, max: usize) -> Self {
        let message = format!("Index out of range: {attempted}; at most {max}");
        Self::new(400, "RepositoryAddIndexOutOfBounds", message, json!({"attempted": attempted, "max": max}))
    }

    /// An address that is none.
    pub fn uri_syntax(uri: &str) -> Self {
        Self::new(
            400,
            "RepositoryUriSyntax",
            format!("[{uri}] is not an http or https address"),
            json!({"uri": uri}),
        )
    }

    /// A repository that does not answer with packages.
    pub fn repository_unreadable(name: &str, uri: &str, cause: &str) -> Self {
        let data = json!({"repository": {"name": name, "uri": uri}, "cause": cause});
        Self::new(
            400,
            "RepositoryUriConnection",
            format!("No packages could be read from [{uri}]: {cause}"),
            data,
        )
    }

    /// The record could not be written.
    pub fn store(message: &str) -> Self {
        Self::new(
            503,
            "ServiceUnavailable",
            format!("The catalog cannot write now: {message}"),
            json!({"serviceName": "store"}),
        )
    }

    /// Several frameworks of one name: which one to tear down is not for us to guess.
    pub fn multiple_frameworks(name: &str, ids: &[String]) -> Self {
        let message =
            format!("Uninstalled the app, but several frameworks are named [{name}]: [{}]", ids.join(", "));
        Self::new(400, "MultipleFrameworkIds", message, json!({"frameworkName": name, "ids": ids}))
    }

    /// A key that is none, or several.
    pub fn bad_key() -> Self {
        let message = "Give one Idempotency-Key of 1 to 255 printable ASCII characters";
        Self::new(400, "InvalidIdempotencyKey", message, Value::Null)
    }

    /// The key belongs to another request.
    pub fn key_reused() -> Self {
        let message =
            "This idempotency key was used for another request: repeat that one as it was, or take a new key";
        Self::new(422, "IdempotencyKeyReused", message, Value::Null)
    }

    /// Something that the caller can do nothing about.
    pub fn unhandled(message: impl Into<String>) -> Self {
        Self::new(500, "unhandled_exception", message, Value::Null)
    }

    /// What a rendering ran into.
    pub fn rendering(name: &str, version: &str, error: RenderError) -> Self {
        match error {
            RenderError::OptionsNotAllowed => {
                let message = format!("Package [{name}] takes no options");
                Self::new(400, "OptionsNotAllowed", message, json!({"packageName": name}))
            }
            RenderError::SchemaMismatch(errors) => Self::new(
                400,
                "JsonSchemaMismatch",
                "Options JSON failed validation",
                json!({ "errors": errors }),
            ),
            RenderError::BadSchema(message) => {
                Self::unhandled(format!("The options' schema of package [{name}] is invalid: {message}"))
            }
            RenderError::NoTemplate => Self::no_template(name, version),
            RenderError::BadTemplate(error) => {
                Self::unhandled(format!("The template of package [{name}] is invalid: {error}"))
            }
            RenderError::NotJson { message, text } => {
                let data = json!({"underlyingType": "io.circe.ParsingFailure", "parsingErrorMessage": message, "parsingInput": text});
                let message = format!("Unable to parse the rendered template of [{name}] as JSON");
                Self::new(400, "JsonParsingError", message, data)
            }
            RenderError::NotAnObject => {
                let message = format!("The template of [{name}] must render to a JSON object");
                Self::new(400, "MarathonTemplateMustBeJsonObject", message, Value::Null)
            }
            RenderError::BadLabels => Self::new(
                400,
                "JsonDecodingError",
                "Unable to decode the JSON value as a scala.collection.immutable.Map",
                json!({"underlyingType": "scala.collection.immutable.Map"}),
            ),
        }
    }
}
