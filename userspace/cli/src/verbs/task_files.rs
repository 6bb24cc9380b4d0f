//! `plenum task files` and `plenum task cp`: what is in a task's sandbox, and copies to and from it.
//!
//! What lies in the sandbox is read by the agent's files API, also after the task's end. Other paths of the container, and everything that
//! goes into it, pass through a command in it (`cat`, and `tar` for folders).

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::mpsc;

use super::logs::find;
use super::now;
use super::task_exec::pieces;
use crate::Global;
use crate::api::Session;
use crate::api::exec::{Ended, Inside, Output, Said};
use crate::api::nodes::{Entry, Place};
use crate::error::{CliError, Result};
use crate::screen::Screen;
use crate::table::{Cell, Table};
use crate::text::{age_of_seconds, clean};

/// Folders in folders that are copied.
const DEPTH: usize = 64;
/// What a command says about its failure.
const WORDS: usize = 2000;

/// Into a folder that is there, under the own name; otherwise to the path itself.
const INTO: &str =
    "to=$1; if [ -z \"$to\" ] || [ -d \"$to\" ]; then to=${to:-.}/$2; fi; case $to in -*) to=./$to;; esac;";

/// `plenum task files`.
pub(crate) async fn files(
    session: &Session,
    global: &Global,
    id: &str,
    path: &str,
    screen: &mut Screen,
) -> Result<()> {
    let task = find(&session.tasks().await?, id)?;
    let folder = sandbox(session, &task.slave_id, &task.id).await?;
    let at = below(&folder, path)?;
    let hint = format!(
        "`plenum task cp {}:{path} -` prints a file; `plenum task files {0}` shows the sandbox",
        clean(&task.id)
    );
    let entries =
        session.entries(&task.slave_id, &at).await.map_err(|error| error.or_else_try(404, &hint))?;
    let text = screen.form(global.output, &entries, || table(&entries, now()))?;
    screen.print(&text)
}

fn table(entries: &[Entry], now: i64) -> Table {
    let mut table = Table::new(&["NAME", "SIZE", "AGE"], &["MODE", "OWNER", "GROUP"], "the folder is empty");
    for entry in entries {
        let folder = if entry.is_folder() { "/" } else { "" };
        table.row(vec![
            Cell::from(format!("{}{folder}", entry.name())),
            entry.size.to_string().into(),
            age_of_seconds(now, entry.mtime).into(),
            Cell::from(&entry.mode),
            Cell::from(&entry.uid),
            Cell::from(&entry.gid),
        ]);
    }
    table
}

async fn sandbox(session: &Session, agent: &str, task: &str) -> Result<String> {
    session
        .sandbox(agent, task)
        .await?
        .ok_or_else(|| CliError::Unfinished(format!("the node no longer has the sandbox of {}", clean(task))))
}

/// A path in a sandbox.
fn below(folder: &str, path: &str) -> Result<String> {
    let path = path.trim_end_matches('/');
    if path.starts_with('/') || path.split('/').any(|part| part == "..") {
        return Err(CliError::Usage(format!(
            "{} is not a path in the sandbox; give one without a slash at its beginning and without '..'",
            clean(path)
        )));
    }
    Ok(if path.is_empty() || path == "." { folder.to_owned() } else { format!("{folder}/{path}") })
}

/// One end of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Side {
    /// A task and a path in it.
    Task(String, String),
    /// A path here; `-` is this process's own stream.
    Local(String),
}

/// Task ids have no slash, so that `./a:b` is a path here.
fn side(word: &str) -> Side {
    match word.split_once(':') {
        Some((task, path)) if !task.is_empty() && !task.contains('/') => {
            Side::Task(task.to_owned(), path.to_owned())
        }
        _ => Side::Local(word.to_owned()),
    }
}

/// What was copied.
#[derive(Debug, Default, Serialize)]
struct Copied {
    task: String,
    from: String,
    to: String,
    files: u64,
    bytes: u64,
}

