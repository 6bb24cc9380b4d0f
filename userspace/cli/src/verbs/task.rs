//! `plenum task`: tasks of all frameworks.

use clap::Subcommand;

use super::app::task_state;
use super::{logs, now, view};
use crate::Global;
use crate::api::Session;
use crate::api::nodes::ClusterTask;
use crate::error::Result;
use crate::screen::Screen;
use crate::table::{Cell, Table};
use crate::text::{age_of_seconds, mebibytes, number};

/// Shown by `plenum task --help`.
pub(crate) const EXAMPLES: &str = "Examples:
  plenum task list                        those alive
  plenum task list --all                  also those that ended
  plenum task logs web.instance-1 -f      what one of them prints; the beginning of its id suffices";

/// What to do with tasks.
#[derive(Subcommand, Debug)]
pub enum TaskVerb {
    /// Show tasks
    #[command(
        alias = "ls",
        after_help = "Examples:\n  plenum task list\n  plenum task list web --all\n  plenum task list -o json"
    )]
    List {
        /// Only tasks whose id or name holds this
        filter: Option<String>,
        /// Also tasks that have ended
        #[arg(long, short)]
        all: bool,
        /// Go on showing it
        #[arg(long, short)]
        watch: bool,
    },
    /// Print what a task prints
    #[command(
        after_help = "Examples:\n  plenum task logs web.instance-1\n  plenum task logs web.instance-1 -f\n  plenum task logs web.instance-1 --file stderr"
    )]
    Logs {
        /// The task's id, its beginning, or its name
        id: String,
        /// How much, and from where.
        #[command(flatten)]
        logs: logs::Logs,
    },
}

pub(crate) async fn run(
    session: &Session,
    global: &Global,
    verb: &TaskVerb,
    screen: &mut Screen,
) -> Result<()> {
    match verb {
        TaskVerb::List { filter, all, watch } => {
            view(screen, *watch, async |screen| {
                let mut tasks = session.tasks().await?;
                let fits =
                    |task: &ClusterTask, part: &str| task.id.contains(part) || task.name.contains(part);
                tasks.retain(|task| {
                    (*all || !task.completed) && filter.as_ref().is_none_or(|part| fits(task, part))
                });
                screen.form(global.output, &tasks, || list_table(&tasks, now()))
            })
            .await
        }
        TaskVerb::Logs { id, logs } => logs::of_task(session, id, logs, screen).await,
    }
}

fn list_table(tasks: &[ClusterTask], now: i64) -> Table {
    let head = ["ID", "STATE", "NODE", "FRAMEWORK", "AGE"];
    let mut table = Table::new(
        &head,
        &["NAME", "CPUS", "MEM", "NODE ID"],
        "no tasks; `plenum task list --all` shows those that ended, too",
    );
    let mut sorted: Vec<&ClusterTask> = tasks.iter().collect();
    sorted.sort_by(|a, b| (a.completed, &a.id).cmp(&(b.completed, &b.id)));
    for task in sorted {
        let since = task.statuses.last().map_or(0.0, |status| status.timestamp);
        let node = if task.hostname.is_empty() { &task.slave_id } else { &task.hostname };
        table.row(vec![
            Cell::from(&task.id),
            task_state(&task.state),
            Cell::from(node),
            Cell::from(&task.framework_name),
            age_of_seconds(now, since).into(),
            Cell::from(&task.name),
            number(task.resources.cpus).into(),
            mebibytes(task.resources.mem).into(),
            Cell::from(&task.slave_id),
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
    fn tasks_are_listed_the_ended_last() {
        let tasks: Vec<ClusterTask> = serde_json::from_value(json!([
            {"id": "a.1", "name": "a", "state": "TASK_FAILED", "framework_name": "marathon", "slave_id": "S1", "completed": true},
            {"id": "b.1", "name": "b", "state": "TASK_RUNNING", "framework_name": "marathon", "slave_id": "S1", "hostname": "n1",
             "resources": {"cpus": 0.1, "mem": 64}, "statuses": [{"state": "TASK_RUNNING", "timestamp": 100.0}]}
        ]))
        .unwrap();
        assert_eq!(
            list_table(&tasks, 160_000).render(Look { wide: true, ..Look::default() }),
            "ID   STATE    NODE  FRAMEWORK  AGE  NAME  CPUS  MEM  NODE ID\n\
             b.1  running  n1    marathon   60s  b     0.1   64M  S1\n\
             a.1  failed   S1    marathon   -    a     0     0M   S1\n"
        );
    }
}
