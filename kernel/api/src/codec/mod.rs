//! The only doors of the wire types: bytes in, checked message out, and back.
//!
//! Protobuf is decoded by `prost` after a walk over the bytes has found every required field; JSON is decoded by
//! `serde`, and a failure is explained by a second, slower look that names the path of the culprit.

mod explain;
mod scan;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::schema::Described;

/// Bytes accepted by [`decode`] in one message; [`decode_limited`] takes another limit.
pub const DEFAULT_LIMIT: usize = 64 << 20;

/// How deep messages may nest.
pub const DEPTH_LIMIT: usize = 100;

/// The two encodings of the Mesos v1 API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// `application/json`
    Json,
    /// `application/x-protobuf`
    Protobuf,
}

impl Encoding {
    /// The media type of a message.
    pub const fn media_type(self) -> &'static str {
        match self {
            Encoding::Json => "application/json",
            Encoding::Protobuf => "application/x-protobuf",
        }
    }

    /// The encoding a `Content-Type` names; parameters such as a charset are ignored, case too.
    pub fn from_media_type(value: &str) -> Option<Encoding> {
        let name = value.split(';').next().unwrap_or_default().trim();
        [Encoding::Json, Encoding::Protobuf].into_iter().find(|e| name.eq_ignore_ascii_case(e.media_type()))
    }
}

/// Why bytes are not the message they should be. `path` says where, e.g. `accept.operations[0].launch`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A required field is not there.
    #[error("required field `{path}` is missing")]
    Missing {
        /// Path of the field.
        path: String,
    },
    /// A field has a value that does not fit.
    #[error("{place}: {reason}", place = place(path))]
    Invalid {
        /// Path of the field; empty for the message as a whole.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// The bytes are not in the encoding they claim.
    #[error("the body is not valid {encoding}: {reason}")]
    Malformed {
        /// `JSON` or `protobuf`.
        encoding: &'static str,
        /// What the parser says.
        reason: String,
    },
    /// More bytes than allowed.
    #[error("the message has {size} bytes and at most {limit} are accepted")]
    TooLarge {
        /// Bytes given.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
}

fn place(path: &str) -> String {
    if path.is_empty() { "the message".to_string() } else { format!("field `{path}`") }
}

/// A message with JSON: all of `plenum_api::mesos` and the API modules.
pub trait Message: prost::Message + Default + Described + Serialize + DeserializeOwned {}

impl<T: prost::Message + Default + Described + Serialize + DeserializeOwned> Message for T {}

/// Decodes and checks a message.
pub fn decode<T: Message>(encoding: Encoding, bytes: &[u8]) -> Result<T, DecodeError> {
    decode_limited(encoding, bytes, DEFAULT_LIMIT)
}

/// Decodes and checks a message of at most `limit` bytes.
pub fn decode_limited<T: Message>(encoding: Encoding, bytes: &[u8], limit: usize) -> Result<T, DecodeError> {
    if bytes.len() > limit {
        return Err(DecodeError::TooLarge { size: bytes.len(), limit });
    }
    match encoding {
        Encoding::Protobuf => decode_protobuf(bytes),
        Encoding::Json => {
            serde_json::from_slice(bytes).map_err(|error| explain::json(T::schema(), bytes, &error))
        }
    }
}

/// Decodes and checks a protobuf message, also one without JSON (the private protocol). The caller has bounded its size.
pub fn decode_protobuf<T: prost::Message + Default + Described>(bytes: &[u8]) -> Result<T, DecodeError> {
    scan::check(T::schema(), bytes)?;
    T::decode(bytes).map_err(|e| DecodeError::Malformed { encoding: "protobuf", reason: e.to_string() })
}

/// Encodes a message.
pub fn encode<T: Message>(encoding: Encoding, message: &T) -> Bytes {
    let mut out = Vec::new();
    encode_into(encoding, message, &mut out);
    out.into()
}

/// Encodes a message after what `out` already holds.
pub fn encode_into<T: Message>(encoding: Encoding, message: &T, out: &mut Vec<u8>) {
    match encoding {
        Encoding::Protobuf => encode_protobuf_into(message, out),
        Encoding::Json => serde_json::to_writer(out, message)
            .expect("generated messages have string keys and a Vec takes every write"),
    }
}

/// Encodes a protobuf message after what `out` already holds.
pub fn encode_protobuf_into<T: prost::Message>(message: &T, out: &mut Vec<u8>) {
    message.encode(out).expect("a Vec grows as needed")
}
