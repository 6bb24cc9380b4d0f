//! The latest events as `/v2/events` sends them: frames that were encoded once and are numbered, in a ring of bounded size. A subscriber is
//! a position in it. Who reads when, and over which connection, is the shell's.
//!
//! A frame is one server-sent event (WHATWG HTML, 9.2): `event`, `data` and `id` lines and an empty one. An id is `<leadership>-<number>`;
//! numbers begin at 1 with each leadership and rise by one a frame, whatever a subscriber's filter lets through.

use std::collections::VecDeque;

use bytes::Bytes;
use plenum_api::Now;
use serde_json::json;

use super::{Notice, health, notices};

/// Bytes of frames that are kept.
pub const CAPACITY: usize = 16 * 1024 * 1024;
/// The event that goes before all others where some were missed. It passes every filter.
pub const GAP: &str = "gap";
/// Frames that are looked at in one reading.
const MOST_LOOKED: usize = 1024;
/// Frames and bytes that one reading gives.
const MOST_FRAMES: usize = 32;
const MOST_BYTES: usize = 16 * 1024;
/// What is repeated of an id that means nothing to us.
const LONGEST_ID: usize = 128;

/// Types that go only to those who name them: older names of events that are sent under their newer one as well.
const ASKED_FOR: [&str; 1] = [health::UNHEALTHY_TASK_KILL];

/// Which types of events a subscriber takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter(Option<Box<[&'static str]>>);

impl Filter {
    /// Everything.
    pub fn all() -> Self {
        Self(None)
    }

    /// These types and no others.
    pub fn only(kinds: impl IntoIterator<Item = &'static str>) -> Self {
        let mut kinds: Vec<&'static str> = kinds.into_iter().collect();
        kinds.sort_unstable();
        kinds.dedup();
        Self(Some(kinds.into_boxed_slice()))
    }

    /// Whether events of this type pass.
    pub fn takes(&self, kind: &str) -> bool {
        match &self.0 {
            None => !ASKED_FOR.contains(&kind),
            Some(kinds) => kinds.binary_search(&kind).is_ok(),
        }
    }
}

/// An event's lines but the last, its number.
#[derive(Debug)]
pub struct Encoded {
    kind: &'static str,
    text: Vec<u8>,
}

/// Encodes an event. This is the only place that does.
pub fn encode(notice: &Notice) -> Encoded {
    // A frame's usual size, its number included.
    let mut text = Vec::with_capacity(640);
    for part in ["event: ", notice.kind, "\ndata: "] {
        text.extend_from_slice(part.as_bytes());
    }
    // Writing JSON to memory fails for maps whose keys are no texts, which a `Value` has none of.
    let _ = serde_json::to_writer(&mut text, &notice.body);
    text.push(b'\n');
    Encoded { kind: notice.kind, text }
}

#[derive(Debug)]
struct Frame {
    kind: &'static str,
    bytes: Bytes,
}

/// What a reading found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// What there was; nothing more for now.
    All,
    /// Part of it.
    Some,
    /// The position is not in the ring any more: events were missed.
    Behind,
}

/// The ring.
#[derive(Debug)]
pub struct Ring {
    leadership: u64,
    capacity: usize,
    frames: VecDeque<Frame>,
    /// The number of the oldest frame; of the next one, if there is none.
    first: u64,
    bytes: usize,
    encoded: u64,
}

impl Ring {
    /// An empty ring of so many bytes. No two processes or terms of one scheduler have the same `leadership`.
    pub fn new(leadership: u64, capacity: usize) -> Self {
        Self { leadership, capacity, frames: VecDeque::new(), first: 1, bytes: 0, encoded: 0 }
    }

