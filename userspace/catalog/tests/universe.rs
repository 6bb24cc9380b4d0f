//! Real packages: what a faithful catalog renders is known for each. The packages are not part of the project; without them this says so.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use plenum_catalog::definition::{Package, without_nulls};
use plenum_catalog::render::{self, RenderError};
use plenum_catalog::template::Template;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

fn samples() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/universe");
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("skipped: no sample packages at {}", folder.display());
    None
}

fn gunzip(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap()).read_to_end(&mut bytes).unwrap();
    bytes
}

/// The files of each release, by name and release.
fn releases(folder: &Path) -> BTreeMap<(String, u64), Package> {
    let tar = gunzip(&folder.join("sample-universe.tar.gz"));
    let mut files: BTreeMap<(String, u64), BTreeMap<String, Vec<u8>>> = BTreeMap::new();
    for entry in tar::Archive::new(tar.as_slice()).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_string_lossy().into_owned();
        let parts: Vec<&str> = path.trim_start_matches("./").split('/').collect();
        if let ["repo", "packages", _, name, release, file] = parts[..] {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            let release = (name.to_owned(), release.parse().unwrap());
            files.entry(release).or_default().insert(file.to_owned(), bytes);
        }
    }
    files.into_iter().map(|(release, files)| (release.clone(), assemble(release.1, &files))).collect()
}

fn assemble(release: u64, files: &BTreeMap<String, Vec<u8>>) -> Package {
    let parse = |name: &str| files.get(name).map(|bytes| serde_json::from_slice::<Value>(bytes).unwrap());
    let mut definition = parse("package.json").unwrap();
    definition["releaseVersion"] = json!(release);
    for (field, file) in
        [("config", "config.json"), ("resource", "resource.json"), ("command", "command.json")]
    {
        if let Some(value) = parse(file) {
            definition[field] = value;
        }
    }
    if let Some(template) = files.get("marathon.json.mustache") {
        let template = base64::engine::general_purpose::STANDARD.encode(template);
        definition["marathon"] = json!({ "v2AppMustacheTemplate": template });
    }
    Package::read(definition).unwrap()
}

/// The canonical form writes integral numbers without a fraction.
fn canonical(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields.into_iter().map(|(key, field)| (key, canonical(field))).collect(),
        Value::Array(items) => items.into_iter().map(canonical).collect(),
        Value::Number(number) => match number.as_f64() {
            Some(double) if number.is_f64() && double.fract() == 0.0 => Value::from(double as i64),
            _ => Value::Number(number),
        },
        other => other,
    }
}

fn sha256(value: &Value) -> String {
    let value = canonical(value.clone());
    let digest = Sha256::digest(value.to_string().as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn normal(app: serde_json::Map<String, Value>) -> Value {
    let mut app = without_nulls(Value::Object(app));
    let fields = app.as_object_mut().unwrap();
    if let Some(labels) = fields.get_mut("labels").and_then(Value::as_object_mut) {
        for label in [render::NAME, render::VERSION, render::SOURCE, render::OPTIONS, render::DEFINITION] {
            labels.remove(label);
        }
        if labels.is_empty() {
            fields.remove("labels");
        }
    }
    app
}

#[test]
fn real_packages_render_as_they_always_did() {
    let Some(folder) = samples() else { return };
    let packages = releases(&folder);
    let expected = String::from_utf8(gunzip(&folder.join("sample-expected.jsonl.gz"))).unwrap();
    let (mut same, mut wrong) = (0, Vec::new());
    for row in expected.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        let name = row["name"].as_str().unwrap();
        let package = &packages[&(name.to_owned(), row["releaseVersion"].as_u64().unwrap())];
        let options = row["options"].as_object().unwrap();
        let rendered = render::template(package, options);
        let status = match &rendered {
            Ok(_) => "ok",
            Err(RenderError::SchemaMismatch(_) | RenderError::OptionsNotAllowed) => "schema_mismatch",
            Err(RenderError::NotJson { .. }) => "bad_json",
            Err(RenderError::NoTemplate) => "no_template",
            Err(other) => panic!("{name}: {other:?}"),
        };
        let hashes = rendered.map(|app| {
            let app = Value::Object(app);
            (sha256(&app), sha256(&normal(app.as_object().unwrap().clone())))
        });
        let agrees = status == row["status"]
            && hashes.is_ok_and(|(whole, norm)| row["sha256"] == *whole && row["sha256_norm"] == *norm)
                == (status == "ok");
        if agrees {
            same += 1;
        } else {
            wrong.push(format!(
                "{name}/{} {}: {status}, wanted {}",
                row["releaseVersion"], row["variant"], row["status"]
            ));
        }
    }
    println!("{same} renderings as expected, {} not", wrong.len());
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(same > 300, "the samples are there, {same} rows of them");
}

#[test]
fn the_template_engine_agrees_with_its_cases() {
    let Some(folder) = samples() else { return };
    for line in std::fs::read_to_string(folder.join("engine-cases.jsonl")).unwrap().lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let source = case["template"].as_str().unwrap();
        let rendered = Template::parse(source).and_then(|template| template.render(&case["context"]));
        match case["expected"].as_str() {
            Some(expected) => assert_eq!(rendered.as_deref(), Ok(expected), "{source:?}"),
            None => assert!(rendered.is_err(), "{source:?} is no template"),
        }
    }
}
