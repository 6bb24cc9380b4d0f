//! `plenum app logs` and `plenum task logs`: files in sandboxes, read through the gateway from the nodes. What tasks print goes out as it is,
//! colours included.

use std::time::Duration;

use anstyle::AnsiColor;
use clap::Args;
use tokio::time::sleep;

use crate::api::Session;
use crate::api::nodes::{ClusterTask, Place};
use crate::error::{CliError, Result};
use crate::screen::Screen;
use crate::text::{age_of, clean};

use super::{ended, now};

/// How often a followed file is looked at.
const PERIOD: Duration = Duration::from_millis(500);
/// After so many looks it is asked which instances there are.
const ROUNDS: u32 = 4;
/// Bytes of one read; agents give no more.
const PIECE: u64 = 64 * 1024;
/// Bytes in which the last lines are looked for.
const LOOK_BACK: u64 = 8 * 1024 * 1024;
/// A line longer than this is printed before it ends.
const LONGEST: usize = 64 * 1024;

/// How much of a file, and which.
#[derive(Args, Debug, Clone)]
#[group(id = "logs-choice")]
pub struct Logs {
    /// Go on with what is added
    #[arg(long, short)]
    pub follow: bool,
    /// Begin with so many of the last lines
    #[arg(long, short = 'n', default_value_t = 100, value_name = "COUNT")]
    pub lines: usize,
    /// The file in the sandbox
    #[arg(long, default_value = "stdout", value_name = "NAME")]
    pub file: String,
    /// What was written to standard error: the same as --file stderr
    #[arg(long, conflicts_with = "file")]
    pub stderr: bool,
}

impl Logs {
    fn name(&self) -> &str {
        if self.stderr { "stderr" } else { &self.file }
    }
}

/// A file that is being read.
#[derive(Debug)]
struct Tail {
    task: String,
    place: Place,
    offset: u64,
    partial: String,
    label: Option<(String, AnsiColor)>,
}

/// Files of an app's instances; of one alone where it is named.
pub(crate) async fn of_app(
    session: &Session,
    (id, instance): (&str, Option<&str>),
    logs: &Logs,
    screen: &mut Screen,
) -> Result<()> {
    let is_meant = |task: &str| instance.is_none_or(|wanted| ended::is_meant(task, wanted));
    let app = session.app(id).await?;
    let mut sources: Vec<(String, String)> = app
        .tasks
        .iter()
        .filter(|t| !t.slave_id.is_empty() && is_meant(&t.id))
        .map(|t| (t.id.clone(), t.slave_id.clone()))
        .collect();
    if let (true, Some(wanted)) = (sources.is_empty(), instance) {
        return Err(CliError::Usage(format!(
            "no instance of {0} is called {1}; `plenum app show {0}` shows those that run, and with --dead this command looks among those that have ended",
            clean(&app.id),
            clean(wanted)
        )));
    }
    if sources.is_empty() {
        match app.last_task_failure.as_ref().filter(|failure| !failure.slave_id.is_empty()) {
            Some(failure) => {
                screen.note("no instance is running; this is what the last one that failed printed")?;
                sources.push((failure.task_id.clone(), failure.slave_id.clone()));
            }
            None if !logs.follow => {
                return Err(CliError::Unfinished(format!(
                    "no instance of {0} has run yet; `plenum app why {0}` says why",
                    clean(&app.id)
                )));
            }
            None => {}
        }
    }
    let several = sources.len() > 1 || (logs.follow && app.instances > 1);
    let mut tails = Vec::new();
    for source in &sources {
        begin(session, source, logs, several, &mut tails, screen).await?;
    }
    if !logs.follow {
        return Ok(());
    }
    let mut round: u32 = 0;
    loop {
        sleep(PERIOD).await;
        look(session, &mut tails, screen).await?;
        round = round.wrapping_add(1);
        if round.is_multiple_of(ROUNDS) {
            let Some(now) = patient(session.app(id).await)? else { continue };
            let from_start = Logs { lines: usize::MAX, ..logs.clone() };
            for task in now.tasks.iter().filter(|task| !task.slave_id.is_empty() && is_meant(&task.id)) {
                if tails.iter().all(|tail| tail.task != task.id) {
                    let source = (task.id.clone(), task.slave_id.clone());
                    let more = several || !tails.is_empty();
                    begin(session, &source, &from_start, more, &mut tails, screen).await?;
                }
            }
        }
    }
}

