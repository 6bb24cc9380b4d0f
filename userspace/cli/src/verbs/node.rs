//! `plenum node`: the nodes and what they have.

use clap::Subcommand;

use super::{node_life, now, token, view};
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
    /// Empty a node: its tasks are moved away, nothing new comes
    #[command(after_help = node_life::DRAIN)]
    Drain(node_life::DrainArguments),
    /// Place nothing new on a node; what runs there runs on
    #[command(after_help = node_life::DEACTIVATE)]
    Deactivate {
        /// The node's name, address or agent id
        name: String,
    },
    /// Put a drained or deactivated node back into service
    #[command(after_help = node_life::REACTIVATE)]
    Reactivate {
        /// The node's name, address or agent id
        name: String,
    },
    /// Give a node up for ever; its tasks are lost at once
    #[command(after_help = node_life::GONE)]
    Gone {
        /// The node's name, address or agent id
        name: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Let hosts in: make, show and revoke join tokens
    #[command(alias = "tokens", after_help = token::EXAMPLES)]
    Token {
        /// What to do.
        #[command(subcommand)]
        verb: token::TokenVerb,
    },
    /// Those of the installer.
    #[command(flatten)]
    Install(Box<crate::install::NodeInstall>),
}

pub(crate) async fn run(
    session: &Session,
    global: &Global,
    verb: &NodeVerb,
    screen: &mut Screen,
) -> Result<()> {
    let watch = match verb {
        NodeVerb::List { watch } => watch,
        NodeVerb::Drain(arguments) => return node_life::drain(session, global, arguments, screen).await,
        NodeVerb::Deactivate { name } => {
            return node_life::switch(session, global, name, false, screen).await;
        }
        NodeVerb::Reactivate { name } => return node_life::switch(session, global, name, true, screen).await,
        NodeVerb::Gone { name, yes } => return node_life::gone(session, global, name, *yes, screen).await,
        NodeVerb::Token { verb } => return token::run(session, global, verb, screen).await,
        NodeVerb::Install(_) => {
            let text = "this program has no installer: use the whole `plenum`";
            return Err(crate::error::CliError::Usage(text.to_owned()));
        }
    };
    view(screen, *watch, async |screen| {
        let nodes = session.all_nodes().await?;
        screen.form(global.output, &nodes, || list_table(&nodes, now()))
    })
    .await
}

fn condition(node: &Node) -> (&'static str, Tone) {
    let state = node.state();
    let tone = match state {
        "active" => Tone::Good,
        "unreachable" | "inactive" => Tone::Bad,
        _ => Tone::Busy,
    };
    (state, tone)
}

fn list_table(nodes: &[Node], now: i64) -> Table {
    // Where the cluster's file gives hosts names, these come first; else the addresses are the names.
    let named = nodes.iter().any(Node::is_named);
    let head = ["NAME", "NODE", "ROLE", "CONDITION", "CPUS USED", "MEM USED", "DISK USED", "AGE"];
    let mut table = Table::new(
        head.get(usize::from(!named)..).unwrap_or_default(),
        &["REGION/ZONE", "GPUS", "ID", "VERSION", "ATTRIBUTES"],
        "no nodes; `plenum status` says how the agent is",
    );
    let mut sorted: Vec<&Node> = nodes.iter().collect();
    sorted.sort_by(|a, b| (a.title(), &a.id).cmp(&(b.title(), &b.id)));
    for node in sorted {
        let (word, tone) = condition(node);
        let (used, all) = (&node.used_resources, &node.resources);
        let attributes: Vec<String> =
            node.attributes.iter().map(|(name, value)| format!("{name}={}", plain(value))).collect();
        let mut row = vec![
            Cell::from(&node.hostname),
            if node.is_public() { "public" } else { "agent" }.into(),
            Cell::toned(word, tone),
            format!("{}/{}", number(used.cpus), number(all.cpus)).into(),
            format!("{}/{}", mebibytes(used.mem), mebibytes(all.mem)).into(),
            format!("{}/{}", mebibytes(used.disk), mebibytes(all.disk)).into(),
            age_of_seconds(now, node.registered_time).into(),
            Cell::from(&node.place().unwrap_or_else(|| "-".into())),
            number(all.gpus).into(),
            Cell::from(&node.id),
            Cell::from(&node.version),
            if attributes.is_empty() { "-".into() } else { attributes.join(" ").into() },
        ];
        if named {
            let name = if node.node_name.is_empty() { "-" } else { node.node_name.as_str() };
            row.insert(0, Cell::from(name));
        }
        table.row(row);
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
            {"id": "S2", "hostname": "n3", "active": false, "deactivated": true, "drain_info": {"state": "DRAINING"}},
            {"id": "S3", "hostname": "n4", "unreachable": true, "attributes": {"public_ip": "true"},
             "domain": {"fault_domain": {"region": {"name": "r"}, "zone": {"name": "z"}}}}
        ]))
        .unwrap();
        let table = list_table(&nodes, 1_300_000);
        assert_eq!(
            table.render(Look::default()),
            "NODE  ROLE    CONDITION    CPUS USED  MEM USED  DISK USED  AGE\n\
             n1    agent   inactive     0/0        0M/0M     0M/0M      -\n\
             n2    agent   active       0.5/8      128M/16G  0M/1G      5m\n\
             n3    agent   draining     0/0        0M/0M     0M/0M      -\n\
             n4    public  unreachable  0/0        0M/0M     0M/0M      -\n"
        );
        let wide = table.render(Look { wide: true, ..Look::default() });
        assert!(wide.contains("5m   -            0     S1  1.11.0   n=2 rack=a\n"), "{wide}");
    }
    #[test]
    fn names_come_first_where_they_say_more_than_addresses() {
        let listed = |names: [&str; 2]| {
            let nodes: Vec<Node> = serde_json::from_value(json!([
                {"id": "S1", "hostname": "10.0.0.9", "active": true, "node_name": names[0]},
                {"id": "S2", "hostname": "10.0.0.2", "active": true, "node_name": names[1]},
            ]))
            .unwrap();
            assert_eq!(
                serde_json::to_value(&nodes).unwrap()[0]["node_name"].as_str().unwrap_or(""),
                names[0]
            );
            list_table(&nodes, 0).render(Look::default())
        };
        assert_eq!(
            listed(["h1", ""]),
            "NAME  NODE      ROLE   CONDITION  CPUS USED  MEM USED  DISK USED  AGE\n\
             -     10.0.0.2  agent  active     0/0        0M/0M     0M/0M      -\n\
             h1    10.0.0.9  agent  active     0/0        0M/0M     0M/0M      -\n"
        );
        for plain in [["10-0-0-9", "10.0.0.2"], ["agent", ""]] {
            assert!(listed(plain).starts_with("NODE      ROLE"), "{plain:?}");
        }
    }
}
