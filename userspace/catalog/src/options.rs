//! A package's options: defaults out of its schema, what the user gave laid over them, and the check against the schema.

use serde_json::{Map, Value, json};

/// The defaults of a schema. A property's own `default` wins over those of its nested properties, even when it is null; objects that
/// would be empty are left out; references and combinations are not followed.
pub fn defaults(schema: &Value) -> Map<String, Value> {
    let mut found = Map::new();
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return found };
    for (name, property) in properties {
        if let Some(default) = property.get("default") {
            found.insert(name.clone(), default.clone());
        } else {
            let nested = defaults(property);
            if !nested.is_empty() {
                found.insert(name.clone(), Value::Object(nested));
            }
        }
    }
    found
}

/// Lays `upper` over `lower`: objects merge by key, anything else replaces.
pub fn merge(lower: Value, upper: Value) -> Value {
    match (lower, upper) {
        (Value::Object(mut lower), Value::Object(upper)) => {
            for (key, value) in upper {
                let merged = match lower.remove(&key) {
                    Some(below) => merge(below, value),
                    None => value,
                };
                lower.insert(key, merged);
            }
            Value::Object(lower)
        }
        (_, upper) => upper,
    }
}

/// Why options do not fit a schema.
#[derive(Clone, Debug, PartialEq)]
pub enum Mismatch {
    /// What is wrong, one entry each: `level`, `schema`, `instance{pointer}`, `domain`, `keyword`, `message`.
    Options(Vec<Value>),
    /// The schema itself is none.
    Schema(String),
}

/// Errors that are listed at most.
const MAX_ERRORS: usize = 50;

/// Checks options against a draft-4 schema. Formats are hints for people and not checked.
pub fn check(schema: &Value, options: &Value) -> Result<(), Mismatch> {
    let validator = jsonschema::draft4::options()
        .should_validate_formats(false)
        .build(&schema_of_draft4(schema))
        .map_err(|error| Mismatch::Schema(error.to_string()))?;
    let errors: Vec<Value> =
        validator.iter_errors(options).take(MAX_ERRORS).map(|error| describe(&error)).collect();
    if errors.is_empty() { Ok(()) } else { Err(Mismatch::Options(errors)) }
}

/// `$schema` names the draft in several ways, some of which no longer resolve; packages always mean draft 4. An `id` inside a package's
/// schema is a label, never an address.
fn schema_of_draft4(schema: &Value) -> Value {
    let mut schema = schema.clone();
    if let Some(fields) = schema.as_object_mut() {
        fields.remove("$schema");
        fields.remove("id");
    }
    schema
}

fn describe(error: &jsonschema::ValidationError<'_>) -> Value {
    let schema = error.schema_path().to_string();
    let keyword = schema.rsplit('/').find(|part| part.parse::<u64>().is_err()).unwrap_or_default().to_owned();
    json!({
        "level": "error",
        "domain": "validation",
        "keyword": keyword,
        "message": error.to_string(),
        "schema": {"loadingURI": "#", "pointer": schema},
        "instance": {"pointer": error.instance_path().to_string()},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_wins_over_nested_ones_and_empty_objects_are_left_out() {
        let schema = json!({"properties": {
            "a": {"default": {"x": 1}, "properties": {"x": {"default": 2}, "y": {"default": 3}}},
            "b": {"properties": {"c": {"type": "string"}}},
            "d": {"properties": {"e": {"default": null}}},
            "f": 7,
        }});
        assert_eq!(Value::Object(defaults(&schema)), json!({"a": {"x": 1}, "d": {"e": null}}));
    }

    #[test]
    fn merging_replaces_all_but_objects() {
        let merged = merge(json!({"a": {"b": 1, "c": [1, 2]}, "d": 1}), json!({"a": {"c": [3]}, "d": null}));
        assert_eq!(merged, json!({"a": {"b": 1, "c": [3]}, "d": null}));
    }

    #[test]
    fn a_mismatch_names_place_and_rule() {
        let schema = json!({"$schema": "http://json-schema.org/schema#", "id": "x", "properties": {"n": {"type": "integer", "minimum": 1}}});
        assert_eq!(check(&schema, &json!({"n": 1})), Ok(()));
        let Err(Mismatch::Options(errors)) = check(&schema, &json!({"n": 0})) else { panic!("0 is below 1") };
        assert_eq!(errors[0]["instance"]["pointer"], "/n");
        assert_eq!(errors[0]["keyword"], "minimum");
    }
}