/// Files of an instance that has ended, where its node still has them.
pub(crate) async fn of_dead(
    session: &Session,
    (id, instance): (&str, Option<&str>),
    logs: &Logs,
    screen: &mut Screen,
) -> Result<()> {
    let all = session.ended_instances(id).await?;
    let one = ended::find(&all, id, instance)?;
    let ago = age_of(now(), &one.ended_at);
    let why = if one.asked { "as it was asked to".to_owned() } else { clean(&one.reason()) };
    screen.note(&format!("{} on {} ended {ago} ago, {why}", clean(&one.instance_id), clean(&one.host)))?;
    let mut tails = Vec::new();
    let several = one.tasks.len() > 1;
    for task in &one.tasks {
        let source = (task.id.clone(), one.slave_id.clone());
        begin(session, &source, logs, several, &mut tails, screen).await?;
    }
    if tails.is_empty() {
        return Err(CliError::Unfinished(format!(
            "the node {} no longer has the sandbox of {}; how long it keeps them is `agent.gc_delay`, less where its disk is nearly full",
            clean(&one.host),
            clean(&one.instance_id)
        )));
    }
    Ok(())
}

pub(crate) async fn of_task(session: &Session, id: &str, logs: &Logs, screen: &mut Screen) -> Result<()> {
    let task = find(&session.tasks().await?, id)?;
    let mut tails = Vec::new();
    let source = (task.id.clone(), task.slave_id.clone());
    begin(session, &source, logs, false, &mut tails, screen).await?;
    if tails.is_empty() {
        return Err(CliError::Unfinished(format!(
            "the node no longer has the sandbox of {}",
            clean(&task.id)
        )));
    }
    if !logs.follow {
        return Ok(());
    }
    let mut ended = task.completed;
    let mut round: u32 = 0;
    loop {
        look(session, &mut tails, screen).await?;
        if ended {
            return Ok(());
        }
        sleep(PERIOD).await;
        round = round.wrapping_add(1);
        if round.is_multiple_of(ROUNDS)
            && let Some(tasks) = patient(session.tasks().await)?
        {
            // One more look follows, for what was printed at the end.
            ended = !tasks.iter().any(|other| other.id == task.id && !other.completed);
        }
    }
}

/// An answer, or nothing where a component is away for the moment.
fn patient<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.may_pass() => Ok(None),
        Err(error) => Err(error),
    }
}

/// The task that was meant: by its id, the beginning of one, or a name. Those alive come first.
pub(crate) fn find(tasks: &[ClusterTask], wanted: &str) -> Result<ClusterTask> {
    if let Some(task) = tasks.iter().find(|task| task.id == wanted) {
        return Ok(task.clone());
    }
    let fits = |task: &&ClusterTask| task.id.starts_with(wanted) || task.name == wanted;
    let mut found: Vec<&ClusterTask> = tasks.iter().filter(fits).collect();
    if found.iter().any(|task| !task.completed) {
        found.retain(|task| !task.completed);
    }
    match found.as_slice() {
        [task] => Ok((*task).clone()),
        [] => Err(CliError::Usage(format!(
            "no task is called {}; `plenum task list --all` shows them",
            clean(wanted)
        ))),
        several => {
            let ids: Vec<String> = several.iter().take(5).map(|task| clean(&task.id)).collect();
            Err(CliError::Usage(format!(
                "{} tasks are meant by {}; give more of the id: {}{}",
                several.len(),
                clean(wanted),
                ids.join(", "),
                if several.len() > ids.len() { ", …" } else { "" }
            )))
        }
    }
}

