//! `plenum task exec` and `plenum task attach`: this process's streams at a command's ends.
//!
//! Owns the terminal while it is lent to the other side: it is put back however the verb ends.

use std::io::{IsTerminal as _, Read};
use std::os::fd::AsFd;
use std::time::Duration;

use bytes::Bytes;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::logs::find;
use crate::api::Session;
use crate::api::exec::{HEARTBEAT, Inside, Output, Said};
use crate::error::{CliError, Result};
use crate::screen::Screen;
use crate::text::clean;

/// Bytes of input that are sent at once.
const PIECE: usize = 32 * 1024;
/// Pieces of input that wait before reading pauses.
const WAITING: usize = 4;
/// For the agent to answer an input whose command has ended.
const FAREWELL: Duration = Duration::from_secs(2);
/// Typed one after the other these leave a terminal without ending the command: control-P, control-Q.
const LEAVE: [u8; 2] = [0x10, 0x11];

/// What is lent to a command.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lent {
    /// The standard input.
    pub input: bool,
    /// A terminal.
    pub terminal: bool,
    /// The command is ours alone: where it gets no input it is told so.
    pub alone: bool,
}

/// `plenum task exec`.
pub(crate) async fn exec(
    session: &Session,
    id: &str,
    argv: &[String],
    lent: Lent,
    screen: &mut Screen,
) -> Result<()> {
    let task = find(&session.tasks().await?, id)?;
    let inside = task.inside()?;
    if lent.terminal && lent.input && !std::io::stdin().is_terminal() {
        return Err(CliError::Usage(
            "-t wants a terminal to type at, and the standard input is none; leave -t out".to_owned(),
        ));
    }
    let size = lent.terminal.then(terminal_size);
    let (own, output) = session.exec(&inside, argv, size).await.map_err(|error| not_started(error, argv))?;
    let left = talk(session, &own, output, lent, Ends::new()?, screen).await?;
    if left {
        return Ok(());
    }
    let code = session.ended(&own).await?.code();
    if code == 0 { Ok(()) } else { Err(CliError::Exited(code)) }
}

/// A command that is not there has the code that shells give it.
fn not_started(error: CliError, argv: &[String]) -> CliError {
    let words = error.to_string();
    let program = argv.first().map(|program| clean(program)).unwrap_or_default();
    match error {
        CliError::Refused { status: 400, .. } if words.contains("No such file") => {
            CliError::NoProgram(format!("there is no program {program} inside the task"), 127)
        }
        CliError::Refused { status: 400, .. } if words.contains("Permission denied") => {
            CliError::NoProgram(format!("the task's user may not run {program}"), 126)
        }
        _ => error,
    }
}

/// `plenum task attach`. Ends as the task does, unless somebody leaves before.
pub(crate) async fn attach(session: &Session, id: &str, input: bool, screen: &mut Screen) -> Result<()> {
    let task = find(&session.tasks().await?, id)?;
    let inside = task.inside()?;
    let output = session.listen(&inside).await.map_err(|error| {
        error.or_else_try(
            500,
            &format!("what it writes to its files is read by `plenum task logs -f {}`", task.id),
        )
    })?;
    // From before the first word on: whoever sees that may interrupt.
    let ends = Ends::new()?;
    let has_terminal = task.has_terminal();
    if input && !has_terminal {
        screen.note(&format!(
            "{0} was started without a terminal: this is what it prints from now on; `plenum task exec -it {0} sh` types beside it",
            clean(&task.id)
        ))?;
    }
    let input = input && has_terminal;
    let terminal = input && std::io::stdin().is_terminal();
    let talk = talk(session, &inside, output, Lent { input, terminal, alone: false }, ends, screen);
    // Asked from the beginning: once the task has ended its node may have forgotten the container.
    let ending = session.end(&inside);
    let (mut talk, mut ending) = (std::pin::pin!(talk), std::pin::pin!(ending));
    let mut ended = None;
    let left = loop {
        tokio::select! {
            left = &mut talk => break left.map_err(goes_on)?,
            known = &mut ending, if ended.is_none() => ended = Some(known),
        }
    };
    if left {
        return Ok(());
    }
    let ended = match ended {
        Some(known) => known.ok(),
        None => tokio::time::timeout(FAREWELL, ending).await.ok().and_then(Result::ok),
    };
    let code = match ended {
        Some(ended) => ended.code(),
        // The wait for it was cut short; how the task went is known for longer.
        None => match session.tasks().await?.into_iter().find(|one| one.id == task.id) {
            Some(task) if task.state == "TASK_FAILED" => 1,
            _ => 0,
        },
    };
    if code == 0 { Ok(()) } else { Err(CliError::Exited(code)) }
}

