//! Makes encoded messages of any type from its table and a seed.

use prost::encoding::{WireType, encode_key, encode_varint};

use crate::ids::{IdSource, SeededIds};
use crate::schema::{ENUMS, Field, Kind, Label, MESSAGES, Message};

pub struct Random(SeededIds);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(SeededIds::new(seed))
    }

    pub fn next(&mut self) -> u64 {
        let bytes = self.0.uuid();
        // The first six bytes carry no version bits; the last two top it up.
        u64::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[14], bytes[15]])
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

/// A valid message; `without` leaves out a top-level field by number.
pub fn message(schema: &Message, random: &mut Random, depth: usize, without: Option<u32>) -> Vec<u8> {
    let mut out = Vec::new();
    for field in schema.fields.iter().filter(|f| Some(f.number) != without) {
        let nested = matches!(field.kind, Kind::Message(_));
        let times = match field.label {
            Label::Required => 1,
            _ if schema.map_entry => 1,
            _ if nested && depth == 0 => 0,
            Label::Optional => random.below(2),
            Label::Repeated => random.below(3),
        };
        for _ in 0..times {
            put(field, random, depth, &mut out);
        }
    }
    out
}

fn put(field: &Field, random: &mut Random, depth: usize, out: &mut Vec<u8>) {
    let (wire_type, body) = match field.kind {
        Kind::Message(inner) => {
            (WireType::LengthDelimited, message(&MESSAGES[inner], random, depth.saturating_sub(1), None))
        }
        Kind::String => (WireType::LengthDelimited, text(random).into_bytes()),
        Kind::Bytes => {
            let length = random.below(20);
            (WireType::LengthDelimited, (0..length).map(|_| random.next() as u8).collect())
        }
        // Eighths survive any decimal form exactly.
        Kind::Double => (WireType::SixtyFourBit, (random.below(100_000) as f64 / 8.0).to_le_bytes().to_vec()),
        Kind::Float => (WireType::ThirtyTwoBit, (random.below(1000) as f32 / 8.0).to_le_bytes().to_vec()),
        kind => {
            let mut body = Vec::new();
            encode_varint(number(kind, random), &mut body);
            (WireType::Varint, body)
        }
    };
    encode_key(field.number, wire_type, out);
    if wire_type == WireType::LengthDelimited {
        encode_varint(body.len() as u64, out);
    }
    out.extend_from_slice(&body);
}

fn number(kind: Kind, random: &mut Random) -> u64 {
    let wide = match random.below(4) {
        0 => random.next(),
        1 => u64::MAX,
        _ => random.next() % 1000,
    };
    match kind {
        Kind::Enum(index) => {
            let values = ENUMS[index].values;
            i64::from(values[random.below(values.len())].0) as u64
        }
        Kind::Bool => wide & 1,
        // Negative 32-bit numbers are sign-extended on the wire.
        Kind::Int32 => i64::from(wide as i32) as u64,
        Kind::Uint32 => u64::from(wide as u32),
        _ => wide,
    }
}

fn text(random: &mut Random) -> String {
    const PIECES: [&str; 8] = ["a", "*", "/", "\"", "\\", "\n", "\u{1F980}", "name-1"];
    (0..random.below(4)).map(|_| PIECES[random.below(PIECES.len())]).collect()
}