/// Finds a task's file, prints its last lines, and adds it to those that are followed. While following, a file that is not there yet is no
/// error: it is looked for again.
async fn begin(
    session: &Session,
    (task, agent): &(String, String),
    logs: &Logs,
    labelled: bool,
    tails: &mut Vec<Tail>,
    screen: &mut Screen,
) -> Result<()> {
    let folder = match session.sandbox(agent, task).await {
        Ok(Some(folder)) => folder,
        Ok(None) => return Ok(()),
        Err(error) if logs.follow => return patient(Err(error)).map(|_: Option<()>| ()),
        Err(error) => return Err(error),
    };
    let place = Place { agent: agent.clone(), path: format!("{folder}/{}", logs.name()) };
    let size = match session.file_size(&place).await {
        Ok(size) => size,
        Err(error) if error.status() == Some(404) && logs.follow => return Ok(()),
        Err(error) if error.status() == Some(404) => {
            return Err(no_such_file(session, error, agent, &folder).await);
        }
        Err(error) => return Err(error),
    };
    let offset = if logs.lines == usize::MAX { 0 } else { start(session, &place, size, logs.lines).await? };
    let label = labelled.then(|| (label(task), colour(tails.len())));
    let mut tail = Tail { task: task.clone(), place, offset, partial: String::new(), label };
    drain(session, &mut tail, size, screen).await?;
    if !logs.follow {
        finish(&mut tail, screen)?;
    }
    tails.push(tail);
    Ok(())
}

async fn no_such_file(session: &Session, error: CliError, agent: &str, folder: &str) -> CliError {
    let entries = session.folder(agent, folder).await.unwrap_or_default();
    let names: Vec<String> = entries.iter().filter_map(|path| path.rsplit('/').next()).map(clean).collect();
    let hint = format!("--file names one of: {}", names.join(", "));
    if names.is_empty() { error } else { error.or_else_try(404, &hint) }
}

/// The part of a task's id that tells instances of an app apart.
fn label(task: &str) -> String {
    let unique = task.rsplit_once(".instance-").or(task.rsplit_once('.')).map_or(task, |(_, unique)| unique);
    clean(&unique.chars().take(8).collect::<String>())
}

fn colour(index: usize) -> AnsiColor {
    const ALL: [AnsiColor; 6] = [
        AnsiColor::Cyan,
        AnsiColor::Green,
        AnsiColor::Magenta,
        AnsiColor::Yellow,
        AnsiColor::Blue,
        AnsiColor::Red,
    ];
    ALL.get(index % ALL.len()).copied().unwrap_or(AnsiColor::Cyan)
}

/// Where the last `lines` lines of a file begin.
async fn start(session: &Session, place: &Place, size: u64, lines: usize) -> Result<u64> {
    let (mut end, mut found) = (size, 0_usize);
    if lines == 0 {
        return Ok(size);
    }
    while end > 0 && size - end < LOOK_BACK {
        let from = end.saturating_sub(PIECE);
        let text = session.file_piece(place, from, end - from).await?;
        for (at, _) in text.match_indices('\n').rev() {
            let after = text.len().saturating_sub(at.saturating_add(1));
            let position = end.saturating_sub(u64::try_from(after).unwrap_or(u64::MAX));
            // The line end at the file's end closes the last line.
            if position >= size {
                continue;
            }
            found = found.saturating_add(1);
            if found == lines {
                return Ok(position);
            }
        }
        end = from;
    }
    Ok(end)
}

/// Prints what a file has up to `size`.
async fn drain(session: &Session, tail: &mut Tail, size: u64, screen: &mut Screen) -> Result<()> {
    while tail.offset < size {
        let asked = PIECE.min(size - tail.offset);
        let text = session.file_piece(&tail.place, tail.offset, asked).await?;
        if text.is_empty() {
            return Ok(());
        }
        // Bytes that are no text come as other bytes, so only clean text tells how far it goes: agents leave a character that is cut off
        // to the next read.
        let read = if text.contains('\u{fffd}') {
            asked
        } else {
            u64::try_from(text.len()).unwrap_or(asked).min(asked)
        };
        tail.offset = tail.offset.saturating_add(read);
        emit(tail, &text, screen)?;
    }
    Ok(())
}

