//! Which entries of the engine's log are still to be written. The engine gives each entry with the time it took it;
//! after a restart it is asked for everything from shortly before the last one, and what is written already is left out.
//! Pure.

use crate::record::Written;

/// One stream of a container's output, over restarts of the engine's answer and of the agent.
#[derive(Debug, Clone, Default)]
pub struct Journal {
    written: Written,
    /// Entries of the last time that this answer has shown again.
    met: u32,
    /// This answer has passed what is written: all that follows is new, whatever its time says.
    past: bool,
    /// The answer went back in time after this was written, and the engine was asked anew.
    suspected: Option<Written>,
    /// What the file holds beyond what was noted: the agent died between writing and noting.
    beyond: Vec<u8>,
}

impl Journal {
    /// Goes on from a note. `beyond` is what the file holds after the noted length.
    #[must_use]
    pub fn resume(written: Written, beyond: Vec<u8>) -> Self {
        Self { written, beyond, ..Self::default() }
    }

    /// The engine is asked anew.
    pub fn again(&mut self) {
        (self.met, self.past) = (0, false);
    }

    /// What to note.
    #[must_use]
    pub fn written(&self) -> Written {
        self.written
    }

    /// Whether an entry of this time is one that has not been written: not shown again, and not compared with what the file holds.
    #[must_use]
    pub fn is_new(&self, at: i64) -> bool {
        let known = at < self.written.at || (at == self.written.at && self.met < self.written.same);
        (self.past || !known) && self.beyond.is_empty()
    }

    /// Whether an entry goes back in time though the clock (`now`) did not: some engines, when their own file of the log is changed while they read it, say
    /// all of the new one again. True once for what is written: asked anew, the engine shows what comes after it.
    pub fn repeats(&mut self, at: i64, now: i64) -> bool {
        let back = self.past && self.beyond.is_empty() && at < self.written.at && now >= self.written.at;
        if !back || self.suspected == Some(self.written) {
            return false;
        }
        self.suspected = Some(self.written);
        true
    }

    /// The file has this length now, whatever was counted.
    pub fn shortened(&mut self, len: u64) {
        self.written.len = len;
    }

    /// What of an entry is to be appended to the file; nothing if it is there.
    pub fn take<'a>(&mut self, at: i64, text: &'a [u8]) -> &'a [u8] {
        if !self.past {
            if at < self.written.at {
                return &[];
            }
            if at == self.written.at && self.met < self.written.same {
                self.met += 1;
                // The last one that was written: what comes after it is new.
                self.past = self.met == self.written.same;
                return &[];
            }
            self.past = true;
        }
        let same = if at == self.written.at { self.written.same.saturating_add(1) } else { 1 };
        let len = u64::try_from(text.len()).unwrap_or(u64::MAX);
        self.written = Written { at, same, len: self.written.len.saturating_add(len) };
        self.left(text)
    }

    /// Takes away what the file holds of it.
    fn left<'a>(&mut self, text: &'a [u8]) -> &'a [u8] {
        if self.beyond.is_empty() {
            return text;
        }
        let common = self.beyond.len().min(text.len());
        if self.beyond.get(..common) == text.get(..common) {
            self.beyond.drain(..common);
            return text.get(common..).unwrap_or_default();
        }
        // The file holds something that the engine never said: it stays, and all that follows is written.
        let alien = u64::try_from(self.beyond.len()).unwrap_or(u64::MAX);
        self.written.len = self.written.len.saturating_add(alien);
        self.beyond.clear();
        text
    }
}

/// Time and text of an entry as the engine writes it: `2026-01-02T03:04:05.000000006Z text`.
#[must_use]
pub fn parse(entry: &[u8]) -> Option<(i64, &[u8])> {
    let space = entry.iter().take(64).position(|byte| *byte == b' ')?;
    let time = std::str::from_utf8(entry.get(..space)?).ok()?;
    let time: jiff::Timestamp = time.parse().ok()?;
    Some((i64::try_from(time.as_nanosecond()).ok()?, entry.get(space + 1..)?))
}

