//! `plenum node token`: what lets hosts into the cluster. A token is shown once, when it is made.

use clap::{Subcommand, ValueEnum};
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::now;
use crate::Global;
use crate::api::Session;
use crate::error::{CliError, Result};
use crate::screen::{Output, Screen};
use crate::table::{Cell, Table, Tone};
use crate::text::{age, clean};

/// Shown by `plenum node token --help`.
pub(crate) const EXAMPLES: &str = "Examples:\n  plenum node token create --role agent --ttl 1h\n  \
     plenum node token create --role public --ttl 30d --uses 0 --description 'autoscaling group'\n  \
     plenum node token list\n  plenum node token revoke 0123456789abcdef";

const TOKENS: &str = "/plenum/v1/tokens";

/// What to do with join tokens.
#[derive(Subcommand, Debug)]
pub enum TokenVerb {
    /// Make a join token
    #[command(after_help = EXAMPLES)]
    Create {
        /// What the host becomes
        #[arg(long, value_enum, default_value_t = HostRole::Agent)]
        role: HostRole,
        /// How long the token is good: 90s, 30m, 1h, 7d; a day at most for masters, 30 days for others
        #[arg(long, default_value = "1h", value_parser = seconds, value_name = "TIME")]
        ttl: u64,
        /// How many hosts may join with it; 0: as many as want to
        #[arg(long, default_value_t = 1, value_name = "N")]
        uses: u32,
        /// What it is for
        #[arg(long, default_value = "", value_name = "TEXT")]
        description: String,
        /// Print the token and nothing else
        #[arg(long, short)]
        quiet: bool,
    },
    /// Show the join tokens that are still good, without their secrets
    #[command(alias = "ls", after_help = EXAMPLES)]
    List,
    /// Make a join token worthless at once; hosts that joined with it stay
    #[command(alias = "rm", after_help = EXAMPLES)]
    Revoke {
        /// Its id, or the token itself
        id: String,
    },
}

/// What a host is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum HostRole {
    /// It runs the control roles, and holds the cluster's keys
    Master,
    /// It runs tasks
    Agent,
    /// It runs tasks that face the outside
    Public,
}

impl HostRole {
    fn word(self) -> &'static str {
        match self {
            Self::Master => "master",
            Self::Agent => "agent",
            Self::Public => "public",
        }
    }
}

/// A join token as identity tells of it.
#[derive(Debug, Serialize, Deserialize)]
struct Token {
    id: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    creator: String,
    #[serde(default)]
    created: i64,
    #[serde(default)]
    expires: i64,
    #[serde(default)]
    uses_left: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    masters: Vec<String>,
}

#[derive(Deserialize)]
struct Listed {
    tokens: Vec<Token>,
}

