//! `plenum node`: the nodes and what they have.

use clap::Subcommand;

use super::{now, token, view};
use crate::Global;
use crate::api::Session;
use crate::api::nodes::Node;
use crate::error::Result;
use crate::screen::Screen;
use crate::table::{Cell, Table, Tone};
use crate::text::{age_of_seconds, mebibytes, number, plain};

/// Shown by `plenum node --help`.
pub(crate) const EXAMPLES: &str =
    "Examples:\n  plenum node list\n  plenum node list -o wide\n  plenum node list --watch";

/// What to do with nodes.
#[derive(Subcommand, Debug)]
pub enum NodeVerb {
    /// Show all nodes
    #[command(alias = "ls", after_help = EXAMPLES)]
    List {
        /// Go on showing it
        #[arg(long, short)]
        watch: bool,
    },
    /// Let hosts in: make, show and revoke join tokens
    #[command(alias = "tokens", after_help = token::EXAMPLES)]
    Token {
        /// What to do.
        #[command(subcommand)]
        verb: token::TokenVerb,
    },
}

pub(crate) async fn run(
    session: &Session,
    global: &Global,
    verb: &NodeVerb,
    screen: &mut Screen,
) -> Result<()> {
    let watch = match verb {
        NodeVerb::List { watch } => watch,
        NodeVerb::Token { verb } => return token::run(session, global, verb, screen).await,
    };
    view(screen, *watch, async |screen| {
        let nodes = session.nodes().await?;
        screen.form(global.output, &nodes, || list_table(&nodes, now()))
    })
    .await
}

fn condition(node: &Node) -> (&'static str, Tone) {
    if node.other.get("drain_info").is_some_and(|info| !info.is_null()) {
        ("draining", Tone::Busy)
    } else if node.active {
        ("active", Tone::Good)
    } else {
        ("inactive", Tone::Bad)
    }
}

fn list_table(nodes: &[Node], now: i64) -> Table {
    let head = ["NODE", "CONDITION", "CPUS USED", "MEM USED", "DISK USED", "AGE"];
    let mut table = Table::new(
        &head,
        &["GPUS", "ID", "VERSION", "ATTRIBUTES"],
        "no nodes; `plenum status` says how the agent is",
    );
    let mut sorted: Vec<&Node> = nodes.iter().collect();
    sorted.sort_by(|a, b| (&a.hostname, &a.id).cmp(&(&b.hostname, &b.id)));
    for node in sorted {
        let (word, tone) = condition(node);
        let (used, all) = (&node.used_resources, &node.resources);
        let attributes: Vec<String> =
            node.attributes.iter().map(|(name, value)| format!("{name}={}", plain(value))).collect();
        table.row(vec![
            Cell::from(&node.hostname),
            Cell::toned(word, tone),
            format!("{}/{}", number(used.cpus), number(all.cpus)).into(),
            format!("{}/{}", mebibytes(used.mem), mebibytes(all.mem)).into(),
            format!("{}/{}", mebibytes(used.disk), mebibytes(all.disk)).into(),
            age_of_seconds(now, node.registered_time).into(),
            number(all.gpus).into(),
            Cell::from(&node.id),
            Cell::from(&node.version),
            if attributes.is_empty() { "-".into() } else { attributes.join(" ").into() },
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Look;
    use serde_json::json;

    #[test]
    fn nodes_are_listed_with_what_is_used() {
        let nodes: Vec<Node> = serde_json::from_value(json!([
            {"id": "S1", "hostname": "n2", "active": true, "registered_time": 1000.0, "version": "1.11.0", "attributes": {"rack": "a", "n": 2},
             "resources": {"cpus": 8, "mem": 16384, "disk": 1024, "ports": "[1-2]"}, "used_resources": {"cpus": 0.5, "mem": 128}},
            {"id": "S0", "hostname": "n1", "active": false, "used_resources": null},
            {"id": "S2", "hostname": "n3", "active": true, "drain_info": {"state": "DRAINING"}}
        ]))
        .unwrap();
        let table = list_table(&nodes, 1_300_000);
        assert_eq!(
            table.render(Look::default()),
            "NODE  CONDITION  CPUS USED  MEM USED  DISK USED  AGE\n\
             n1    inactive   0/0        0M/0M     0M/0M      -\n\
             n2    active     0.5/8      128M/16G  0M/1G      5m\n\
             n3    draining   0/0        0M/0M     0M/0M      -\n"
        );
        let wide = table.render(Look { wide: true, ..Look::default() });
        assert!(wide.contains("5m   0     S1  1.11.0   n=2 rack=a\n"), "{wide}");
    }
}