/// Takes the time stamps out of an entry of a terminal's output. There the engine writes one before each piece of a
/// long line, and does not say where a piece begins: all have the time of the first, and all but the last 16 KiB.
#[must_use]
pub fn without_inner_stamps(entry: &[u8], text: &[u8]) -> Option<Vec<u8>> {
    const PIECE: usize = 16 * 1024;
    let stamp = entry.get(..entry.len().checked_sub(text.len())?)?;
    let mut rest = text;
    let mut clean = Vec::new();
    while let (Some(piece), Some(more)) = (rest.get(..PIECE), rest.get(PIECE..)) {
        let Some(more) = more.strip_prefix(stamp) else { break };
        clean.extend_from_slice(piece);
        rest = more;
    }
    if clean.is_empty() {
        return None;
    }
    clean.extend_from_slice(rest);
    Some(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The engine's log: times repeat, as they do for the pieces of a long line.
    fn log() -> Vec<(i64, Vec<u8>)> {
        let times = [1, 1, 2, 3, 3, 3, 4, 9];
        times.iter().enumerate().map(|(index, at)| (*at, format!("entry {index}\n").into_bytes())).collect()
    }

    fn whole() -> Vec<u8> {
        log().into_iter().flat_map(|(_, text)| text).collect()
    }

    #[test]
    fn nothing_is_lost_or_doubled_wherever_the_answer_breaks() {
        for first in 0..=log().len() {
            for back in 0..=first {
                let mut journal = Journal::default();
                let mut file = Vec::new();
                for (at, text) in &log()[..first] {
                    file.extend_from_slice(journal.take(*at, text));
                }
                journal.again();
                // The engine starts at a time, which may be any not after the last one.
                let since = log()[..first].get(back.saturating_sub(1)).map_or(0, |(at, _)| *at);
                for (at, text) in log().iter().filter(|(at, _)| *at >= since) {
                    file.extend_from_slice(journal.take(*at, text));
                }
                assert_eq!(file, whole(), "{first} entries, then from {since}");
            }
        }
    }

    #[test]
    fn an_agent_that_died_between_writing_and_noting() {
        let text = whole();
        let mut noted = vec![Written::default()];
        let mut journal = Journal::default();
        for (at, text) in &log() {
            journal.take(*at, text);
            noted.push(journal.written());
        }
        for note in &noted {
            let start = usize::try_from(note.len).unwrap();
            // The file may end in the middle of an entry.
            for end in start..=text.len() {
                let mut file = text[..end].to_vec();
                let mut journal = Journal::resume(*note, file[start..].to_vec());
                for (at, entry) in &log() {
                    file.extend_from_slice(journal.take(*at, entry));
                }
                assert_eq!(file, text, "noted {note:?}, file of {end}");
                assert_eq!(journal.written().len, text.len() as u64);
            }
        }
    }

    #[test]
    fn a_clock_that_steps_back_loses_nothing_while_the_answer_goes_on() {
        let mut journal = Journal::default();
        assert_eq!(journal.take(9, b"a"), b"a");
        assert_eq!(journal.take(3, b"b"), b"b");
        assert_eq!(journal.take(3, b"c"), b"c");
    }

    #[test]
    fn an_engine_that_repeats_itself_is_asked_anew() {
        let (mut journal, mut file) = (Journal::default(), Vec::new());
        let take = |journal: &mut Journal, file: &mut Vec<u8>, entries: &[(i64, Vec<u8>)]| {
            entries.iter().all(|(at, text)| {
                let good = !journal.repeats(*at, 100);
                if good {
                    file.extend_from_slice(journal.take(*at, text));
                }
                good
            })
        };
        let all = log();
        assert!(take(&mut journal, &mut file, &all[..7]));
        assert!(!take(&mut journal, &mut file, &all[2..]), "from the third on, once more");
        journal.again();
        assert!(take(&mut journal, &mut file, &all));
        assert_eq!(file, whole());
        // The clock was set back a little: the engine shows the same after the same.
        let mut stepped = all.clone();
        stepped.extend([(5, b"later\n".to_vec()), (6, b"last\n".to_vec())]);
        assert!(!take(&mut journal, &mut file, &stepped[8..]));
        journal.again();
        assert!(take(&mut journal, &mut file, &stepped));
        assert_eq!(file, [whole(), b"later\nlast\n".to_vec()].concat());
    }

    #[test]
    fn what_the_task_wrote_into_the_file_itself_stays() {
        let mut journal = Journal::resume(Written { at: 1, same: 1, len: 2 }, b"mine".to_vec());
        assert_eq!(journal.take(1, b"x\n"), b"");
        assert_eq!(journal.take(2, b"new\n"), b"new\n");
        assert_eq!(journal.written().len, 2 + 4 + 4);
    }

    #[test]
    fn entries() {
        let (at, text) = parse(b"1970-01-01T00:00:01.000000002Z a b\n").unwrap();
        assert_eq!((at, text), (1_000_000_002, &b"a b\n"[..]));
        for bad in [&b""[..], b"x", b"no time here", b"1970-01-01T00:00:01.000000002Z"] {
            assert_eq!(parse(bad), None);
        }
        let stamp = b"1970-01-01T00:00:01.000000002Z ";
        let piece = vec![b'x'; 16 * 1024];
        let entry = [&stamp[..], &piece, stamp, b"end\n"].concat();
        let (_, text) = parse(&entry).unwrap();
        assert_eq!(without_inner_stamps(&entry, text), Some([&piece[..], b"end\n"].concat()));
        assert_eq!(without_inner_stamps(b"s t", b"t"), None);
    }
}
