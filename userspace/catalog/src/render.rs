//! From a package and options to the app that is launched: defaults, the user's options, the schema's check, the template, and the labels by
//! which an installed package is recognised later. Pure.

use std::collections::BTreeMap;
use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Map, Value, json};

use crate::definition::{Package, without_nulls};
use crate::options::{self, Mismatch};
use crate::template::{Template, TemplateError};

/// The package's name.
pub const NAME: &str = "DCOS_PACKAGE_NAME";
/// The package's version.
pub const VERSION: &str = "DCOS_PACKAGE_VERSION";
/// The address of the repository that it came from.
pub const SOURCE: &str = "DCOS_PACKAGE_SOURCE";
/// The user's options, base64 of JSON.
pub const OPTIONS: &str = "DCOS_PACKAGE_OPTIONS";
/// The whole definition, base64 of an envelope of base64 of gzip of JSON.
pub const DEFINITION: &str = "DCOS_PACKAGE_DEFINITION";

/// Why there is no app.
#[derive(Clone, Debug, PartialEq)]
pub enum RenderError {
    /// Options for a package that takes none.
    OptionsNotAllowed,
    /// The options, defaults included, do not fit the schema.
    SchemaMismatch(Vec<Value>),
    /// The package's own schema is none.
    BadSchema(String),
    /// The package has no template.
    NoTemplate,
    /// The template is none.
    BadTemplate(TemplateError),
    /// The template did not render to JSON.
    NotJson {
        /// What the parser says.
        message: String,
        /// What it was given.
        text: String,
    },
    /// The template rendered to JSON that is no object.
    NotAnObject,
    /// `labels` is not a map of texts.
    BadLabels,
}

/// What an app is made of.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The package.
    pub package: &'a Package,
    /// What the user gave.
    pub options: &'a Map<String, Value>,
    /// The app's id, where the user chose one.
    pub app_id: Option<&'a str>,
    /// The repository's address.
    pub source: &'a str,
}

/// The app, with the labels that nobody can override.
pub fn app(request: Request<'_>) -> Result<Map<String, Value>, RenderError> {
    let mut app = template(request.package, request.options)?;
    if let Some(id) = request.app_id {
        let id = if id.starts_with('/') { id.to_owned() } else { format!("/{id}") };
        app.insert("id".to_owned(), Value::String(id));
    }
    let mut labels = match app.remove("labels") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(labels)) if labels.values().all(Value::is_string) => labels,
        Some(_) => return Err(RenderError::BadLabels),
    };
    for (label, value) in own_labels(request) {
        labels.insert(label.to_owned(), Value::String(value));
    }
    app.insert("labels".to_owned(), Value::Object(labels));
    Ok(app)
}

/// What the template alone renders to.
pub fn template(package: &Package, given: &Map<String, Value>) -> Result<Map<String, Value>, RenderError> {
    let context = context(package, given)?;
    let source = package.template().ok().flatten().ok_or(RenderError::NoTemplate)?;
    let text = Template::parse(&source)
        .and_then(|template| template.render(&context))
        .map_err(RenderError::BadTemplate)?;
    match serde_json::from_str(&text) {
        Ok(Value::Object(app)) => Ok(app),
        Ok(_) => Err(RenderError::NotAnObject),
        Err(error) => Err(RenderError::NotJson { message: error.to_string(), text }),
    }
}

/// Options as templates see them: defaults, the user's over them, `resource` over all.
fn context(package: &Package, given: &Map<String, Value>) -> Result<Value, RenderError> {
    let merged = match &package.config {
        None if given.is_empty() => Value::Object(Map::new()),
        None => return Err(RenderError::OptionsNotAllowed),
        Some(schema) => {
            let merged =
                options::merge(Value::Object(options::defaults(schema)), Value::Object(given.clone()));
            if merged.as_object().is_some_and(|merged| !merged.is_empty()) {
                options::check(schema, &merged).map_err(|mismatch| match mismatch {
                    Mismatch::Options(errors) => RenderError::SchemaMismatch(errors),
                    Mismatch::Schema(message) => RenderError::BadSchema(message),
                })?;
            }
            merged
        }
    };
    Ok(match package.resource_for_template() {
        Some(resource) => options::merge(merged, json!({ "resource": resource })),
        None => merged,
    })
}

fn own_labels(request: Request<'_>) -> BTreeMap<&'static str, String> {
    let options = without_nulls(Value::Object(request.options.clone()));
    BTreeMap::from([
        (NAME, request.package.name.clone()),
        (VERSION, request.package.version.clone()),
        (SOURCE, request.source.to_owned()),
        (OPTIONS, STANDARD.encode(options.to_string())),
        (DEFINITION, envelope(request.package)),
    ])
}

/// The definition as it is stored in a label.
fn envelope(package: &Package) -> String {
    let major = package.packaging_version.split('.').next().unwrap_or("4");
    let definition = serde_json::to_vec(package).unwrap_or_default();
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    // Writing to memory does not fail.
    let packed = gzip.write_all(&definition).and_then(|()| gzip.finish()).unwrap_or_default();
    let envelope = json!({
        "metadata": {
            "Content-Type": format!("application/vnd.dcos.universe.package+json;charset=utf-8;version=v{major}"),
            "Content-Encoding": "gzip",
        },
        "data": STANDARD.encode(packed),
    });
    STANDARD.encode(envelope.to_string())
}

/// The definition out of a label; nothing where the label is not one of ours.
pub fn definition(label: &str) -> Option<Value> {
    use std::io::Read as _;
    /// No definition is longer: the largest published one has 192 KB.
    const BOUND: u64 = 16 << 20;
    let envelope: Value = serde_json::from_slice(&STANDARD.decode(label).ok()?).ok()?;
    let packed = STANDARD.decode(envelope.get("data")?.as_str()?).ok()?;
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(packed.as_slice()).take(BOUND).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// The user's options out of a label.
pub fn stored_options(label: &str) -> Option<Map<String, Value>> {
    match serde_json::from_slice(&STANDARD.decode(label).ok()?).ok()? {
        Value::Object(options) => Some(options),
        _ => None,
    }
}
