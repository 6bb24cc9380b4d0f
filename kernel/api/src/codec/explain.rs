//! The slow look at JSON that could not be decoded: finds the first field that is missing or does not fit.

use serde_json::Value;

use super::DecodeError;
use crate::schema::{ENUMS, Field, Kind, Label, MESSAGES, Message};

/// Explains a failure of serde; falls back to its own words.
pub(super) fn json(schema: &Message, bytes: &[u8], error: &serde_json::Error) -> DecodeError {
    if !error.is_data() {
        return DecodeError::Malformed { encoding: "JSON", reason: error.to_string() };
    }
    let fallback = || DecodeError::Invalid { path: String::new(), reason: own_words(error) };
    let Ok(value) = serde_json::from_slice::<Value>(bytes) else { return fallback() };
    message(schema, &value, "").err().unwrap_or_else(fallback)
}

/// What serde says, unless it quotes a value, which may be secret.
fn own_words(error: &serde_json::Error) -> String {
    let text = error.to_string();
    if text.starts_with("invalid ") {
        return format!("a value at line {} column {} does not fit", error.line(), error.column());
    }
    text
}

fn invalid(path: &str, reason: impl Into<String>) -> DecodeError {
    DecodeError::Invalid { path: path.to_string(), reason: reason.into() }
}

fn message(schema: &Message, value: &Value, path: &str) -> Result<(), DecodeError> {
    let Value::Object(object) = value else {
        return Err(invalid(path, format!("an object is expected, not {}", shape(value))));
    };
    for field in schema.fields {
        let here = if path.is_empty() { field.name.to_string() } else { format!("{path}.{}", field.name) };
        match object.get(field.name) {
            None | Some(Value::Null) if field.label == Label::Required => {
                return Err(DecodeError::Missing { path: here });
            }
            None | Some(Value::Null) => {}
            Some(value) if field.label == Label::Repeated => list(field, value, &here)?,
            Some(value) => single(field, value, &here)?,
        }
    }
    Ok(())
}

fn list(field: &Field, value: &Value, path: &str) -> Result<(), DecodeError> {
    if let Kind::Message(index) = field.kind
        && MESSAGES[index].map_entry
    {
        let Value::Object(entries) = value else {
            return Err(invalid(path, format!("an object is expected, not {}", shape(value))));
        };
        let Some(inner) = MESSAGES[index].field("value") else { return Ok(()) };
        return entries.iter().try_for_each(|(key, value)| single(inner, value, &format!("{path}.{key}")));
    }
    let Value::Array(items) = value else {
        return Err(invalid(path, format!("a list is expected, not {}", shape(value))));
    };
    items.iter().enumerate().try_for_each(|(i, item)| single(field, item, &format!("{path}[{i}]")))
}

fn single(field: &Field, value: &Value, path: &str) -> Result<(), DecodeError> {
    let expected = match (field.kind, value) {
        (Kind::Message(index), _) => return message(&MESSAGES[index], value, path),
        (Kind::Enum(index), Value::String(name)) => {
            let known = ENUMS[index].values.iter().any(|v| v.1 == name);
            if known || field.label != Label::Required {
                return Ok(());
            }
            return Err(invalid(path, format!("`{name}` is not a value of {}", ENUMS[index].name)));
        }
        (Kind::Enum(_), Value::Number(_)) => return Ok(()),
        (Kind::Enum(_), _) => "the name of an enum value",
        (Kind::String, Value::String(_)) | (Kind::Bool, Value::Bool(_)) => return Ok(()),
        (Kind::String, _) => "a string",
        (Kind::Bool, _) => "true or false",
        (Kind::Bytes, Value::String(text)) if crate::json::is_base64(text) => return Ok(()),
        (Kind::Bytes, _) => "bytes in base64",
        (Kind::Double | Kind::Float, Value::Number(_)) => return Ok(()),
        (Kind::Double | Kind::Float, Value::String(t)) if t.parse::<f64>().is_ok_and(f64::is_finite) => {
            return Ok(());
        }
        (Kind::Double | Kind::Float, _) => "a number",
        (kind, value) if integer_fits(kind, value) => return Ok(()),
        _ => "an integer in the range of the field",
    };
    Err(invalid(path, format!("{expected} is expected, not {}", shape(value))))
}

fn integer_fits(kind: Kind, value: &Value) -> bool {
    let wide = match value {
        Value::Number(n) => match (n.as_i64(), n.as_u64(), n.as_f64()) {
            (Some(v), _, _) => Some(i128::from(v)),
            (_, Some(v), _) => Some(i128::from(v)),
            (_, _, Some(v)) if v.fract() == 0.0 => Some(v as i128),
            _ => None,
        },
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    wide.is_some_and(|v| match kind {
        Kind::Int32 => i32::try_from(v).is_ok(),
        Kind::Int64 => i64::try_from(v).is_ok(),
        Kind::Uint32 => u32::try_from(v).is_ok(),
        Kind::Uint64 => u64::try_from(v).is_ok(),
        _ => false,
    })
}

/// What kind of JSON this is; never the value itself, which may be secret.
fn shape(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "this number",
        Value::String(_) => "this string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
