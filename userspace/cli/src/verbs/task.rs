//! `plenum task`: tasks of all frameworks.

use clap::Subcommand;

use super::app::task_state;
use super::{logs, now, task_exec, task_files, task_stats, view};
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
  plenum task logs web.instance-1 -f      what one of them prints; the beginning of its id suffices
  plenum task exec -it web.instance-1 sh  a shell inside of it
  plenum task stats --watch               what all of them use
  plenum task cp web.instance-1:core .    a file of its sandbox";

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
    /// Run a command inside a task's container, as the task's user
    #[command(
        after_help = "The exit code is the command's; 127 and 126 where there is no such program or it may not be run.\nControl-P control-Q leaves a terminal; the command ends then, as it does with the connection.\n\nExamples:\n  plenum task exec web.instance-1 -- ls -l /etc\n  plenum task exec -it web.instance-1 sh\n  plenum task exec -i web.instance-1 sh -c 'cat > here' < file"
    )]
    Exec {
        /// Pass the standard input on
        #[arg(long, short)]
        interactive: bool,
        /// Give it a terminal
        #[arg(long, short)]
        tty: bool,
        /// The task's id, its beginning, or its name
        task: String,
        /// The command and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
        command: Vec<String>,
    },
    /// Connect to a task's own terminal or output
    #[command(
        after_help = "A task with a terminal (`tty` of an app) takes what is typed; of others one sees what they print. Control-P control-Q leaves, the task goes on;\notherwise the exit code is the task's.\n\nExamples:\n  plenum task attach shell.instance-1\n  plenum task attach --no-stdin shell.instance-1"
    )]
    Attach {
        /// Only look
        #[arg(long)]
        no_stdin: bool,
        /// The task's id, its beginning, or its name
        task: String,
    },
    /// Show what is in a task's sandbox
    #[command(
        after_help = "Examples:\n  plenum task files web.instance-1\n  plenum task files web.instance-1 logs -o wide"
    )]
    Files {
        /// The task's id, its beginning, or its name
        task: String,
        /// A folder in the sandbox
        #[arg(default_value = "")]
        path: String,
    },
    /// Show what running tasks use
    #[command(
        after_help = "Examples:\n  plenum task stats\n  plenum task stats web --watch\n  plenum task stats -o json"
    )]
    Stats {
        /// Only tasks whose id or name holds this
        filter: Option<String>,
        /// Go on showing it
        #[arg(long, short)]
        watch: bool,
    },
    /// Copy files from a task or into it
    #[command(
        after_help = "PATH in a task is one in its sandbox, or with a slash at its beginning any path of its container. - is a pipe.\nFolders are copied with what is in them.\n\nExamples:\n  plenum task cp web.instance-1:stdout .\n  plenum task cp web.instance-1:/etc/hosts - | less\n  plenum task cp site.tar web.instance-1:\n  plenum task cp ./conf web.instance-1:"
    )]
    Cp {
        /// TASK:PATH, a path here, or -
        from: String,
        /// TASK:PATH, a path here, or -
        to: String,
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
        TaskVerb::Exec { interactive, tty, task, command } => {
            let lent = task_exec::Lent { input: *interactive, terminal: *tty, alone: true };
            task_exec::exec(session, task, command, lent, screen).await
        }
        TaskVerb::Attach { no_stdin, task } => task_exec::attach(session, task, !no_stdin, screen).await,
        TaskVerb::Files { task, path } => task_files::files(session, global, task, path, screen).await,
        TaskVerb::Stats { filter, watch } => {
            task_stats::stats(session, global, filter.as_deref(), *watch, screen).await
        }
        TaskVerb::Cp { from, to } => task_files::copy(session, global, from, to, screen).await,
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
        table.row(vec![
            Cell::from(&task.id),
            task_state(&task.state),
            Cell::from(task.node()),
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
            {"id": "b.1", "name": "b", "state": "TASK_RUNNING", "framework_name": "marathon", "slave_id": "S1", "hostname": "10.0.0.1", "node_name": "n1",
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
