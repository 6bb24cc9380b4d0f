//! What a person sees while hosts are worked on: a line a host on a terminal, drawn over; elsewhere a line for each thing that begins.

use std::io::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Lines of progress, on the standard error.
#[derive(Debug)]
pub struct Progress {
    live: bool,
    width: usize,
    begun: Instant,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    hosts: Vec<(String, String)>,
    drawn: usize,
    longest: usize,
}

impl Progress {
    /// For a terminal of that width, or not one.
    #[must_use]
    pub fn new(live: bool, width: Option<usize>) -> Self {
        let width = width.unwrap_or(100).max(20);
        Self { live, width, begun: Instant::now(), state: Mutex::new(State::default()) }
    }

    /// Says what a host is at.
    pub fn host(&self, host: &str, what: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let what: String = what.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        state.longest = state.longest.max(host.len());
        match state.hosts.iter_mut().find(|(name, _)| name == host) {
            Some((_, now)) if *now == what => return,
            Some((_, now)) => now.clone_from(&what),
            None => state.hosts.push((host.to_owned(), what.clone())),
        }
        if self.live {
            self.draw(&mut state);
        } else {
            let wide = state.longest;
            eprintln!("{:7.1} s  {host:<wide$}  {what}", self.begun.elapsed().as_secs_f64());
        }
    }

    /// Says something of the whole; on a terminal it stays above the hosts' lines.
    pub fn say(&self, text: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.wipe(&mut state);
        if self.live {
            eprintln!("{text}");
            self.draw(&mut state);
        } else {
            eprintln!("{:7.1} s  {text}", self.begun.elapsed().as_secs_f64());
        }
    }

    /// Takes the hosts' lines away.
    pub fn clear(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.wipe(&mut state);
        state.hosts.clear();
    }

    fn wipe(&self, state: &mut State) {
        if self.live && state.drawn > 0 {
            eprint!("\x1b[{}A\x1b[J", state.drawn);
        }
        state.drawn = 0;
    }

    fn draw(&self, state: &mut State) {
        self.wipe(state);
        let mut text = String::new();
        for (host, what) in &state.hosts {
            let wide = state.longest;
            let line: String =
                format!("  {host:<wide$}  {what}").chars().take(self.width.saturating_sub(1)).collect();
            text.push_str(&line);
            text.push('\n');
        }
        state.drawn = state.hosts.len();
        let mut err = std::io::stderr().lock();
        // Where nobody can be told, the work goes on.
        let _ = err.write_all(text.as_bytes());
        let _ = err.flush();
    }
}
