//! From nodes and a context to text.
//!
//! A name is looked up from the innermost scope outwards: first the whole dotted name as one key, then step by step. A step
//! before the last that is missing sends the search to the next scope outwards; a missing last step, or a null on the way, ends it with
//! nothing. A list answers `isEmpty` and `size`, a string `isEmpty` and `length`, as the JVM's own did.

use serde_json::Value;

use super::{MAX_OUTPUT, Node, Template, TemplateError, text};

/// The one function of the context: its body names a top-level string, which is inserted as a template again.
const AS_JSON: &str = "asJson";

/// Renders a template's nodes.
pub fn render(nodes: &[Node], context: &Value) -> Result<String, TemplateError> {
    let mut renderer =
        Renderer { out: String::new(), scopes: vec![(context, false)], root: context, again: true };
    renderer.nodes(nodes)?;
    Ok(renderer.out)
}

struct Renderer<'a> {
    out: String,
    /// Innermost last; whether each is an item of a list.
    scopes: Vec<(&'a Value, bool)>,
    root: &'a Value,
    /// Whether `asJson` may still insert a template: once, so that a value cannot name itself for ever.
    again: bool,
}

/// A value found in the context, or made by a member.
enum Found<'a> {
    Here(&'a Value),
    Made(Value),
    /// A string directly inside a list, which keeps its quotes.
    Item(&'a Value),
    Nothing,
}

impl<'a> Renderer<'a> {
    fn nodes(&mut self, nodes: &[Node]) -> Result<(), TemplateError> {
        for node in nodes {
            match node {
                Node::Text(text) => self.out.push_str(text),
                Node::Variable(name) => match self.find(name) {
                    Found::Here(value) => text::print(value, &mut self.out),
                    Found::Made(value) => text::print(&value, &mut self.out),
                    Found::Item(value) => self.out.push_str(&value.to_string()),
                    Found::Nothing => {}
                },
                Node::Section { name, source, .. } if name == AS_JSON && self.is_free(AS_JSON) => {
                    self.insert(source.trim())?;
                }
                Node::Section { name, body, .. } => match self.find(name) {
                    Found::Here(value) | Found::Item(value) => self.section(value, body)?,
                    Found::Made(value) if truth(&value) => self.nodes(body)?,
                    Found::Made(_) | Found::Nothing => {}
                },
                Node::Inverted { name, body } => {
                    let full = match self.find(name) {
                        Found::Here(value) | Found::Item(value) => truth(value),
                        Found::Made(value) => truth(&value),
                        Found::Nothing => false,
                    };
                    if !full {
                        self.nodes(body)?;
                    }
                }
            }
            if self.out.len() > MAX_OUTPUT {
                return Err(TemplateError::TooLong);
            }
        }
        Ok(())
    }

    fn section(&mut self, value: &'a Value, body: &[Node]) -> Result<(), TemplateError> {
        match value {
            Value::Array(items) => {
                for item in items {
                    self.scoped(item, true, body)?;
                }
                Ok(())
            }
            other if truth(other) => self.scoped(other, false, body),
            _ => Ok(()),
        }
    }

    fn scoped(&mut self, scope: &'a Value, item: bool, body: &[Node]) -> Result<(), TemplateError> {
        if scope.is_null() {
            return self.nodes(body);
        }
        self.scopes.push((scope, item));
        let rendered = self.nodes(body);
        self.scopes.pop();
        rendered
    }

    fn is_free(&self, name: &str) -> bool {
        self.root.get(name).is_none()
    }

    /// `{{#asJson}}name{{/asJson}}`: a string's text becomes part of the template, anything else `null`.
    fn insert(&mut self, name: &str) -> Result<(), TemplateError> {
        match self.root.get(name) {
            Some(Value::String(source)) if self.again => {
                let template = Template::parse(source)?;
                self.again = false;
                let rendered = self.nodes(&template.nodes);
                self.again = true;
                rendered
            }
            _ => {
                self.out.push_str("null");
                Ok(())
            }
        }
    }

    fn find(&self, name: &str) -> Found<'a> {
        if name == "." {
            return match self.scopes.last() {
                Some((scope, true)) if scope.is_string() => Found::Item(scope),
                Some((scope, _)) => Found::Here(scope),
                None => Found::Nothing,
            };
        }
        for (scope, _) in self.scopes.iter().rev() {
            if let Some(value) = scope.get(name) {
                return Found::Here(value);
            }
            if let Some(found) = walk(scope, name) {
                return found;
            }
        }
        Found::Nothing
    }
}

/// Follows a dotted name inside one scope. `None`: not here, look further out.
fn walk<'a>(scope: &'a Value, name: &str) -> Option<Found<'a>> {
    let mut here = scope;
    let mut steps = name.split('.').peekable();
    let single = !name.contains('.');
    while let Some(step) = steps.next() {
        let last = steps.peek().is_none();
        match here.get(step) {
            Some(Value::Null) => return Some(Found::Nothing),
            Some(value) => here = value,
            None => {
                return match member(here, step) {
                    Some(made) if last => Some(Found::Made(made)),
                    _ if last && !single => Some(Found::Nothing),
                    _ => None,
                };
            }
        }
    }
    Some(Found::Here(here))
}

/// What lists and strings answer of themselves.
fn member(value: &Value, name: &str) -> Option<Value> {
    match (value, name) {
        (Value::Array(items), "isEmpty") => Some(Value::Bool(items.is_empty())),
        (Value::Array(items), "size") => Some(Value::from(items.len())),
        (Value::String(string), "isEmpty") => Some(Value::Bool(string.is_empty())),
        (Value::String(string), "length") => Some(Value::from(string.encode_utf16().count())),
        _ => None,
    }
}

fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(truth) => *truth,
        Value::String(string) => !string.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Number(_) | Value::Object(_) => true,
    }
}