/// `plenum task cp`.
pub(crate) async fn copy(
    session: &Session,
    global: &Global,
    from: &str,
    to: &str,
    screen: &mut Screen,
) -> Result<()> {
    let mut copied = match (side(from), side(to)) {
        (Side::Task(task, path), Side::Local(here)) => get(session, &task, &path, &here, screen).await?,
        (Side::Local(here), Side::Task(task, path)) => put(session, &here, &task, &path, screen).await?,
        _ => {
            return Err(CliError::Usage(
                "one side is in a task (TASK:PATH), the other one here (PATH, or - for a pipe)".to_owned(),
            ));
        }
    };
    if to == "-" {
        return Ok(());
    }
    (copied.from, copied.to) = (clean(from), clean(to));
    let what = match copied.files {
        // What is in an archive is not counted.
        0 => "a folder".to_owned(),
        1 => "1 file".to_owned(),
        several => format!("{several} files"),
    };
    let sentence = format!("copied {what}, {} bytes, from {} to {}", copied.bytes, copied.from, copied.to);
    let value = serde_json::to_value(&copied).unwrap_or_default();
    screen.outcome(global.output, &value, &sentence)
}

fn local(what: &Path, error: &std::io::Error) -> CliError {
    CliError::Local(format!("{}: {error}", what.display()))
}

/// Where a copy of something called `name` goes: into a folder that is there, or to the path itself.
fn target(here: &str, name: &str) -> PathBuf {
    let path = PathBuf::from(here);
    if path.is_dir() { path.join(name) } else { path }
}

fn name_of(path: &str) -> &str {
    path.trim_end_matches('/')
        .rsplit('/')
        .next()
        .filter(|name| !matches!(*name, "" | "." | ".."))
        .unwrap_or("sandbox")
}

async fn get(session: &Session, id: &str, path: &str, here: &str, screen: &mut Screen) -> Result<Copied> {
    let task = find(&session.tasks().await?, id)?;
    let mut copied = Copied { task: task.id.clone(), ..Copied::default() };
    if path.starts_with('/') {
        from_container(session, &task.inside()?, path, here, screen, &mut copied).await?;
        return Ok(copied);
    }
    let folder = sandbox(session, &task.slave_id, &task.id).await?;
    let place = Place { agent: task.slave_id.clone(), path: below(&folder, path)? };
    let name = name_of(path).to_owned();
    if here == "-" {
        let mut sink = |bytes: &[u8]| Ok(screen.out.write_all(bytes)?);
        copied.bytes = session.download(&place, &mut sink).await?;
        screen.out.flush()?;
        return Ok(copied);
    }
    // What is in a folder can be listed; a file cannot.
    match session.entries(&place.agent, &place.path).await {
        Ok(entries) => {
            folder_here(session, &place.agent, entries, &target(here, &name), 0, &mut copied).await?
        }
        Err(error) if error.status() == Some(404) => {
            file_here(session, &place, &target(here, &name), &mut copied).await?
        }
        Err(error) => return Err(error),
    }
    Ok(copied)
}

async fn file_here(session: &Session, place: &Place, to: &Path, copied: &mut Copied) -> Result<()> {
    let mut file: Option<std::fs::File> = None;
    let mut sink = |bytes: &[u8]| {
        let file = match &mut file {
            Some(file) => file,
            none => none.insert(std::fs::File::create(to).map_err(|error| local(to, &error))?),
        };
        file.write_all(bytes).map_err(|error| local(to, &error))
    };
    let hint = "`plenum task files TASK` shows what is in the sandbox; a path that begins with a slash is one of the container's";
    let bytes = match session.download(place, &mut sink).await {
        Ok(bytes) => bytes,
        Err(error) => {
            if file.is_some() {
                // Half a file is none.
                let _ = std::fs::remove_file(to);
            }
            return Err(error.or_else_try(404, hint));
        }
    };
    if bytes == 0 {
        std::fs::File::create(to).map_err(|error| local(to, &error))?;
    }
    copied.files += 1;
    copied.bytes += bytes;
    Ok(())
}

/// A folder with what is in it. Links and devices stay where they are: what they mean, they mean there.
async fn folder_here(
    session: &Session,
    agent: &str,
    entries: Vec<Entry>,
    to: &Path,
    depth: usize,
    copied: &mut Copied,
) -> Result<()> {
    if depth > DEPTH {
        return Err(CliError::Local(format!("{} is deeper than {DEPTH} folders", to.display())));
    }
    std::fs::create_dir_all(to).map_err(|error| local(to, &error))?;
    for entry in entries {
        let name = entry.name();
        // The name comes from the other side.
        if name.is_empty() || matches!(name, "." | "..") || name.contains('/') {
            continue;
        }
        let (path, here) = (entry.path.clone(), to.join(name));
        if entry.is_folder() {
            let inner = session.entries(agent, &path).await?;
            Box::pin(folder_here(session, agent, inner, &here, depth + 1, copied)).await?;
        } else if entry.mode.starts_with('-') {
            file_here(session, &Place { agent: agent.to_owned(), path }, &here, copied).await?;
        }
    }
    Ok(())
}

