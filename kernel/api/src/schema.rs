//! What every message looks like, as tables: the codec checks required fields with them, and tests make messages
//! from them. The tables are generated; this file owns their types.

include!(concat!(env!("OUT_DIR"), "/schema.rs"));

/// How often a field may and must occur.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Label {
    /// Exactly once.
    Required,
    /// At most once.
    Optional,
    /// Any number of times; a map is a repeated entry message.
    Repeated,
}

/// The type of a field; the numbers index [`MESSAGES`] and [`ENUMS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    Message(usize),
    Enum(usize),
    Double,
    Float,
    Bool,
    String,
    Bytes,
    Int32,
    Int64,
    Uint32,
    Uint64,
}

/// One field of a message.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Number on the wire.
    pub number: u32,
    /// Name in JSON.
    pub name: &'static str,
    /// How often it occurs.
    pub label: Label,
    /// Its type.
    pub kind: Kind,
}

/// One message type; `fields` are in order of their numbers.
#[derive(Clone, Copy, Debug)]
pub struct Message {
    /// Full protobuf name.
    pub name: &'static str,
    /// True for the key and value pair of a map field.
    pub map_entry: bool,
    /// True when it has required fields itself or further down.
    pub checked: bool,
    /// The fields.
    pub fields: &'static [Field],
}

impl Message {
    /// Position of the field with this number.
    pub fn position(&self, number: u32) -> Option<usize> {
        // Most messages number their fields 1, 2, 3...
        let guess = (number as usize).wrapping_sub(1);
        if self.fields.get(guess).is_some_and(|f| f.number == number) {
            return Some(guess);
        }
        self.fields.binary_search_by_key(&number, |f| f.number).ok()
    }

    /// The field with this JSON name.
    pub fn field(&self, name: &str) -> Option<&'static Field> {
        self.fields.iter().find(|f| f.name == name)
    }
}

/// One enum type.
#[derive(Clone, Copy, Debug)]
pub struct Enum {
    /// Full protobuf name.
    pub name: &'static str,
    /// Numbers and names.
    pub values: &'static [(i32, &'static str)],
}

impl Enum {
    /// True when the number is one of the values.
    pub fn has(&self, number: i32) -> bool {
        self.values.iter().any(|v| v.0 == number)
    }
}

/// A message type that knows its table.
pub trait Described {
    /// The table of this type.
    fn schema() -> &'static Message;
}
