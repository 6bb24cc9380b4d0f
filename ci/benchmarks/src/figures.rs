//! Figures beside their marks: the table for people and the file for machines.

use anyhow::{Context, Result};
use serde::Serialize;

/// One measured number. Without a mark it is only for information.
#[derive(Serialize)]
pub struct Figure {
    name: String,
    value: f64,
    unit: String,
    mark: Option<f64>,
    holds: Option<bool>,
}

/// All figures of one measurement.
#[derive(Serialize)]
pub struct Figures {
    bench: String,
    figures: Vec<Figure>,
}

impl Figures {
    /// None yet.
    pub fn new(bench: &str) -> Self {
        Figures { bench: bench.to_string(), figures: Vec::new() }
    }

    /// A figure that should be at most its mark.
    pub fn at_most(&mut self, name: impl Into<String>, value: f64, unit: &str, mark: f64) {
        self.push(name.into(), value, unit, Some(mark), Some(value <= mark));
    }

    /// A figure that should be at least its mark.
    #[cfg(feature = "kernel")]
    pub fn at_least(&mut self, name: impl Into<String>, value: f64, unit: &str, mark: f64) {
        self.push(name.into(), value, unit, Some(mark), Some(value >= mark));
    }

    /// A figure that should be exactly its mark.
    pub fn exactly(&mut self, name: impl Into<String>, value: f64, unit: &str, mark: f64) {
        self.push(name.into(), value, unit, Some(mark), Some(value == mark));
    }

    /// A figure without a mark.
    pub fn note(&mut self, name: impl Into<String>, value: f64, unit: &str) {
        self.push(name.into(), value, unit, None, None);
    }

    fn push(&mut self, name: String, value: f64, unit: &str, mark: Option<f64>, holds: Option<bool>) {
        self.figures.push(Figure { name, value, unit: unit.to_string(), mark, holds });
    }

    /// Whether a mark was missed.
    pub fn missed(&self) -> bool {
        self.figures.iter().any(|figure| figure.holds == Some(false))
    }

    /// The table.
    pub fn print(&self) {
        let width = self.figures.iter().map(|f| f.name.chars().count()).max().unwrap_or(0);
        println!("{:width$}  {:>12}  {:>12}  {:<6}  holds", self.bench, "value", "mark", "unit");
        for f in &self.figures {
            let mark = f.mark.map(number).unwrap_or_default();
            let holds = f.holds.map_or("", |h| if h { "yes" } else { "NO" });
            println!("{:width$}  {:>12}  {:>12}  {:<6}  {holds}", f.name, number(f.value), mark, f.unit);
        }
    }

    /// The same as JSON.
    pub fn write_json(&self, file: &str) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        std::fs::write(file, text + "\n").with_context(|| format!("cannot write {file}"))
    }
}

fn number(n: f64) -> String {
    if n.fract() == 0.0 && n.abs() < 1e15 { format!("{n}") } else { format!("{n:.3}") }
}
