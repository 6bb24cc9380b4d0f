//! Tables: rows in, text out. Pure. Where a terminal's width is known, the widest columns are cut until the table fits; elsewhere nothing is
//! cut, so that scripts read whole values.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};

use crate::text::clean;

/// How a cell is to be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tone {
    /// Nothing special.
    #[default]
    Plain,
    /// As wanted.
    Good,
    /// On the way.
    Busy,
    /// Wrong.
    Bad,
}

impl Tone {
    fn style(self) -> Style {
        match self {
            Self::Plain => Style::new(),
            Self::Good => AnsiColor::Green.on_default(),
            Self::Busy => AnsiColor::Yellow.on_default(),
            Self::Bad => AnsiColor::Red.on_default(),
        }
    }
}

/// A cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// A cell with a tone.
    pub fn toned(text: impl AsRef<str>, tone: Tone) -> Self {
        Self { text: clean(text.as_ref()), tone }
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::toned(text, Tone::Plain)
    }
}

/// How a table is printed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Look {
    /// Also the columns for those who want to know more.
    pub wide: bool,
    /// The terminal's width in characters, if it is one.
    pub width: Option<usize>,
    /// With colours.
    pub colour: bool,
}

/// Between columns.
const GAP: usize = 2;
/// A column is not cut below this.
const LEAST: usize = 6;

/// A table.
#[derive(Debug, Clone)]
pub struct Table {
    head: Vec<&'static str>,
    /// Columns from here on are for `wide`.
    narrow: usize,
    rows: Vec<Vec<Cell>>,
    empty: &'static str,
}

impl Table {
    /// A table with its columns' names, those for `wide` apart, and what to say when it has no rows.
    #[must_use]
    pub fn new(head: &[&'static str], wide: &[&'static str], empty: &'static str) -> Self {
        let all = head.iter().chain(wide).copied().collect();
        Self { head: all, narrow: head.len(), rows: Vec::new(), empty }
    }

    /// Adds a row; missing cells are empty, spare ones are dropped.
    pub fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// The table as text, each line ended.
    #[must_use]
    pub fn render(&self, look: Look) -> String {
        if self.rows.is_empty() {
            return format!("{}\n", self.empty);
        }
        let count = if look.wide { self.head.len() } else { self.narrow };
        let head = self.head.get(..count).unwrap_or(&self.head);
        let widths = self.widths(head, look.width);
        let bold = Style::new().bold();
        let names: Vec<(String, Style)> = head.iter().map(|name| ((*name).to_owned(), bold)).collect();
        let mut out = line(&names, &widths, look.colour);
        let none = Cell::from("");
        for row in &self.rows {
            let cell = |i: usize| row.get(i).unwrap_or(&none);
            let cells: Vec<(String, Style)> =
                (0..count).map(|i| (cell(i).text.clone(), cell(i).tone.style())).collect();
            out.push_str(&line(&cells, &widths, look.colour));
        }
        out
    }

    fn widths(&self, head: &[&'static str], limit: Option<usize>) -> Vec<usize> {
        let longest = |i: usize, name: &str| {
            let cells = self.rows.iter().filter_map(|row| row.get(i));
            cells.map(|cell| length(&cell.text)).chain([length(name)]).max().unwrap_or(0)
        };
        let mut widths: Vec<usize> = head.iter().enumerate().map(|(i, name)| longest(i, name)).collect();
        let Some(limit) = limit else { return widths };
        let room = limit.saturating_sub(GAP * head.len().saturating_sub(1));
        loop {
            let over = widths.iter().sum::<usize>().saturating_sub(room);
            let Some(widest) = widths.iter_mut().max() else { return widths };
            if over == 0 || *widest <= LEAST {
                return widths;
            }
            *widest -= 1;
        }
    }
}

fn length(text: &str) -> usize {
    text.chars().count()
}

fn line(cells: &[(String, Style)], widths: &[usize], colour: bool) -> String {
    let mut out = String::new();
    let last = cells.len().saturating_sub(1);
    for (i, ((text, style), width)) in cells.iter().zip(widths).enumerate() {
        let text = cut(text, *width);
        let pad = if i == last { 0 } else { (width + GAP).saturating_sub(length(&text)) };
        if colour && *style != Style::new() && !text.is_empty() {
            let _ = write!(out, "{style}{text}{style:#}");
        } else {
            out.push_str(&text);
        }
        out.push_str(&" ".repeat(pad));
    }
    let mut out = out.trim_end_matches(' ').to_owned();
    out.push('\n');
    out
}

fn cut(text: &str, width: usize) -> String {
    if length(text) <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{kept}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["ID", "STATE", "NOTE"], &["VERSION"], "nothing here");
        table.row(vec!["/web".into(), Cell::toned("healthy", Tone::Good), "-".into(), "v1".into()]);
        table.row(vec![
            "/a/long/name/ö".into(),
            Cell::toned("waiting", Tone::Busy),
            "no offer has come yet".into(),
        ]);
        table
    }

    #[test]
    fn columns_line_up() {
        assert_eq!(
            table().render(Look::default()),
            "ID              STATE    NOTE\n\
             /web            healthy  -\n\
             /a/long/name/ö  waiting  no offer has come yet\n"
        );
        assert_eq!(
            table().render(Look { wide: true, ..Look::default() }),
            "ID              STATE    NOTE                   VERSION\n\
             /web            healthy  -                      v1\n\
             /a/long/name/ö  waiting  no offer has come yet\n"
        );
    }

    #[test]
    fn a_narrow_terminal_cuts_the_widest_columns() {
        let text = table().render(Look { width: Some(35), ..Look::default() });
        assert_eq!(
            text,
            "ID            STATE    NOTE\n\
             /web          healthy  -\n\
             /a/long/nam…  waiting  no offer ha…\n"
        );
        assert!(text.lines().all(|line| line.chars().count() <= 35));
        assert!(table().render(Look { width: Some(0), ..Look::default() }).contains("/a/lo…"));
    }

    #[test]
    fn colours_wrap_words_only() {
        let text = table().render(Look { colour: true, ..Look::default() });
        assert!(text.contains("\u{1b}[32mhealthy\u{1b}[0m  -"), "{text:?}");
        assert!(text.starts_with("\u{1b}[1mID\u{1b}[0m"));
    }

    #[test]
    fn no_rows_are_said_in_words() {
        assert_eq!(Table::new(&["ID"], &[], "nothing here").render(Look::default()), "nothing here\n");
        let mut odd = Table::new(&["A"], &[], "");
        odd.row(vec!["1".into(), "2\u{1b}".into()]);
        odd.row(vec![]);
        assert_eq!(odd.render(Look::default()), "A\n1\n\n");
    }
}
