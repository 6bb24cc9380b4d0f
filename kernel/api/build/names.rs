//! From protobuf names to the Rust paths that prost gives them.

use heck::{ToSnakeCase, ToUpperCamelCase};
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorSet};

/// The absolute Rust path of a type, from its package and the names of its enclosing messages and itself.
pub fn rust_path(package: &str, scopes: &[String], name: &str) -> String {
    let mut path = String::from("crate::generated");
    for part in package.split('.').map(str::to_string).chain(scopes.iter().cloned()) {
        path.push_str("::");
        path.push_str(&part.to_snake_case());
    }
    path.push_str("::");
    path.push_str(&name.to_upper_camel_case());
    path
}

/// A message or enum somewhere in the descriptor set.
pub struct Found<'a, T> {
    /// Full protobuf name with a leading dot.
    pub full: String,
    /// Absolute Rust path.
    pub rust: String,
    /// The descriptor.
    pub node: &'a T,
}

/// All messages (map entries included), outer ones before what they hold.
pub fn messages(set: &FileDescriptorSet) -> Vec<Found<'_, DescriptorProto>> {
    let mut found = Vec::new();
    walk(set, &mut |package, scopes, message| {
        found.push(Found {
            full: full(package, scopes, message.name()),
            rust: rust_path(package, scopes, message.name()),
            node: message,
        });
    });
    found
}

/// All enums.
pub fn enums(set: &FileDescriptorSet) -> Vec<Found<'_, EnumDescriptorProto>> {
    let mut found = Vec::new();
    for file in &set.file {
        for node in &file.enum_type {
            found.push(Found {
                full: full(file.package(), &[], node.name()),
                rust: rust_path(file.package(), &[], node.name()),
                node,
            });
        }
    }
    walk(set, &mut |package, scopes, message| {
        let mut inner = scopes.to_vec();
        inner.push(message.name().to_string());
        for node in &message.enum_type {
            found.push(Found {
                full: full(package, &inner, node.name()),
                rust: rust_path(package, &inner, node.name()),
                node,
            });
        }
    });
    found
}

fn full(package: &str, scopes: &[String], name: &str) -> String {
    let mut out = format!(".{package}");
    for scope in scopes {
        out.push('.');
        out.push_str(scope);
    }
    out.push('.');
    out.push_str(name);
    out
}

type Visit<'v, 'a> = dyn FnMut(&str, &[String], &'a DescriptorProto) + 'v;

fn walk<'a>(set: &'a FileDescriptorSet, visit: &mut Visit<'_, 'a>) {
    fn inner<'a>(
        package: &str,
        scopes: &mut Vec<String>,
        node: &'a DescriptorProto,
        visit: &mut Visit<'_, 'a>,
    ) {
        visit(package, scopes, node);
        scopes.push(node.name().to_string());
        for nested in &node.nested_type {
            inner(package, scopes, nested, visit);
        }
        scopes.pop();
    }
    for file in &set.file {
        for node in &file.message_type {
            inner(file.package(), &mut Vec::new(), node, visit);
        }
    }
}