    /// Numbers a frame and takes it in; the oldest go as far as they must. The newest always stays.
    pub fn push(&mut self, encoded: Encoded) {
        let Encoded { kind, mut text } = encoded;
        text.extend_from_slice(format!("id: {}-{}\n\n", self.leadership, self.next()).as_bytes());
        let bytes = Bytes::from(text);
        self.encoded = self.encoded.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes.len());
        self.frames.push_back(Frame { kind, bytes });
        while self.bytes > self.capacity && self.frames.len() > 1 {
            if let Some(gone) = self.frames.pop_front() {
                self.bytes = self.bytes.saturating_sub(gone.bytes.len());
                self.first = self.first.saturating_add(1);
            }
        }
    }

    /// Forgets everything, and one number more: nobody can go on from before, because it is not known what happened.
    pub fn cut(&mut self) {
        self.first = self.next().saturating_add(1);
        self.frames.clear();
        self.bytes = 0;
    }

    /// The position after the newest frame.
    pub fn next(&self) -> u64 {
        let count = u64::try_from(self.frames.len()).unwrap_or(u64::MAX);
        self.first.saturating_add(count)
    }

    /// Where a subscriber begins whose last event was `last` (`Last-Event-ID`): right behind it if that is in the ring. Otherwise at the
    /// newest, with a frame that says that there is a gap.
    pub fn join(&self, last: Option<&str>, now: Now) -> (u64, Option<Bytes>) {
        let Some(last) = last else { return (self.next(), None) };
        let at = self.after(last);
        if let Some(at) = at.filter(|at| (self.first..=self.next()).contains(at)) {
            return (at, None);
        }
        let last: String = last.chars().take(LONGEST_ID).collect();
        let reason = "Events were missed: they are older than those that are kept, or of another leader. Read anew what you follow.";
        let notice = notices::notice(GAP, json!({"lastEventId": last, "reason": reason}), now);
        let mut text = encode(&notice).text;
        text.extend_from_slice(self.mark(self.next()).as_bytes());
        (self.next(), Some(Bytes::from(text)))
    }

    /// The position behind the frame of that id, wherever that is.
    fn after(&self, id: &str) -> Option<u64> {
        let (leadership, number) = id.trim().split_once('-')?;
        let same = leadership.parse::<u64>().ok()? == self.leadership;
        number.parse::<u64>().ok().filter(|_| same)?.checked_add(1)
    }

    /// Lines that give a subscriber at `position` the id to go on from, without an event.
    pub fn mark(&self, position: u64) -> String {
        format!("id: {}-{}\n\n", self.leadership, position.saturating_sub(1))
    }

    /// Reads on from `position`, which moves, what `filter` takes.
    pub fn read(&self, position: &mut u64, filter: &Filter, out: &mut VecDeque<Bytes>) -> Found {
        let Some(skip) = position.checked_sub(self.first) else { return Found::Behind };
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        let (mut bytes, mut frames) = (0usize, 0usize);
        for (looked, frame) in self.frames.iter().skip(skip).enumerate() {
            if looked >= MOST_LOOKED || frames >= MOST_FRAMES || bytes >= MOST_BYTES {
                return Found::Some;
            }
            *position = position.saturating_add(1);
            if filter.takes(frame.kind) {
                (bytes, frames) = (bytes.saturating_add(frame.bytes.len()), frames.saturating_add(1));
                out.push_back(frame.bytes.clone());
            }
        }
        Found::All
    }

    /// How many frames were encoded so far, and how many bytes of them are kept.
    pub fn counts(&self) -> (u64, usize) {
        (self.encoded, self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use plenum_api::Millis;

    use super::*;

    const NOW: Now = Now { mono: Millis(1), wall: Millis(0) };

    fn push(ring: &mut Ring, kind: &'static str, n: u64) {
        ring.push(encode(&Notice { kind, body: json!({ "n": n }) }));
    }

    fn read(ring: &Ring, position: &mut u64, filter: &Filter) -> (Found, String) {
        let mut out = VecDeque::new();
        let found = ring.read(position, filter, &mut out);
        (found, out.iter().map(|frame| String::from_utf8_lossy(frame).into_owned()).collect())
    }

    #[test]
    fn frames_are_server_sent_events_with_rising_ids() {
        let mut ring = Ring::new(7, CAPACITY);
        push(&mut ring, "a", 1);
        push(&mut ring, "b", 2);
        let want = "event: a\ndata: {\"n\":1}\nid: 7-1\n\nevent: b\ndata: {\"n\":2}\nid: 7-2\n\n";
        assert_eq!(read(&ring, &mut 1, &Filter::all()), (Found::All, want.to_owned()));
        assert_eq!((ring.next(), ring.counts()), (3, (2, want.len())));
        assert_eq!(ring.mark(3), "id: 7-2\n\n");
    }

    #[test]
    fn the_oldest_go_and_who_is_behind_them_hears_so() {
        let mut ring = Ring::new(1, 100);
        for n in 1..=10 {
            push(&mut ring, "a", n);
        }
        let (encoded, bytes) = ring.counts();
        assert!(encoded == 10 && bytes <= 100, "{bytes}");
        let mut kept = ring.first;
        assert!(kept > 1 && ring.next() == 11);
        assert_eq!(read(&ring, &mut 1, &Filter::all()).0, Found::Behind);
        assert_eq!(read(&ring, &mut (kept - 1), &Filter::all()).0, Found::Behind);
        let (found, text) = read(&ring, &mut kept, &Filter::all());
        assert!(found == Found::All && text.ends_with("id: 1-10\n\n") && kept == 11, "{text}");
        // One that is larger than the whole ring is there all the same.
        ring.push(encode(&Notice { kind: "a", body: json!({"n": "x".repeat(1000)}) }));
        assert_eq!((ring.frames.len(), ring.first), (1, 11));
        assert_eq!(read(&ring, &mut kept, &Filter::all()).0, Found::All);
    }

    #[test]
    fn filters_take_what_they_name() {
        let mut ring = Ring::new(1, CAPACITY);
        for (n, kind) in (1..).zip(["a", health::UNHEALTHY_TASK_KILL, "b", "c"]) {
            push(&mut ring, kind, n);
        }
        for (filter, want) in [
            (Filter::all(), "134"),
            (Filter::only(["b"]), "3"),
            (Filter::only(["c", "a", "c"]), "14"),
            (Filter::only([health::UNHEALTHY_TASK_KILL]), "2"),
            (Filter::only([]), ""),
        ] {
            let mut position = 1;
            let (found, text) = read(&ring, &mut position, &filter);
            let ids: String = text.lines().filter_map(|line| line.strip_prefix("id: 1-")).collect();
            assert_eq!((found, ids.as_str(), position), (Found::All, want, 5), "{filter:?}");
        }
    }

    #[test]
    fn one_reading_is_bounded_and_the_next_goes_on() {
        let mut ring = Ring::new(1, CAPACITY);
        for n in 1..=3000 {
            push(&mut ring, "a", n);
        }
        let (mut position, mut seen, mut readings) = (1, 0, 0);
        loop {
            let (found, text) = read(&ring, &mut position, &Filter::all());
            let frames = text.matches("event: ").count();
            assert!(frames <= MOST_FRAMES && text.len() <= 2 * MOST_BYTES);
            (seen, readings) = (seen + frames, readings + 1);
            if found == Found::All {
                break;
            }
        }
        assert!(seen == 3000 && readings > 90, "{seen} in {readings}");
        let mut position = 1;
        let (found, text) = read(&ring, &mut position, &Filter::only(["b"]));
        assert_eq!((found, text.as_str(), position), (Found::Some, "", 1025), "looking is bounded as well");
    }

    #[test]
    fn who_comes_back_goes_on_where_it_was_or_is_told_of_the_gap() {
        let mut ring = Ring::new(5, 120);
        assert_eq!(ring.join(None, NOW), (1, None));
        assert_eq!(ring.join(Some("5-0"), NOW), (1, None), "the mark of one that came before the first");
        for n in 1..=10 {
            push(&mut ring, "a", n);
        }
        let first = ring.first;
        assert!(first > 3);
        for (last, want) in [
            (format!("5-{}", first - 1), Some(first)),
            (format!("5-{first}"), Some(first + 1)),
            (" 5-10 ".to_owned(), Some(11)),
            (format!("5-{}", first - 2), None),
            ("5-11".to_owned(), None),
            (format!("5-{}", u64::MAX), None),
            ("4-10".to_owned(), None),
            ("5".to_owned(), None),
            ("-".to_owned(), None),
            ("\"\n\u{1F600}".repeat(200), None),
        ] {
            let (position, gap) = ring.join(Some(&last), NOW);
            assert_eq!(position, want.unwrap_or(11), "{last}");
            assert_eq!(gap.is_none(), want.is_some(), "{last}");
            let Some(gap) = gap else { continue };
            let text = String::from_utf8(gap.to_vec()).unwrap();
            let lines: Vec<&str> = text.split('\n').collect();
            assert_eq!((lines[0], lines[2], lines.len()), ("event: gap", "id: 5-10", 5), "{text}");
            let data: serde_json::Value =
                serde_json::from_str(lines[1].strip_prefix("data: ").unwrap()).unwrap();
            assert_eq!(data["eventType"], "gap");
            assert!(last.starts_with(data["lastEventId"].as_str().unwrap()) && text.len() < 1500);
        }
    }

    #[test]
    fn after_a_cut_nobody_goes_on_from_before() {
        let mut ring = Ring::new(2, CAPACITY);
        push(&mut ring, "a", 1);
        let up_to_date = ring.next();
        ring.cut();
        assert_eq!(read(&ring, &mut up_to_date.clone(), &Filter::all()).0, Found::Behind);
        assert!(ring.join(Some("2-1"), NOW).1.is_some());
        push(&mut ring, "a", 2);
        let (position, gap) = ring.join(Some("2-3"), NOW);
        assert_eq!((position, gap), (4, None), "ids go on");
    }
}
