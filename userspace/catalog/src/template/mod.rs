//! The template language of packages: Mustache as the engine behind DC/OS' catalog read it, differences from the specification
//! included, because published packages depend on them. Templates come from the network: there are no partials, no delimiter
//! changes, no pragmas, no access to anything but the context, and size and depth are bounded.
//!
//! The rules (source: mustache.java 0.9.6 as Cosmos configured it):
//! * nothing is HTML-escaped; strings are inserted as the inside of a JSON string;
//! * false are: missing, null, `false`, `""` and the empty list; `0` and `{}` are true;
//! * a name is looked up from the innermost scope outwards, see [`render`];
//! * a section's tag alone on its line takes the line with it.

mod parse;
mod render;
mod text;

use serde_json::Value;

/// Sections may nest this deep.
const MAX_DEPTH: usize = 64;
/// A rendering may be this long, in bytes.
const MAX_OUTPUT: usize = 8 << 20;

/// Why a template is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// `{{}}`.
    #[error("line {line}: an empty tag")]
    Empty {
        /// Counted from 1.
        line: usize,
    },
    /// `{{` without `}}`, or `{{{` without `}}}`.
    #[error("line {line}: the tag {tag:?} is not closed")]
    Unterminated {
        /// Counted from 1.
        line: usize,
        /// The tag's text, shortened.
        tag: String,
    },
    /// A closing tag for another section than the open one.
    #[error("line {line}: {found:?} closes where {wanted:?} is open")]
    Mismatched {
        /// Counted from 1.
        line: usize,
        /// The section that is open; empty where none is.
        wanted: String,
        /// The closing tag's name.
        found: String,
    },
    /// A section that the template's end leaves open.
    #[error("the section {section:?} is never closed")]
    Unclosed {
        /// The section's name.
        section: String,
    },
    /// A tag that this language does not have.
    #[error("line {line}: tags that begin with {sigil:?} are not allowed in a package")]
    Unsupported {
        /// Counted from 1.
        line: usize,
        /// The tag's first character.
        sigil: char,
    },
    /// Sections nested too deep.
    #[error("line {line}: sections nest deeper than {MAX_DEPTH}")]
    TooDeep {
        /// Counted from 1.
        line: usize,
    },
    /// The rendering is too long.
    #[error("the rendering is longer than {MAX_OUTPUT} bytes")]
    TooLong,
}

/// A piece of a parsed template.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    Text(String),
    Variable(String),
    /// Rendered for each item of a list, or once for what is true.
    Section {
        name: String,
        body: Vec<Node>,
        source: String,
    },
    /// Rendered for what is false.
    Inverted {
        name: String,
        body: Vec<Node>,
    },
}

/// A parsed template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    nodes: Vec<Node>,
}

impl Template {
    /// Parses a template.
    pub fn parse(source: &str) -> Result<Self, TemplateError> {
        parse::parse(source).map(|nodes| Self { nodes })
    }

    /// Renders with a context.
    pub fn render(&self, context: &Value) -> Result<String, TemplateError> {
        render::render(&self.nodes, context)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Template, TemplateError};

    fn check(template: &str, context: &serde_json::Value, expected: &str) {
        let rendered = Template::parse(template).and_then(|parsed| parsed.render(context));
        assert_eq!(rendered.as_deref(), Ok(expected), "{template:?} with {context}");
    }

    #[test]
    fn values_become_text_that_suits_json() {
        let context =
            json!({"n": 1.0, "s": "q\"\n<&>", "list": ["a", 1, null, ["x"]], "o": {"k": "v"}, "e": {}});
        check(
            r#"{{n}} "{{s}}" {{list}} {{{o}}} {{& e}}"#,
            &context,
            r#"1 "q\"\n<&>" ["a", 1, null, ["x"]] {k=v} {}"#,
        );
        check("{{n}}", &json!({"n": 1e21}), "1000000000000000000000");
        check("{{n}}", &json!({"n": 12_345_678.5}), "1.23456785E7");
        check("{{n}}", &json!({"n": 0.00001}), "1.0E-5");
    }

    #[test]
    fn truth() {
        for (value, full) in [
            (json!(0), true),
            (json!({}), true),
            (json!(" "), true),
            (json!([0]), true),
            (json!(""), false),
            (json!([]), false),
            (json!(null), false),
            (json!(false), false),
        ] {
            let expected = if full { "full" } else { "empty" };
            check("{{#v}}full{{/v}}{{^v}}empty{{/v}}", &json!({ "v": value }), expected);
        }
    }

    #[test]
    fn names_are_looked_up_outwards_but_not_for_a_last_step() {
        check("{{#a}}{{#b}}{{c.d}}{{/b}}{{/a}}", &json!({"a": {"b": {"c": {}}}, "c": {"d": "outer"}}), "");
        check("{{#b}}{{c.d.e}}{{/b}}", &json!({"b": {"c": {}}, "c": {"d": {"e": "outer"}}}), "outer");
        check("{{Framework Settings.cpu-limit}}", &json!({"Framework Settings": {"cpu-limit": 2}}), "2");
        check("{{^l.isEmpty}}has{{/l.isEmpty}} {{l.size}}", &json!({"l": ["x"]}), "has 1");
        check("{{#asJson}}o{{/asJson}}", &json!({"o": {"a": [1]}}), "null");
        check("{{#asJson}}o{{/asJson}}", &json!({"o": "{{b}}", "b": 3}), "3");
    }

    #[test]
    fn a_section_alone_on_its_line_takes_the_line() {
        check("a\n  {{#t}}\n  b\n  {{/t}}\nc\n", &json!({"t": true}), "a\n  b\nc\n");
        check("a\n  {{#t}}\n  b\n  {{/t}}\nc\n", &json!({"t": false}), "a\nc\n");
        check("  {{#t}}a{{/t}}\n", &json!({"t": false}), "  \n");
        check("a {{! x }} b\n  {{! line }}\nc", &json!({}), "a  b\n  \nc");
        check("{{#t}}\r\nx\r\n{{/t}}\r\ny", &json!({"t": true}), "x\r\ny");
    }

    #[test]
    fn what_is_no_template_is_refused() {
        let refused = |template: &str| Template::parse(template).expect_err(template);
        assert!(matches!(refused("{{#a}}{{/b}}"), TemplateError::Mismatched { .. }));
        assert!(matches!(refused("a}} {{b"), TemplateError::Unterminated { .. }));
        assert!(matches!(refused("{{{b}} "), TemplateError::Unterminated { .. }));
        assert!(matches!(refused("{{}}"), TemplateError::Empty { .. }));
        assert!(matches!(refused("{{#a}}"), TemplateError::Unclosed { .. }));
        assert!(matches!(refused("{{> /etc/passwd}}"), TemplateError::Unsupported { sigil: '>', .. }));
        assert!(matches!(refused("{{=<% %>=}}"), TemplateError::Unsupported { sigil: '=', .. }));
        assert!(matches!(refused(&"{{#a}}".repeat(100)), TemplateError::TooDeep { .. }));
    }

    #[test]
    fn a_rendering_is_bounded() {
        let list: Vec<u8> = vec![1; 1000];
        let bomb = "{{#a}}{{#a}}{{#a}}{{#a}}xxxxxxxx{{/a}}{{/a}}{{/a}}{{/a}}";
        let rendered = Template::parse(bomb).and_then(|parsed| parsed.render(&json!({ "a": list })));
        assert_eq!(rendered, Err(TemplateError::TooLong));
    }
}
