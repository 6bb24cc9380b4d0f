//! `plenum quota`: how much of the cluster each role may have.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use serde_json::json;

use super::view;
use crate::Global;
use crate::api::Session;
use crate::api::quotas::Role;
use crate::error::{CliError, Result};
use crate::screen::Screen;
use crate::table::{Cell, Table, Tone};
use crate::text::{clean, number};

/// Shown by `plenum quota --help`.
pub(crate) const EXAMPLES: &str = "Examples:
  plenum quota list                       what each role may have, and what it has
  plenum quota set shop --cpus 8 --mem 16384
  plenum quota remove shop

A role is that of an app's field `role`; with `enforceRole` of a top-level group it is the group's name.";

/// What to do with quotas.
#[derive(Subcommand, Debug)]
pub enum QuotaVerb {
    /// Show roles, their limits and what they use
    #[command(
        alias = "ls",
        after_help = "Examples:\n  plenum quota list\n  plenum quota list shop\n  plenum quota list -o json"
    )]
    List {
        /// Only this role
        role: Option<String>,
        /// Go on showing it
        #[arg(long, short)]
        watch: bool,
    },
    /// Set limits of a role; those that are not named stay
    #[command(
        alias = "update",
        after_help = "Examples:\n  plenum quota set shop --cpus 8 --mem 16384\n  plenum quota set shop --gpus 0"
    )]
    Set(Limits),
    /// Take the limits of a role away
    #[command(alias = "rm", after_help = "Examples:\n  plenum quota remove shop")]
    Remove {
        /// The role
        role: String,
    },
}

/// Limits of a role.
#[derive(Args, Debug)]
pub struct Limits {
    /// The role
    role: String,
    /// Processors
    #[arg(long, value_parser = amount)]
    cpus: Option<f64>,
    /// Memory, MiB
    #[arg(long, value_parser = amount)]
    mem: Option<f64>,
    /// Disk, MiB
    #[arg(long, value_parser = amount)]
    disk: Option<f64>,
    /// Graphics processors
    #[arg(long, value_parser = amount)]
    gpus: Option<f64>,
    /// Also below what is in use
    #[arg(long)]
    force: bool,
}

/// An amount of something: finite, and not below none.
fn amount(text: &str) -> std::result::Result<f64, String> {
    let amount: f64 = text.parse().map_err(|_| "a number is expected".to_owned())?;
    let fits = amount.is_finite() && amount >= 0.0;
    fits.then_some(amount).ok_or_else(|| "a number of 0 or more is expected".to_owned())
}

pub(crate) async fn run(
    session: &Session,
    global: &Global,
    verb: &QuotaVerb,
    screen: &mut Screen,
) -> Result<()> {
    let output = global.output;
    match verb {
        QuotaVerb::List { role, watch } => {
            view(screen, *watch, async |screen| {
                let mut roles = session.roles().await?;
                roles.retain(|one| role.as_ref().is_none_or(|role| one.name == *role));
                screen.form(output, &roles, || table(&roles))
            })
            .await
        }
        QuotaVerb::Set(limits) => {
            let role = &limits.role;
            let named =
                [("cpus", limits.cpus), ("mem", limits.mem), ("disk", limits.disk), ("gpus", limits.gpus)];
            let named: Vec<(&str, f64)> = named.into_iter().filter_map(|(n, v)| Some((n, v?))).collect();
            if named.is_empty() {
                let text = "no limit is named: give --cpus, --mem, --disk or --gpus";
                return Err(CliError::Usage(text.to_owned()));
            }
            let mut all = limits_of(session, role).await?;
            all.extend(named.into_iter().map(|(name, limit)| (name.to_owned(), limit)));
            let set = session.set_quota(role, &all, limits.force).await;
            set.map_err(|error| error.or_else_try(409, "give more, or set it all the same with --force"))?;
            let said: Vec<String> =
                all.iter().map(|(name, limit)| format!("{name} {}", number(*limit))).collect();
            let sentence = format!("{} may have at most {}", clean(role), said.join(", "));
            screen.outcome(output, &json!({"role": role, "limit": all}), &sentence)
        }
        QuotaVerb::Remove { role } => {
            if limits_of(session, role).await?.is_empty() {
                let text = format!("{} has no quota; `plenum quota list` shows them", clean(role));
                return Err(CliError::Local(text));
            }
            session.set_quota(role, &BTreeMap::new(), true).await?;
            let sentence = format!("{} has no quota any more", clean(role));
            screen.outcome(output, &json!({"role": role, "limit": {}}), &sentence)
        }
    }
}

async fn limits_of(session: &Session, role: &str) -> Result<BTreeMap<String, f64>> {
    let roles = session.roles().await?;
    Ok(roles.iter().find(|one| one.name == role).map(|one| one.quota.limits()).unwrap_or_default())
}

fn table(roles: &[Role]) -> Table {
    let head = ["ROLE", "CPUS", "OF", "MEM", "OF", "DISK", "OF", "GPUS", "OF"];
    let mut table = Table::new(&head, &[], "no role is known; one is when an app or a quota names it");
    for role in roles {
        let limits = role.quota.limits();
        let mut row = vec![Cell::from(clean(&role.name))];
        for name in ["cpus", "mem", "disk", "gpus"] {
            let used = role.quota.consumed.get(name).and_then(serde_json::Value::as_f64).unwrap_or(0.0);
            let limit = limits.get(name).copied();
            let full = limit.is_some_and(|limit| limit > 0.0 && used >= limit);
            let text = number(used);
            row.push(if full { Cell::toned(text, Tone::Bad) } else { text.into() });
            row.push(limit.map_or_else(|| "-".to_owned(), number).into());
        }
        table.row(row);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Look;

    #[test]
    fn limits_stand_beside_what_is_in_use() {
        let roles: Vec<Role> = serde_json::from_value(json!([
            {"name": "shop", "quota": {"limit": {"cpus": 4.0, "mem": 512}, "consumed": {"cpus": 1.5}}},
            {"name": "*", "quota": null}
        ]))
        .unwrap();
        assert_eq!(
            table(&roles).render(Look::default()),
            "ROLE  CPUS  OF  MEM  OF   DISK  OF  GPUS  OF\n\
             shop  1.5   4   0    512  0     -   0     -\n\
             *     0     -   0    -    0     -   0     -\n"
        );
        assert!(amount("-1").is_err() && amount("inf").is_err() && amount("x").is_err());
        assert_eq!(amount("0.5"), Ok(0.5));
    }
}