/// Any path of the container.
async fn from_container(
    session: &Session,
    inside: &Inside,
    path: &str,
    here: &str,
    screen: &mut Screen,
    copied: &mut Copied,
) -> Result<()> {
    let folder = run(session, inside, &["test", "-d", path], None, &mut |_| Ok(())).await?;
    if folder == Ended::Code(0) && here != "-" {
        let to = target(here, name_of(path));
        std::fs::create_dir_all(&to).map_err(|error| local(&to, &error))?;
        let mut tar = tar(&["-xf", "-", "-C", &to.to_string_lossy()])?;
        let mut into = tar.stdin.take();
        let mut sink = |bytes: &[u8]| match &mut into {
            Some(into) => {
                copied.bytes += u64::try_from(bytes.len()).unwrap_or(0);
                into.write_all(bytes).map_err(|error| local(&to, &error))
            }
            None => Ok(()),
        };
        let ended = run(session, inside, &["tar", "-cf", "-", "-C", path, "."], None, &mut sink).await;
        drop(into);
        let unpacked = tar.wait().map_err(|error| local(&to, &error))?;
        well(if unpacked.success() { ended? } else { Ended::Unknown }, path)?;
        return Ok(());
    }
    if here == "-" {
        let ended =
            run(session, inside, &["cat", "--", path], None, &mut |bytes| Ok(screen.out.write_all(bytes)?))
                .await?;
        screen.out.flush()?;
        return well(ended, path);
    }
    let to = target(here, name_of(path));
    let mut file = std::fs::File::create(&to).map_err(|error| local(&to, &error))?;
    let mut sink = |bytes: &[u8]| {
        copied.bytes += u64::try_from(bytes.len()).unwrap_or(0);
        file.write_all(bytes).map_err(|error| local(&to, &error))
    };
    let ended = run(session, inside, &["cat", "--", path], None, &mut sink).await;
    let done = ended.and_then(|ended| well(ended, path));
    if done.is_err() {
        // Half a file is none.
        let _ = std::fs::remove_file(&to);
    }
    copied.files += 1;
    done
}

async fn put(session: &Session, here: &str, id: &str, path: &str, screen: &mut Screen) -> Result<Copied> {
    let task = find(&session.tasks().await?, id)?;
    let inside = task.inside()?;
    let mut copied = Copied { task: task.id.clone(), files: 1, ..Copied::default() };
    let source = Path::new(here);
    if source.is_dir() {
        let mut tar = tar(&["-cf", "-", "-C", here, "."])?;
        let from = tar.stdout.take().ok_or_else(|| CliError::Local("tar has no output".to_owned()))?;
        // Without the owner: the task's user could not set it.
        let script = format!("{INTO} mkdir -p \"$to\" && tar -xof - -C \"$to\"");
        let argv = ["sh", "-c", &script, "sh", path, name_of(here)];
        copied.files = 0;
        let ended =
            run(session, &inside, &argv, Some((Box::new(from), &mut copied.bytes)), &mut |_| Ok(())).await?;
        let packed = tar.wait().map_err(|error| local(source, &error))?;
        well(if packed.success() { ended } else { Ended::Unknown }, path)?;
        return Ok(copied);
    }
    let (input, mode): (Box<dyn Read + Send>, String) = if here == "-" {
        (screen.take_input(), String::new())
    } else {
        use std::os::unix::fs::PermissionsExt;
        let file = std::fs::File::open(source).map_err(|error| local(source, &error))?;
        let mode = file.metadata().map_err(|error| local(source, &error))?.permissions().mode();
        (Box::new(file), format!("{:o}", mode & 0o777))
    };
    if here == "-" && (path.is_empty() || path.ends_with('/')) {
        return Err(CliError::Usage("what comes by a pipe has no name; give TASK:PATH".to_owned()));
    }
    let script = format!("{INTO} cat > \"$to\" && {{ [ -z \"$3\" ] || chmod \"$3\" \"$to\"; }}");
    let argv = ["sh", "-c", &script, "sh", path, name_of(here), &mode];
    let ended = run(session, &inside, &argv, Some((input, &mut copied.bytes)), &mut |_| Ok(())).await?;
    well(ended, path)?;
    Ok(copied)
}