fn emit(tail: &mut Tail, text: &str, screen: &mut Screen) -> Result<()> {
    let Some((label, colour)) = &tail.label else { return screen.print(text) };
    tail.partial.push_str(text);
    let all = std::mem::take(&mut tail.partial);
    let whole = match all.rfind('\n') {
        Some(end) => end.saturating_add(1),
        None if all.len() > LONGEST => all.len(),
        None => 0,
    };
    // Behind an ASCII character, or at an end: a boundary in any case.
    let (lines, rest) = all.split_at(whole);
    rest.clone_into(&mut tail.partial);
    let style = if screen.colour { colour.on_default() } else { anstyle::Style::new() };
    let lines = lines.split_terminator('\n').map(|line| format!("{style}{label}{style:#} | {line}\n"));
    let out: String = lines.collect();
    if out.is_empty() { Ok(()) } else { screen.print(&out) }
}

/// Prints a last line that has no end.
fn finish(tail: &mut Tail, screen: &mut Screen) -> Result<()> {
    if tail.partial.is_empty() { Ok(()) } else { emit(tail, "\n", screen) }
}

/// What was written to a file between the last look and its rotation, which is in the file's successor now.
async fn rest_of_rotated(session: &Session, tail: &mut Tail, screen: &mut Screen) -> Result<()> {
    let own = tail.place.path.clone();
    tail.place.path = format!("{own}.1");
    let rest = match session.file_size(&tail.place).await {
        // Shorter than what was read of it: it is another one, or none.
        Ok(size) if size >= tail.offset => drain(session, tail, size, screen).await,
        _ => Ok(()),
    };
    (tail.place.path, tail.offset) = (own, 0);
    rest
}

/// Looks at every followed file once.
async fn look(session: &Session, tails: &mut Vec<Tail>, screen: &mut Screen) -> Result<()> {
    let mut gone = Vec::new();
    for (index, tail) in tails.iter_mut().enumerate() {
        match session.file_size(&tail.place).await {
            Ok(size) => {
                if size < tail.offset {
                    rest_of_rotated(session, tail, screen).await?;
                }
                drain(session, tail, size, screen).await?;
            }
            Err(error) if error.status() == Some(404) => gone.push(index),
            Err(error) => {
                patient::<()>(Err(error))?;
            }
        }
    }
    for index in gone.into_iter().rev() {
        let mut tail = tails.swap_remove(index);
        finish(&mut tail, screen)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(id: &str, name: &str, completed: bool) -> ClusterTask {
        ClusterTask { id: id.into(), name: name.into(), completed, ..ClusterTask::default() }
    }

    #[test]
    fn tasks_are_found_by_what_is_typed() {
        let tasks = [
            task("web.1", "web", true),
            task("web.2", "web", false),
            task("db.1", "db", true),
            task("w", "x", false),
        ];
        assert_eq!(find(&tasks, "web").unwrap().id, "web.2", "those alive come first");
        assert_eq!(find(&tasks, "w").unwrap().id, "w", "a whole id wins");
        assert_eq!(find(&tasks, "db").unwrap().id, "db.1");
        assert!(matches!(find(&tasks, "none"), Err(CliError::Usage(_))));
        let twice = [task("a.1", "a", false), task("a.2", "a", false)];
        let error = find(&twice, "a").unwrap_err().to_string();
        assert!(error.contains("2 tasks are meant by a; give more of the id: a.1, a.2"), "{error}");
    }

    #[test]
    fn labels_tell_instances_apart() {
        assert_eq!(label("web.instance-0123456789ab._app.1"), "01234567");
        assert_eq!(label("web.7"), "7");
        assert_eq!(label("single"), "single");
    }
}
