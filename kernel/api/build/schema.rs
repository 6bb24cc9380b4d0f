//! The tables behind `plenum_api::schema`: fields, labels and kinds of every message.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

use crate::names::{self, Found};

/// Rust source: `MESSAGES`, `ENUMS`, the trait implementations and the macro that lists all types.
pub fn tables(set: &FileDescriptorSet) -> String {
    let messages = names::messages(set);
    let enums = names::enums(set);
    let message_index: HashMap<&str, usize> =
        messages.iter().enumerate().map(|(i, m)| (m.full.as_str(), i)).collect();
    let enum_index: HashMap<&str, usize> =
        enums.iter().enumerate().map(|(i, e)| (e.full.as_str(), i)).collect();
    let checked = with_required(&messages);
    let mut out = String::new();
    let put = &mut out;
    let _ = writeln!(put, "/// Every message.\npub static MESSAGES: [Message; {}] = [", messages.len());
    for m in &messages {
        let _ = writeln!(
            put,
            "Message {{ name: {:?}, map_entry: {}, checked: {}, fields: &[",
            m.full.trim_start_matches('.'),
            m.node.options.as_ref().is_some_and(|o| o.map_entry()),
            checked.contains(m.full.as_str()),
        );
        let mut fields: Vec<&FieldDescriptorProto> = m.node.field.iter().collect();
        fields.sort_by_key(|f| f.number());
        for f in fields {
            let kind = kind(f, &message_index, &enum_index);
            let label = match f.label() {
                Label::Required => "Required",
                Label::Optional => "Optional",
                Label::Repeated => "Repeated",
            };
            let _ = writeln!(
                put,
                "Field {{ number: {}, name: {:?}, label: Label::{label}, kind: Kind::{kind} }},",
                f.number(),
                f.name()
            );
        }
        let _ = writeln!(put, "] }},");
    }
    let _ = writeln!(put, "];\n/// Every enum.\npub static ENUMS: [Enum; {}] = [", enums.len());
    for e in &enums {
        let values: Vec<String> =
            e.node.value.iter().map(|v| format!("({}, {:?})", v.number(), v.name())).collect();
        let _ = writeln!(
            put,
            "Enum {{ name: {:?}, values: &[{}] }},",
            e.full.trim_start_matches('.'),
            values.join(", ")
        );
    }
    let _ = writeln!(put, "];");
    implementations(put, &messages, &enums);
    out
}

fn implementations(
    put: &mut String,
    messages: &[Found<'_, DescriptorProto>],
    enums: &[Found<'_, prost_types::EnumDescriptorProto>],
) {
    let mut json = String::new();
    for (i, m) in messages.iter().enumerate() {
        if m.node.options.as_ref().is_some_and(|o| o.map_entry()) {
            continue;
        }
        let _ = writeln!(
            put,
            "impl Described for {} {{ fn schema() -> &'static Message {{ &MESSAGES[{i}] }} }}",
            m.rust
        );
        if !m.full.starts_with(".plenum") {
            let _ = writeln!(json, "$do!({});", m.rust.replace("crate::", "$crate::"));
        }
    }
    for e in enums {
        let _ = writeln!(put, "crate::json::wire_enum!({});", e.rust);
    }
    let _ = writeln!(
        put,
        "/// Calls the macro `$do` with the type of every message that has JSON.\n#[cfg(test)]\n\
         macro_rules! every_json_message {{ ($do:ident) => {{ {json} }} }}\n#[cfg(test)]\npub(crate) use every_json_message;"
    );
}

fn kind(f: &FieldDescriptorProto, messages: &HashMap<&str, usize>, enums: &HashMap<&str, usize>) -> String {
    match f.r#type() {
        Type::Message | Type::Group => format!("Message({})", messages[f.type_name()]),
        Type::Enum => format!("Enum({})", enums[f.type_name()]),
        Type::Double => "Double".into(),
        Type::Float => "Float".into(),
        Type::Bool => "Bool".into(),
        Type::String => "String".into(),
        Type::Bytes => "Bytes".into(),
        Type::Int32 => "Int32".into(),
        Type::Int64 => "Int64".into(),
        Type::Uint32 => "Uint32".into(),
        Type::Uint64 => "Uint64".into(),
        other => panic!("field {}: type {other:?} is not used by Mesos", f.name()),
    }
}

/// Names of the messages that have a required field themselves or further down.
fn with_required<'a>(messages: &'a [Found<'a, DescriptorProto>]) -> HashSet<&'a str> {
    let mut marked: HashSet<&str> = HashSet::new();
    loop {
        let before = marked.len();
        for m in messages {
            if m.node.field.iter().any(|f| f.label() == Label::Required || marked.contains(f.type_name())) {
                marked.insert(m.full.as_str());
            }
        }
        if marked.len() == before {
            return marked;
        }
    }
}
