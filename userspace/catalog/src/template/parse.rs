//! From text to nodes, character by character, because what counts as a line of its own depends on what was read before.

use super::{MAX_DEPTH, Node, TemplateError};

/// Parses a whole template.
pub fn parse(source: &str) -> Result<Vec<Node>, TemplateError> {
    let mut reader = Reader { source, at: 0, line: 1 };
    let level = reader.level(None, false, 0)?;
    Ok(level.nodes)
}

struct Reader<'a> {
    source: &'a str,
    at: usize,
    line: usize,
}

/// What one level of sections remembers of the line it is on.
struct Level {
    nodes: Vec<Node>,
    text: String,
    /// Only blanks since the line began.
    blank: bool,
    /// No tag since the line began.
    fresh: bool,
    /// A section over several lines began or ended on this line, which is dropped if it is blank.
    dropping: bool,
    /// A carriage return waits for its newline.
    carriage: bool,
}

impl Level {
    fn flush(&mut self) {
        if !self.text.is_empty() {
            self.nodes.push(Node::Text(std::mem::take(&mut self.text)));
        }
    }

    fn newline(&mut self) {
        if !(self.dropping && self.blank) {
            self.text.push_str(if self.carriage { "\r\n" } else { "\n" });
        }
        self.flush();
        (self.blank, self.fresh, self.dropping, self.carriage) = (true, true, false, false);
    }
}

impl Reader<'_> {
    /// Reads until the section `open` is closed, or to the end at the outermost level.
    fn level(&mut self, open: Option<&str>, fresh: bool, depth: usize) -> Result<Level, TemplateError> {
        if depth > MAX_DEPTH {
            return Err(TemplateError::TooDeep { line: self.line });
        }
        let fresh = if open.is_none() { true } else { fresh };
        let mut level = Level {
            nodes: Vec::new(),
            text: String::new(),
            blank: true,
            fresh,
            dropping: open.is_some(),
            carriage: false,
        };
        while let Some(character) = self.source[self.at..].chars().next() {
            if self.source[self.at..].starts_with("{{") {
                level.carriage = false;
                self.at += 2;
                if self.tag(&mut level, open, depth)? {
                    return Ok(level);
                }
                level.fresh = false;
                continue;
            }
            self.at += character.len_utf8();
            match character {
                '\r' => level.carriage = true,
                '\n' => {
                    self.line += 1;
                    level.newline();
                }
                other => {
                    level.carriage = false;
                    level.blank &= matches!(other, ' ' | '\t');
                    level.text.push(other);
                }
            }
        }
        level.flush();
        match open {
            Some(section) => Err(TemplateError::Unclosed { section: section.to_owned() }),
            None => Ok(level),
        }
    }

    /// The text up to `}}`, which is consumed.
    fn command(&mut self) -> Result<&str, TemplateError> {
        let rest = &self.source[self.at..];
        let Some(end) = rest.find("}}") else {
            return Err(TemplateError::Unterminated {
                line: self.line,
                tag: rest.chars().take(40).collect(),
            });
        };
        self.line += rest[..end].matches('\n').count();
        self.at += end + 2;
        Ok(&rest[..end])
    }

    /// One tag, its braces read. True where it closes this level.
    fn tag(&mut self, level: &mut Level, open: Option<&str>, depth: usize) -> Result<bool, TemplateError> {
        let line = self.line;
        let command = self.command()?.to_owned();
        let Some(sigil) = command.chars().next() else { return Err(TemplateError::Empty { line }) };
        let name = command[sigil.len_utf8()..].trim().to_owned();
        match sigil {
            '#' | '^' => self.section(sigil, name, level, depth)?,
            '/' => {
                // A closing tag alone on its line leaves nothing of that line's indentation.
                if !(level.fresh && level.blank) {
                    level.flush();
                }
                if open != Some(name.as_str()) {
                    let wanted = open.unwrap_or_default().to_owned();
                    return Err(TemplateError::Mismatched { line, wanted, found: name });
                }
                return Ok(true);
            }
            '{' => {
                level.flush();
                if !self.source[self.at..].starts_with('}') {
                    return Err(TemplateError::Unterminated { line, tag: name });
                }
                self.at += 1;
                level.nodes.push(Node::Variable(name));
            }
            '&' => {
                level.flush();
                level.nodes.push(Node::Variable(name));
            }
            '!' => level.flush(),
            '>' | '<' | '$' | '?' | '%' | '=' => return Err(TemplateError::Unsupported { line, sigil }),
            _ => {
                level.flush();
                level.nodes.push(Node::Variable(command.trim().to_owned()));
            }
        }
        Ok(false)
    }

    fn section(
        &mut self,
        sigil: char,
        name: String,
        level: &mut Level,
        depth: usize,
    ) -> Result<(), TemplateError> {
        let (line, start) = (self.line, self.at);
        let fresh = level.fresh && level.blank;
        let inner = self.level(Some(&name), fresh, depth + 1)?;
        let over_lines = self.line != line;
        if level.blank && over_lines {
            level.text.clear();
        } else {
            level.flush();
        }
        level.dropping = over_lines;
        let body = inner.nodes;
        level.nodes.push(if sigil == '#' {
            let whole = &self.source[start..self.at];
            let source = whole.rfind("{{").map_or("", |end| &whole[..end]).to_owned();
            Node::Section { name, body, source }
        } else {
            Node::Inverted { name, body }
        });
        Ok(())
    }
}