fn well(ended: Ended, path: &str) -> Result<()> {
    match ended {
        Ended::Code(0) => Ok(()),
        _ => Err(CliError::Unfinished(format!("{} was not copied whole", clean(path)))),
    }
}

/// This machine's `tar`, with a pipe at its free end.
fn tar(arguments: &[&str]) -> Result<std::process::Child> {
    let unpacks = arguments.first().is_some_and(|flags| flags.starts_with("-x"));
    let mut command = Command::new("tar");
    command.args(arguments);
    if unpacks {
        command.stdin(Stdio::piped());
    } else {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
    }
    command.spawn().map_err(|error| {
        CliError::Local(format!("folders are copied by `tar`, which cannot be started: {error}"))
    })
}

/// Runs a command in a container; what it writes goes to `sink`, what it says about a failure becomes the error. Input is counted.
async fn run(
    session: &Session,
    inside: &Inside,
    argv: &[&str],
    input: Option<(Box<dyn Read + Send>, &mut u64)>,
    sink: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<Ended> {
    let argv: Vec<String> = argv.iter().map(|word| (*word).to_owned()).collect();
    let (own, mut output) = session.exec(inside, &argv, None).await?;
    let (say, said) = mpsc::channel(4);
    let mut words = Vec::new();
    carry(&mut output, input, sink, &mut words, say, session.say(&own, said)).await?;
    let ended = session.ended(&own).await?;
    let words = clean(String::from_utf8_lossy(&words).trim());
    if ended != Ended::Code(0) && !words.is_empty() {
        return Err(CliError::Unfinished(format!("the container says: {words}")));
    }
    Ok(ended)
}

/// Carries both directions until the output ends.
async fn carry(
    output: &mut Output,
    input: Option<(Box<dyn Read + Send>, &mut u64)>,
    sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    words: &mut Vec<u8>,
    say: mpsc::Sender<Said>,
    saying: impl Future<Output = Result<()>>,
) -> Result<()> {
    let feed = async {
        if let Some((input, count)) = input {
            let mut pieces = pieces(input);
            while let Some(bytes) = pieces.recv().await {
                *count += u64::try_from(bytes.len()).unwrap_or(0);
                if say.send(Said::Input(bytes)).await.is_err() {
                    return;
                }
            }
        }
        let _ = say.send(Said::Input(Bytes::new())).await;
        drop(say);
    };
    let read = async {
        while let Some(piece) = output.next().await? {
            if piece.error {
                words.extend(piece.bytes.iter().take(WORDS.saturating_sub(words.len())));
            } else {
                sink(&piece.bytes)?;
            }
        }
        Ok::<(), CliError>(())
    };
    // That the input was refused is the end of the command, of which its output tells.
    let speak = async {
        let ((), _broken) = tokio::join!(feed, saying);
    };
    tokio::pin!(read, speak);
    let mut speaking = true;
    loop {
        tokio::select! {
            done = &mut read => return done,
            () = &mut speak, if speaking => speaking = false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_told_apart() {
        let task = |task: &str, path: &str| Side::Task(task.to_owned(), path.to_owned());
        for (word, want) in [
            ("web.1:logs/a", task("web.1", "logs/a")),
            ("web.1:", task("web.1", "")),
            ("web.1:/etc/hosts", task("web.1", "/etc/hosts")),
            ("./a:b", Side::Local("./a:b".to_owned())),
            ("a", Side::Local("a".to_owned())),
            ("-", Side::Local("-".to_owned())),
            (":a", Side::Local(":a".to_owned())),
        ] {
            assert_eq!(side(word), want, "{word}");
        }
    }

    #[test]
    fn paths_stay_in_the_sandbox() {
        assert_eq!(below("/s", "").unwrap(), "/s");
        assert_eq!(below("/s", "a/b/").unwrap(), "/s/a/b");
        for bad in ["/etc", "../x", "a/../../b"] {
            assert!(matches!(below("/s", bad), Err(CliError::Usage(_))), "{bad}");
        }
        assert_eq!(
            [name_of("a/b"), name_of("a/"), name_of(""), name_of("..")],
            ["b", "a", "sandbox", "sandbox"]
        );
    }
}
