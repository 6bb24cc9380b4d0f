//! The required-field check on encoded protobuf: one pass over the bytes, no allocation unless something is wrong.

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use super::{DEPTH_LIMIT, DecodeError};
use crate::schema::{ENUMS, Field, Kind, Label, MESSAGES, Message};

/// A finding on its way out; path segments are added from the inside.
enum Finding {
    Missing(String),
    Invalid(String, String),
    Malformed(String),
}

/// Checks that every required field is there, at every depth.
///
/// A sub-message written in several pieces (legal, and never done by real encoders) must be complete in each.
pub(super) fn check(schema: &Message, bytes: &[u8]) -> Result<(), DecodeError> {
    if !schema.checked {
        return Ok(());
    }
    walk(schema, bytes, DEPTH_LIMIT).map_err(|finding| match finding {
        Finding::Missing(path) => DecodeError::Missing { path },
        Finding::Invalid(path, reason) => DecodeError::Invalid { path, reason },
        Finding::Malformed(reason) => DecodeError::Malformed { encoding: "protobuf", reason },
    })
}

fn malformed(error: prost::DecodeError) -> Finding {
    Finding::Malformed(error.to_string())
}

fn walk(schema: &Message, bytes: &[u8], depth: usize) -> Result<(), Finding> {
    if depth == 0 {
        return Err(Finding::Malformed("messages nest too deeply".into()));
    }
    let mut at = bytes;
    // One bit a field: no message has as many as 128 of them (a test looks).
    let mut seen: u128 = 0;
    while !at.is_empty() {
        let (number, wire_type) = decode_key(&mut at).map_err(malformed)?;
        let field = match schema.position(number) {
            Some(position) => {
                seen |= 1 << position;
                &schema.fields[position]
            }
            None => {
                skip_field(wire_type, number, &mut at, DecodeContext::default()).map_err(malformed)?;
                continue;
            }
        };
        match (field.kind, wire_type) {
            (Kind::Message(inner), WireType::LengthDelimited) => {
                let length = decode_varint(&mut at).map_err(malformed)?;
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                let (body, rest) = at
                    .split_at_checked(length)
                    .ok_or_else(|| Finding::Malformed("truncated message".into()))?;
                let inner = &MESSAGES[inner];
                if inner.checked {
                    let start = bytes.len() - at.len();
                    walk(inner, body, depth - 1).map_err(|f| located(f, field, schema, &bytes[..start]))?;
                }
                at = rest;
            }
            (Kind::Enum(kind), WireType::Varint) if field.label == Label::Required => {
                let number = decode_varint(&mut at).map_err(malformed)?;
                if !ENUMS[kind].has(number as i32) {
                    let reason = format!("{} is not a value of {}", number as i32, ENUMS[kind].name);
                    return Err(Finding::Invalid(field.name.into(), reason));
                }
            }
            _ => skip_field(wire_type, number, &mut at, DecodeContext::default()).map_err(malformed)?,
        }
    }
    for (position, field) in schema.fields.iter().enumerate() {
        if seen & (1 << position) == 0 && must_be_there(schema, field) {
            return Err(Finding::Missing(field.name.into()));
        }
    }
    Ok(())
}

/// Required by itself, or the value of a map entry whose default would lack required fields.
fn must_be_there(schema: &Message, field: &Field) -> bool {
    match (field.label, field.kind) {
        (Label::Required, _) => true,
        (_, Kind::Message(inner)) if schema.map_entry => {
            MESSAGES[inner].fields.iter().any(|f| f.label == Label::Required)
        }
        _ => false,
    }
}

/// Puts the name of the field, and its index in a list, before the path of a finding.
fn located(finding: Finding, field: &Field, schema: &Message, before: &[u8]) -> Finding {
    let segment = match field.label {
        // `before` ends after the key and length of this very occurrence, so that one is counted too.
        Label::Repeated => format!("{}[{}]", field.name, occurrences(field.number, before).saturating_sub(1)),
        _ => field.name.to_string(),
    };
    let join = |path: String| {
        if schema.map_entry { path } else { format!("{segment}.{path}") }
    };
    match finding {
        Finding::Missing(path) => Finding::Missing(join(path)),
        Finding::Invalid(path, reason) => Finding::Invalid(join(path), reason),
        Finding::Malformed(reason) => Finding::Malformed(reason),
    }
}

fn occurrences(number: u32, mut bytes: &[u8]) -> usize {
    let mut count = 0;
    while let Ok((found, wire_type)) = decode_key(&mut bytes) {
        count += usize::from(found == number);
        if skip_field(wire_type, found, &mut bytes, DecodeContext::default()).is_err() {
            break;
        }
    }
    count
}