/// Seconds of a time such as `90s`, `30m`, `1h`, `7d`; a bare number is seconds.
fn seconds(text: &str) -> std::result::Result<u64, String> {
    let wrong = || format!("\"{text}\" is no time; use a number with s, m, h or d, such as 1h");
    let (number, unit) = match text.char_indices().last() {
        Some((at, 's')) => (&text[..at], 1),
        Some((at, 'm')) => (&text[..at], 60),
        Some((at, 'h')) => (&text[..at], 3600),
        Some((at, 'd')) => (&text[..at], 86_400),
        _ => (text, 1),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(unit).filter(|seconds| *seconds > 0).ok_or_else(wrong)
}

pub(crate) async fn run(
    session: &Session,
    global: &Global,
    verb: &TokenVerb,
    screen: &mut Screen,
) -> Result<()> {
    match verb {
        TokenVerb::Create { role, ttl, uses, description, quiet } => {
            let body =
                json!({"kind": role.word(), "ttl_seconds": ttl, "uses": uses, "description": description});
            create(session, global, &body, *quiet, screen).await
        }
        TokenVerb::List => {
            let listed: Listed = session.get(TOKENS).await?;
            let text = screen.form(global.output, &listed.tokens, || list_table(&listed.tokens, now()))?;
            screen.print(&text)
        }
        TokenVerb::Revoke { id } => {
            // Whoever pastes the whole token means its id; the secret goes nowhere.
            let id = id.trim().strip_prefix("plenum1.").and_then(|rest| rest.split('.').next()).unwrap_or(id);
            let good = (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_hexdigit());
            if !good {
                let text = "this is no token's id; `plenum node token list` shows them";
                return Err(CliError::Usage(text.to_owned()));
            }
            let call = session.call(Method::DELETE, &format!("{TOKENS}/{id}"));
            session.send(call).await.map_err(|e| {
                e.or_else_try(404, "`plenum node token list` shows those that are still good")
            })?;
            screen.outcome(global.output, &json!({"id": id, "revoked": true}), &format!("{id}: revoked"))
        }
    }
}

async fn create(
    session: &Session,
    global: &Global,
    body: &Value,
    quiet: bool,
    screen: &mut Screen,
) -> Result<()> {
    let made: Token = session.exchange(Method::POST, TOKENS, body).await?;
    let token = made.token.as_deref().map(clean).unwrap_or_default();
    if quiet {
        return screen.print(&format!("{token}\n"));
    }
    let command = join_command(&made, session.url());
    let text = match global.output {
        Output::Table | Output::Wide => {
            let who = match made.uses_left {
                Some(1) => format!("one host ({})", clean(&made.kind)),
                Some(uses) => format!("{uses} hosts ({})", clean(&made.kind)),
                None => format!("any number of hosts ({})", clean(&made.kind)),
            };
            let left = remaining(made.expires, now());
            format!(
                "{token}\n\nGood for {who} for {left}; it is not shown again. On the host, as root:\n\n  {command}\n"
            )
        }
        Output::Json | Output::Yaml => {
            let mut value = serde_json::to_value(&made)
                .map_err(|error| CliError::Local(format!("the result cannot be written: {error}")))?;
            value["command"] = command.into();
            screen.form(global.output, &value, || Table::new(&[], &[], ""))?
        }
    };
    screen.print(&text)
}

/// The line to type on the host. The token goes in by standard input: arguments are seen by everybody on a machine.
fn join_command(made: &Token, url: &str) -> String {
    let masters: Vec<String> = made.masters.iter().map(|master| clean(master)).collect();
    let at = if masters.is_empty() {
        let host = url.split("://").last().unwrap_or(url);
        host.rsplit_once(':').map_or(host, |(host, _)| host).trim_matches(['[', ']']).to_owned()
    } else {
        masters.join(" ")
    };
    format!(
        "echo '{}' | plenum join {at} --token-file -",
        made.token.as_deref().map(clean).unwrap_or_default()
    )
}

/// How long until `expires` (seconds since 1970), to the nearest unit.
fn remaining(expires: i64, now: i64) -> String {
    let left = expires.saturating_mul(1000).saturating_sub(now);
    // An hour's token is shown as one of an hour, also a second after it was made.
    age(if left > 120_000 { left.saturating_add(30_000) } else { left }, 0)
}

fn list_table(tokens: &[Token], now: i64) -> Table {
    let mut table = Table::new(
        &["ID", "ROLE", "USES LEFT", "ENDS IN", "MADE BY", "DESCRIPTION"],
        &["AGE"],
        "no join tokens; make one with `plenum node token create`",
    );
    let mut sorted: Vec<&Token> = tokens.iter().collect();
    sorted.sort_by(|a, b| (a.expires, &a.id).cmp(&(b.expires, &b.id)));
    for token in sorted {
        let uses = token.uses_left.map_or_else(|| "any".to_owned(), |uses| uses.to_string());
        let tone = if token.uses_left == Some(0) { Tone::Bad } else { Tone::Good };
        table.row(vec![
            Cell::from(&token.id),
            Cell::from(&token.kind),
            Cell::toned(uses, tone),
            remaining(token.expires, now).into(),
            Cell::from(&token.creator),
            if token.description.is_empty() { "-".into() } else { Cell::from(&token.description) },
            if token.created > 0 { age(now, token.created.saturating_mul(1000)).into() } else { "-".into() },
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        for (text, want) in [("90s", 90), ("30m", 1800), ("1h", 3600), ("7d", 604_800), ("5", 5)] {
            assert_eq!(seconds(text), Ok(want), "{text}");
        }
        for bad in ["", "h", "0h", "1w", "-1h", "1.5h", "99999999999999999d", "1 h", "ä"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_command_names_masters_or_the_gateway() {
        let mut made: Token = serde_json::from_value(
            json!({"id": "a", "token": "plenum1.a.b.c", "masters": ["10.0.0.1", "fd00::2"]}),
        )
        .unwrap();
        assert_eq!(
            join_command(&made, "https://h"),
            "echo 'plenum1.a.b.c' | plenum join 10.0.0.1 fd00::2 --token-file -"
        );
        made.masters.clear();
        assert!(join_command(&made, "https://[fd00::1]:443").contains("join fd00::1 "));
        assert!(join_command(&made, "https://m1:8443").contains("join m1 "));
    }
}
