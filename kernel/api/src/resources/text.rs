//! The text form of resources: `cpus:4;mem:1024;ports(web):[31000-32000]`, or a JSON list of resources.

use std::collections::BTreeSet;
use std::fmt;

use super::{Amount, Item, Meta, Name, Ranges, Reservation, ResourceError, Resources, Value, role};
use crate::codec::DecodeError;
use crate::mesos;

/// Why a text is not a list of resources.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// A part does not read as `name:value` or `name(role):value`.
    #[error("cannot read `{part}`: {reason}; write for example `cpus:4;mem:1024;ports:[31000-32000]`")]
    Syntax {
        /// The part.
        part: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// The JSON form does not decode.
    #[error("cannot read the JSON list of resources: {0}")]
    Json(#[from] DecodeError),
    /// A resource does not make sense.
    #[error(transparent)]
    Resource(#[from] ResourceError),
    /// A role does not make sense.
    #[error(transparent)]
    Role(#[from] role::RoleError),
    /// Configured resources cannot be dynamic, revocable or volumes, nor one name have two types.
    #[error("resource `{name}`: {reason}")]
    NotForConfiguration {
        /// Name of the resource.
        name: String,
        /// What is wrong.
        reason: &'static str,
    },
}

impl Resources {
    /// Reads either text form. Resources that name no role are reserved for `default_role` unless that is `*`.
    pub fn parse(text: &str, default_role: &str) -> Result<Resources, ParseError> {
        role::validate(default_role)?;
        let text = text.trim();
        let out = if text.starts_with('[') { json(text, default_role)? } else { simple(text, default_role)? };
        for (i, item) in out.items.iter().enumerate() {
            let refuse =
                |reason| Err(ParseError::NotForConfiguration { name: item.name.to_string(), reason });
            if item.is_persistent_volume() {
                return refuse("a persistent volume is made by an operation, not by configuration");
            }
            if item.is_revocable() {
                return refuse("revocable resources are estimated, not configured");
            }
            if item.reservations().iter().any(|r| r.dynamic) {
                return refuse("a dynamic reservation is made by an operation, not by configuration");
            }
            if out.items[..i].iter().any(|o| o.name == item.name && !o.value.same_type(&item.value)) {
                return refuse("the same name has values of different types");
            }
        }
        Ok(out)
    }
}

fn json(text: &str, default_role: &str) -> Result<Resources, ParseError> {
    let values: Vec<serde_json::Value> = serde_json::from_str(text)
        .map_err(|e| DecodeError::Malformed { encoding: "JSON", reason: e.to_string() })?;
    let mut wire = Vec::with_capacity(values.len());
    for value in values {
        let body = value.to_string();
        let mut resource: mesos::Resource =
            crate::codec::decode(crate::codec::Encoding::Json, body.as_bytes())?;
        if resource.role.is_none() && resource.reservations.is_empty() {
            resource.role = Some(default_role.to_string());
        }
        wire.push(resource);
    }
    Ok(Resources::from_mesos(&wire)?)
}

fn simple(text: &str, default_role: &str) -> Result<Resources, ParseError> {
    let mut out = Resources::new();
    for part in text.split(';').map(str::trim).filter(|p| !p.is_empty()) {
        let refuse = |reason| ParseError::Syntax { part: part.to_string(), reason };
        let (left, right) = part.split_once(':').ok_or_else(|| refuse("there is no `:`"))?;
        let (name, role) = match left.split_once('(') {
            None => (left.trim(), default_role),
            Some((name, rest)) => {
                let role = rest.trim_end().strip_suffix(')');
                (name.trim(), role.ok_or_else(|| refuse("a parenthesis is not closed"))?.trim())
            }
        };
        if name.is_empty() {
            return Err(refuse("there is no name"));
        }
        role::validate(role)?;
        let value = value(right.trim()).map_err(refuse)?;
        let reservations = if role == role::STAR { Vec::new() } else { vec![Reservation::fixed(role)] };
        out.add_item(Item::new(Name::from(name), value, Meta { reservations, ..Meta::default() }));
    }
    Ok(out)
}

fn value(text: &str) -> Result<Value, &'static str> {
    if let Some(inner) = text.strip_prefix('[') {
        let inner = inner.strip_suffix(']').ok_or("a bracket is not closed")?;
        return ranges(inner).map(Value::Ranges);
    }
    if let Some(inner) = text.strip_prefix('{') {
        let inner = inner.strip_suffix('}').ok_or("a brace is not closed")?;
        let mut set = BTreeSet::new();
        for word in inner.split(',').map(str::trim).filter(|w| !w.is_empty()) {
            if word.contains(['{', '}', '[', ']']) || !set.insert(word.to_string()) {
                return Err("a set has plain words, each once");
            }
        }
        return Ok(Value::Set(set));
    }
    let number: f64 = text.parse().map_err(|_| "the value is no number, range or set")?;
    // Through the wire rules, so that both forms refuse the same numbers.
    if !(0.0..=1e12).contains(&number) {
        return Err("the number is negative or too large");
    }
    if number != 0.0 && Amount::from_f64(number).is_zero() {
        return Err("the number rounds to zero thousandths");
    }
    Ok(Value::Scalar(Amount::from_f64(number)))
}

fn ranges(text: &str) -> Result<Ranges, &'static str> {
    let mut pairs = Vec::new();
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (begin, end) = part.split_once('-').ok_or("a range is written begin-end")?;
        let number = |t: &str| t.trim().parse::<u64>().map_err(|_| "the ends of a range are whole numbers");
        let (begin, end) = (number(begin)?, number(end)?);
        if begin > end {
            return Err("a range is inverted");
        }
        pairs.push((begin, end));
    }
    Ok(Ranges::new(pairs))
}

/// Reads back with [`Resources::parse`] when there is nothing but static reservations to say.
impl fmt::Display for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, item) in self.items.iter().enumerate() {
            write!(f, "{}{item}", if i == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name.as_str())?;
        if let Some(meta) = self.meta() {
            match meta.reservations.as_slice() {
                [] => {}
                [only] if !only.dynamic => write!(f, "({})", only.role)?,
                stack => stack.iter().try_for_each(|r| {
                    let kind = if r.dynamic { "dynamic" } else { "static" };
                    write!(f, "({kind} {})", r.role)
                })?,
            }
            if let Some(role) = &meta.allocation {
                write!(f, "(allocated {role})")?;
            }
            if let Some(id) = meta.persistence_id() {
                write!(f, "(volume {id})")?;
            } else if let Some(source) = meta.disk.as_ref().and_then(|d| d.source.as_ref()) {
                write!(f, "({})", source.r#type())?;
            }
            if meta.revocable {
                f.write_str("(revocable)")?;
            }
            if meta.shared {
                write!(f, "(shared {})", self.copies)?;
            }
        }
        write!(f, ":{}", self.value)
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Scalar(amount) => amount.fmt(f),
            Value::Ranges(ranges) => ranges.fmt(f),
            Value::Set(set) => {
                let words: Vec<&str> = set.iter().map(String::as_str).collect();
                write!(f, "{{{}}}", words.join(", "))
            }
        }
    }
}
