//! Where output goes and what the other end is: a terminal or not, its width, colours; questions and secrets that a person types.

use std::io::{BufRead as _, BufReader, IsTerminal as _, Read, Write};

use clap::ValueEnum;
use serde::Serialize;

use crate::error::{CliError, Result};
use crate::table::{Look, Table};

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Output {
    /// For people
    #[default]
    Table,
    /// The table with more columns
    Wide,
    /// For programs: the cluster's own fields
    Json,
    /// The same as YAML
    Yaml,
}

/// The streams of a process, and what is at their other ends.
pub struct Screen {
    /// Results.
    pub out: Box<dyn Write>,
    /// Progress and errors.
    pub err: Box<dyn Write>,
    input: BufReader<Box<dyn Read + Send>>,
    /// The width of the terminal that results go to, if it is one.
    pub width: Option<usize>,
    /// Colours in results.
    pub colour: bool,
    /// Progress goes to a terminal: lines may be drawn over.
    pub live: bool,
    /// A person can be asked.
    pub asks: bool,
    drawn: bool,
}

impl std::fmt::Debug for Screen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Screen").field("width", &self.width).field("live", &self.live).finish_non_exhaustive()
    }
}

impl Screen {
    /// This process's.
    #[must_use]
    pub fn of_this_process() -> Self {
        let (out, err, input) = (std::io::stdout(), std::io::stderr(), std::io::stdin());
        let width = terminal_size::terminal_size().map(|(width, _)| usize::from(width.0));
        Self {
            width: width.filter(|_| out.is_terminal()),
            colour: anstream::AutoStream::choice(&out) != anstream::ColorChoice::Never,
            live: err.is_terminal(),
            asks: input.is_terminal() && err.is_terminal(),
            ..Self::new(Box::new(out), Box::new(err), Box::new(input))
        }
    }

    /// Streams that are no terminals.
    #[must_use]
    pub fn new(out: Box<dyn Write>, err: Box<dyn Write>, input: Box<dyn Read + Send>) -> Self {
        let input = BufReader::new(input);
        Self { out, err, input, width: None, colour: false, live: false, asks: false, drawn: false }
    }

    /// A result as text in the form asked for.
    ///
    /// # Errors
    /// [`CliError::Local`] where YAML cannot say it.
    pub fn form<T: Serialize>(
        &self,
        output: Output,
        value: &T,
        table: impl FnOnce() -> Table,
    ) -> Result<String> {
        let local =
            |error: &dyn std::fmt::Display| CliError::Local(format!("the result cannot be written: {error}"));
        Ok(match output {
            Output::Json => serde_json::to_string_pretty(value).map_err(|e| local(&e))? + "\n",
            Output::Yaml => {
                let text = serde_saphyr::to_string(value).map_err(|e| local(&e))?;
                if text.ends_with('\n') { text } else { text + "\n" }
            }
            Output::Table | Output::Wide => table().render(self.look(output)),
        })
    }

    /// Prints how something went: a sentence for people, a value for programs.
    ///
    /// # Errors
    /// As for [`Screen::form`] and [`Screen::print`].
    pub fn outcome(&mut self, output: Output, value: &serde_json::Value, sentence: &str) -> Result<()> {
        let text = match output {
            Output::Table | Output::Wide => format!("{sentence}\n"),
            Output::Json | Output::Yaml => self.form(output, value, || Table::new(&[], &[], ""))?,
        };
        self.print(&text)
    }

    /// How tables look here.
    #[must_use]
    pub fn look(&self, output: Output) -> Look {
        Look { wide: output == Output::Wide, width: self.width, colour: self.colour }
    }

    /// Prints a result.
    ///
    /// # Errors
    /// [`CliError::Closed`], [`CliError::Local`].
    pub fn print(&mut self, text: &str) -> Result<()> {
        self.clear()?;
        self.out.write_all(text.as_bytes())?;
        Ok(self.out.flush()?)
    }

