//! Serde attributes that give the generated types Mesos' JSON. The helpers they name are in `src/json.rs`.

use std::collections::HashMap;

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{FieldDescriptorProto, FileDescriptorSet};

use crate::names;

/// Adds a derive to every Mesos message and the attributes of every field of it.
pub fn add_attributes(config: &mut prost_build::Config, set: &FileDescriptorSet) -> Result<(), String> {
    for scope in [".mesos", ".google"] {
        config.message_attribute(scope, "#[derive(serde::Serialize, serde::Deserialize)]");
    }
    for id in ["FrameworkID", "AgentID", "OfferID", "TaskID", "ExecutorID", "OperationID"] {
        config.message_attribute(format!(".mesos.v1.{id}"), "#[derive(PartialOrd, Ord)]");
    }
    for id in ["ResourceProviderID", "UUID", "MachineID"] {
        config.message_attribute(format!(".mesos.v1.{id}"), "#[derive(PartialOrd, Ord)]");
    }
    // Prost derives equality for neither lists nor what holds itself.
    config.message_attribute(".mesos.v1.Labels", "#[derive(Eq, Hash)]");
    config.message_attribute(".mesos.v1.ContainerID", "#[derive(Eq, Hash, PartialOrd, Ord)]");
    let enums: HashMap<String, String> = names::enums(set).into_iter().map(|e| (e.full, e.rust)).collect();
    let messages = names::messages(set);
    let maps: Vec<&str> = messages.iter().filter(|m| is_map_entry(m.node)).map(|m| m.full.as_str()).collect();
    for message in &messages {
        if is_map_entry(message.node) || message.full.starts_with(".plenum") {
            continue;
        }
        for field in &message.node.field {
            if field.oneof_index.is_some() {
                return Err(format!("{}.{}: a oneof has no Mesos JSON here", message.full, field.name()));
            }
            let map = maps.contains(&field.type_name());
            let attribute = attribute(field, map, &enums)?;
            config.field_attribute(format!("{}.{}", message.full, field.name()), attribute);
        }
    }
    Ok(())
}

fn is_map_entry(message: &prost_types::DescriptorProto) -> bool {
    message.options.as_ref().is_some_and(|o| o.map_entry())
}

fn attribute(
    field: &FieldDescriptorProto,
    map: bool,
    enums: &HashMap<String, String>,
) -> Result<String, String> {
    let mut parts = vec![format!("rename = {:?}", field.name())];
    let kind = match field.r#type() {
        Type::Bytes => "bytes",
        Type::Enum => "enum",
        Type::Double | Type::Float => "float",
        Type::Bool | Type::String | Type::Message => "plain",
        Type::Group => return Err(format!("{}: groups are not supported", field.name())),
        _ => "int",
    };
    let enum_path = enums.get(field.type_name()).cloned().unwrap_or_default();
    match field.label() {
        Label::Required => match kind {
            "plain" => {}
            "enum" => {
                parts.push(format!("serialize_with = \"crate::json::enum_out::<{enum_path}, _>\""));
                parts.push(format!("deserialize_with = \"crate::json::enum_in::<{enum_path}, _>\""));
            }
            "bytes" => parts.push("with = \"crate::json::bytes\"".into()),
            _ => parts.push(format!("deserialize_with = \"crate::json::{kind}\"")),
        },
        Label::Optional => {
            parts.push("default".into());
            match kind {
                "enum" => {
                    parts.push(format!("skip_serializing_if = \"crate::json::no_enum::<{enum_path}>\""));
                    parts.push(format!("serialize_with = \"crate::json::opt_enum_out::<{enum_path}, _>\""));
                    parts.push(format!("deserialize_with = \"crate::json::opt_enum_in::<{enum_path}, _>\""));
                }
                _ => {
                    parts.push("skip_serializing_if = \"Option::is_none\"".into());
                    match kind {
                        "plain" => {}
                        "bytes" => parts.push("with = \"crate::json::opt_bytes\"".into()),
                        _ => parts.push(format!("deserialize_with = \"crate::json::opt_{kind}\"")),
                    }
                }
            }
        }
        Label::Repeated => {
            parts.push("default".into());
            let empty = if map { "std::collections::BTreeMap::is_empty" } else { "Vec::is_empty" };
            parts.push(format!("skip_serializing_if = \"{empty}\""));
            match kind {
                "plain" => parts.push("deserialize_with = \"crate::json::null_is_empty\"".into()),
                "int" => parts.push("deserialize_with = \"crate::json::int_list\"".into()),
                "enum" => {
                    parts.push(format!("serialize_with = \"crate::json::enum_list_out::<{enum_path}, _>\""));
                    parts.push(format!("deserialize_with = \"crate::json::enum_list_in::<{enum_path}, _>\""));
                }
                other => return Err(format!("{}: repeated {other} has no JSON helper yet", field.name())),
            }
        }
    }
    Ok(format!("#[serde({})]", parts.join(", ")))
}