/// A connection to a task ends nothing when it breaks.
fn goes_on(error: CliError) -> CliError {
    match error {
        CliError::Unreachable(_) => CliError::Unreachable(
            "the connection to the task broke: its node, the agent there or the gateway went away. The task goes on without it; \
             attach again, or see `plenum task list`"
                .to_owned(),
        ),
        other => other,
    }
}

/// Carries both directions until the command's output ends; `true` if somebody left before.
async fn talk(
    session: &Session,
    own: &Inside,
    mut output: Output,
    lent: Lent,
    mut ends: Ends,
    screen: &mut Screen,
) -> Result<bool> {
    let raw = (lent.terminal && lent.input).then(Raw::begin).transpose()?;
    let (say, said) = mpsc::channel(WAITING);
    let mut typed = lent.input.then(|| pieces(screen.take_input()));
    let mut speaking = std::pin::pin!(session.say(own, said));
    let mut speaks = lent.input || lent.alone;
    if !lent.input {
        let _ = say.try_send(Said::Input(Bytes::new()));
    }
    let mut say = (lent.input || lent.terminal).then_some(say).filter(|_| speaks);
    let mut beat = tokio::time::interval(HEARTBEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut leaving = Leaving::default();
    if lent.terminal {
        resized(say.as_ref());
    }
    loop {
        tokio::select! {
            piece = output.next() => match piece? {
                Some(piece) => {
                    let to = if piece.error { &mut screen.err } else { &mut screen.out };
                    to.write_all(&piece.bytes)?;
                    to.flush()?;
                }
                None => break,
            },
            answer = &mut speaking, if speaks => {
                speaks = false;
                say = None;
                // What only breaks is the end of the command, of which its output tells.
                match answer {
                    Err(error @ CliError::Refused { .. }) if error.status() != Some(500) => return Err(error),
                    _ => {}
                }
            }
            bytes = next(say.as_ref(), typed.as_mut()) => {
                if raw.is_some() && leaving.hears(&bytes) {
                    drop(raw);
                    screen.note("\nleft; the task goes on")?;
                    return Ok(true);
                }
                let end = bytes.is_empty();
                if let Some(say) = &say {
                    let _ = say.try_send(Said::Input(bytes));
                }
                if end {
                    // The other side hears of the end and then that nothing else follows.
                    say = None;
                    typed = None;
                }
            }
            _ = beat.tick() => {
                if let Some(say) = &say {
                    let _ = say.try_send(Said::Heartbeat);
                }
            }
            ended = ends.next() => match ended {
                End::Resized if lent.terminal => resized(say.as_ref()),
                End::Resized => {}
                End::Killed(code) => return Err(CliError::Exited(code)),
            },
        }
    }
    drop(say);
    if speaks {
        let _the_command_has_ended = tokio::time::timeout(FAREWELL, speaking).await;
    }
    Ok(false)
}

/// What is read next, once there is room to send it: reading pauses while the other side does not take what was read.
async fn next(say: Option<&mpsc::Sender<Said>>, typed: Option<&mut mpsc::Receiver<Bytes>>) -> Bytes {
    if let (Some(say), Some(typed)) = (say, typed)
        && say.reserve().await.is_ok()
    {
        return typed.recv().await.unwrap_or_default();
    }
    std::future::pending().await
}

fn resized(say: Option<&mpsc::Sender<Said>>) {
    let (rows, columns) = terminal_size();
    if let Some(say) = say.filter(|_| rows > 0 && columns > 0) {
        let _ = say.try_send(Said::Resized(rows, columns));
    }
}

fn terminal_size() -> (u16, u16) {
    terminal_size::terminal_size().map_or((0, 0), |(columns, rows)| (rows.0, columns.0))
}

/// Reads in a thread of its own: nothing else can wait for a terminal and for something else at the same time. It ends with the process.
pub(crate) fn pieces(mut input: Box<dyn Read + Send>) -> mpsc::Receiver<Bytes> {
    let (to, pieces) = mpsc::channel(WAITING);
    std::thread::spawn(move || {
        let mut piece = vec![0; PIECE];
        loop {
            match input.read(&mut piece) {
                Ok(n @ 1..) => {
                    let bytes = Bytes::copy_from_slice(piece.get(..n).unwrap_or_default());
                    if to.blocking_send(bytes).is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                _ => return,
            }
        }
    });
    pieces
}

/// Watches for the keys that leave.
#[derive(Debug, Default)]
struct Leaving {
    half: bool,
}

impl Leaving {
    fn hears(&mut self, bytes: &[u8]) -> bool {
        for byte in bytes {
            if self.half && *byte == LEAVE[1] {
                return true;
            }
            self.half = *byte == LEAVE[0];
        }
        false
    }
}

/// A terminal whose keys all go to the other side. It is put back when this is dropped.
struct Raw(Termios);

impl Raw {
    fn begin() -> Result<Self> {
        let wrong = |error| CliError::Local(format!("the terminal cannot be lent to the command: {error}"));
        let terminal = std::io::stdin();
        let before = tcgetattr(terminal.as_fd()).map_err(wrong)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(terminal.as_fd(), SetArg::TCSADRAIN, &raw).map_err(wrong)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that has gone needs nothing.
        let _ = tcsetattr(std::io::stdin().as_fd(), SetArg::TCSADRAIN, &self.0);
    }
}

/// What can come from the terminal and the system meanwhile.
struct Ends {
    resized: Signal,
    interrupted: Signal,
    terminated: Signal,
    hung_up: Signal,
}

enum End {
    Resized,
    Killed(u8),
}

impl Ends {
    fn new() -> Result<Self> {
        let listen = |kind| {
            signal(kind).map_err(|error| CliError::Local(format!("signals cannot be listened to: {error}")))
        };
        Ok(Self {
            resized: listen(SignalKind::window_change())?,
            interrupted: listen(SignalKind::interrupt())?,
            terminated: listen(SignalKind::terminate())?,
            hung_up: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> End {
        tokio::select! {
            _ = self.resized.recv() => End::Resized,
            _ = self.interrupted.recv() => End::Killed(130),
            _ = self.terminated.recv() => End::Killed(143),
            _ = self.hung_up.recv() => End::Killed(129),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_keys_in_a_row_leave() {
        for (typed, leaves) in [
            (vec![&b"ls\n"[..]], false),
            (vec![&[0x10, 0x11][..]], true),
            (vec![&[0x10][..], &[0x11]], true),
            (vec![&[0x10][..], b"x", &[0x11]], false),
            (vec![&[0x11, 0x10][..], &[0x10, 0x11]], true),
        ] {
            let mut leaving = Leaving::default();
            assert_eq!(typed.iter().any(|bytes| leaving.hears(bytes)), leaves, "{typed:?}");
        }
    }

    #[test]
    fn a_missing_program_has_its_code() {
        let refused = |words: &str| CliError::refusal(http::StatusCode::BAD_REQUEST, words.as_bytes());
        let argv = ["vi".to_owned()];
        for (words, code) in
            [("execve (vi): No such file or directory", 127), ("execve: Permission denied", 126), ("no", 1)]
        {
            assert_eq!(not_started(refused(words), &argv).exit_code(), code, "{words}");
        }
    }
}