    /// Draws a line of progress over the one before; nothing where there is no terminal.
    ///
    /// # Errors
    /// As for [`Screen::print`].
    pub fn progress(&mut self, line: &str) -> Result<()> {
        if !self.live {
            return Ok(());
        }
        let line: String = line.chars().take(self.width.unwrap_or(80).saturating_sub(1)).collect();
        write!(self.err, "\r{line}\u{1b}[K")?;
        self.drawn = true;
        Ok(self.err.flush()?)
    }

    /// Says something beside the results.
    ///
    /// # Errors
    /// As for [`Screen::print`].
    pub fn note(&mut self, line: &str) -> Result<()> {
        self.clear()?;
        writeln!(self.err, "{line}")?;
        Ok(self.err.flush()?)
    }

    /// Wipes the line of progress.
    fn clear(&mut self) -> Result<()> {
        if std::mem::take(&mut self.drawn) {
            write!(self.err, "\r\u{1b}[K")?;
            self.err.flush()?;
        }
        Ok(())
    }

    /// Wipes a terminal, for a view that is drawn anew.
    ///
    /// # Errors
    /// As for [`Screen::print`].
    pub fn wipe(&mut self) -> Result<()> {
        if self.width.is_some() {
            self.out.write_all(b"\x1b[H\x1b[2J")?;
        }
        Ok(())
    }

    /// Gives the standard input away, for somebody who passes it on; what is read here afterwards is empty.
    #[must_use]
    pub fn take_input(&mut self) -> Box<dyn Read + Send> {
        Box::new(std::mem::replace(&mut self.input, BufReader::new(Box::new(std::io::empty()))))
    }

    /// Everything on the standard input, at most 16 MiB.
    ///
    /// # Errors
    /// [`CliError::Local`].
    pub fn read_all(&mut self) -> Result<String> {
        let mut text = String::new();
        (&mut self.input)
            .take(16 << 20)
            .read_to_string(&mut text)
            .map_err(|error| CliError::Local(format!("the standard input cannot be read: {error}")))?;
        Ok(text)
    }

    /// A line of the standard input, without its end.
    ///
    /// # Errors
    /// [`CliError::Local`].
    pub fn read_line(&mut self) -> Result<String> {
        let mut line = String::new();
        (&mut self.input)
            .take(64 << 10)
            .read_line(&mut line)
            .map_err(|error| CliError::Local(format!("the standard input cannot be read: {error}")))?;
        Ok(line.trim_end_matches(['\n', '\r']).to_owned())
    }

    /// Asks a question; the answer without its line end.
    ///
    /// # Errors
    /// [`CliError::Local`].
    pub fn ask(&mut self, question: &str) -> Result<String> {
        self.clear()?;
        write!(self.err, "{question}")?;
        self.err.flush()?;
        self.read_line()
    }

    /// Whether a person says yes. Where nobody can be asked, no.
    ///
    /// # Errors
    /// [`CliError::Local`].
    pub fn agrees(&mut self, question: &str) -> Result<bool> {
        if !self.asks {
            return Ok(false);
        }
        let answer = self.ask(&format!("{question} [y/N] "))?;
        Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
    }

    /// Asks for a secret without showing it.
    ///
    /// # Errors
    /// [`CliError::Local`].
    pub fn ask_secret(&mut self, question: &str) -> Result<String> {
        use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
        let terminal = std::io::stdin();
        let Ok(before) = tcgetattr(&terminal) else { return self.ask(question) };
        let mut hidden = before.clone();
        hidden.local_flags.remove(LocalFlags::ECHO);
        hidden.local_flags.insert(LocalFlags::ECHONL);
        tcsetattr(&terminal, SetArg::TCSAFLUSH, &hidden)
            .map_err(|error| CliError::Local(format!("the terminal cannot hide a password: {error}")))?;
        let answer = self.ask(question);
        // Nothing better can be done about a terminal that refuses now.
        let _ = tcsetattr(&terminal, SetArg::TCSAFLUSH, &before);
        answer
    }
}
