//! `plenum cluster`: the masters, who leads, agents by state, and in sentences what is wrong.

use std::fmt::Write as _;

use clap::Subcommand;
use serde_json::Value;

use super::view;
use crate::Global;
use crate::api::Session;
use crate::error::Result;
use crate::screen::{Output, Screen};
use crate::table::{Cell, Table, Tone};
use crate::text::clean;

/// Shown by `plenum cluster --help`.
pub(crate) const EXAMPLES: &str =
    "Examples:\n  plenum cluster status\n  plenum cluster status --watch\n  plenum cluster status -o json";

/// What to do with the cluster.
#[derive(Subcommand, Debug)]
pub enum ClusterVerb {
    /// Show every master, who leads, agents by state, and what is wrong
    #[command(after_help = EXAMPLES)]
    Status {
        /// Go on showing it
        #[arg(long, short)]
        watch: bool,
    },
}

pub(crate) async fn run(
    session: &Session,
    global: &Global,
    verb: &ClusterVerb,
    screen: &mut Screen,
) -> Result<()> {
    let ClusterVerb::Status { watch } = verb;
    view(screen, *watch, async |screen| {
        let status: Value = session.get("/plenum/v1/status").await?;
        let mut text = screen.form(global.output, &status, || masters(&status))?;
        if matches!(global.output, Output::Table | Output::Wide) {
            text.push_str(&rest(&status));
        }
        Ok(text)
    })
    .await
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn masters(status: &Value) -> Table {
    let mut table = Table::new(
        &["MASTER", "ADDRESS", "CONDITION", "LEADS", "CERTIFICATES"],
        &["DOWN"],
        "no masters are known here",
    );
    for master in list(status, "masters") {
        let name = text(master, "name");
        let roles = master.get("roles").and_then(Value::as_object);
        let all = roles.map_or(0, serde_json::Map::len);
        let is_up = |role: &Value| role.get("up").and_then(Value::as_bool).unwrap_or(false);
        let down: Vec<&str> = roles
            .into_iter()
            .flatten()
            .filter(|(_, role)| !is_up(role))
            .map(|(name, _)| name.as_str())
            .collect();
        let leaving = master.get("leaving").and_then(Value::as_bool).unwrap_or(false);
        let condition = match (down.len(), leaving) {
            (0, false) => Cell::toned("up", Tone::Good),
            (0, true) => Cell::toned("leaving", Tone::Busy),
            (count, _) if count == all => Cell::toned("down", Tone::Bad),
            (count, _) => Cell::toned(format!("{} of {all} up", all - count), Tone::Bad),
        };
        let leads: Vec<&str> = status
            .get("leaders")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .filter(|(_, led)| text(led, "name") == name)
            .map(|(role, _)| role.as_str())
            .collect();
        let days = roles.into_iter().flatten().filter_map(|(_, role)| role.get("certificate_days")?.as_f64());
        let least = days.fold(f64::INFINITY, f64::min);
        table.row(vec![
            Cell::from(name),
            Cell::from(text(master, "address")),
            condition,
            if leads.is_empty() { "-".into() } else { leads.join(" ").into() },
            if least.is_finite() { left(least).into() } else { "-".into() },
            if down.is_empty() { "-".into() } else { down.join(" ").into() },
        ]);
    }
    table
}

/// How long certificates are good for: hours, and days from two on.
fn left(days: f64) -> String {
    if days >= 2.0 { format!("{days:.0}d") } else { format!("{:.0}h", days * 24.0) }
}

/// What follows the table.
fn rest(status: &Value) -> String {
    let mut out = String::from("\n");
    match status.get("agents").filter(|agents| !agents.is_null()) {
        Some(agents) => {
            let count = |name: &str| agents.get(name).and_then(Value::as_u64).unwrap_or(0);
            let (active, inactive, unreachable) = (count("active"), count("inactive"), count("unreachable"));
            let _ = writeln!(out, "Agents: {active} active, {inactive} inactive, {unreachable} unreachable");
        }
        None => out.push_str("Agents: not known while no master leads\n"),
    }
    let problems = list(status, "problems");
    if problems.is_empty() {
        out.push_str("Nothing is wrong.\n");
    }
    for problem in problems.iter().filter_map(Value::as_str) {
        let _ = writeln!(out, "! {}", clean(problem));
    }
    for warning in list(status, "warnings").iter().filter_map(Value::as_str) {
        let _ = writeln!(out, "~ {}", clean(warning));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Look;
    use serde_json::json;

    #[test]
    fn a_fleet_at_a_glance() {
        let status = json!({
            "healthy": false, "fleet": true, "problems": ["identity on m2 (10.0.0.2) does not answer"],
            "leaders": {"master": {"name": "m1", "url": "https://10.0.0.1:5050", "term": 3}, "services": {"name": "m1"}},
            "masters": [
                {"name": "m1", "address": "10.0.0.1", "roles": {"master": {"up": true, "certificate_days": 0.5}, "identity": {"up": true, "certificate_days": 0.9}}},
                {"name": "m2", "address": "10.0.0.2", "roles": {"master": {"up": true, "certificate_days": 30.0}, "identity": {"up": false}}},
                {"name": "m3", "address": "10.0.0.3", "roles": {"master": {"up": false}}},
                {"name": "m4", "address": "10.0.0.4", "leaving": true, "roles": {"master": {"up": true}}},
            ],
            "agents": {"active": 2, "inactive": 0, "unreachable": 1},
        });
        assert_eq!(
            masters(&status).render(Look { wide: true, ..Look::default() }),
            "MASTER  ADDRESS   CONDITION  LEADS            CERTIFICATES  DOWN\n\
             m1      10.0.0.1  up         master services  12h           -\n\
             m2      10.0.0.2  1 of 2 up  -                30d           identity\n\
             m3      10.0.0.3  down       -                -             master\n\
             m4      10.0.0.4  leaving    -                -             -\n"
        );
        let below = rest(&status);
        assert_eq!(
            below,
            "\nAgents: 2 active, 0 inactive, 1 unreachable\n! identity on m2 (10.0.0.2) does not answer\n"
        );
        let well = rest(&json!({"agents": null, "problems": []}));
        assert_eq!(well, "\nAgents: not known while no master leads\nNothing is wrong.\n");
    }
}
