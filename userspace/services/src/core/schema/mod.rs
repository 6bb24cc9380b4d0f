//! The shapes of what clients send: every field with its type, bounds, default and standing, as data. Bodies are read by them, and the
//! reference tables in `docs/reference` are written from them. What the values mean together is [`super::validate`]'s question.
//!
//! Source: Marathon's RAML types; errors and their paths are those of its JSON reader, which names fields `/a/b` and items `(0)`.

mod app;
mod autoscale;
mod checks;
mod container;
mod group;
mod network;
mod pod;
mod read;
mod text;
mod volumes;

pub use app::APP;
pub use group::GROUP;
pub use pod::POD;
pub use read::{Mode, read};
pub use text::Rule;
pub(super) use volumes::{NO_CSI, NO_DISKS};

/// Fields that belong together.
#[derive(Debug)]
pub struct Table {
    /// Its name in the reference.
    pub name: &'static str,
    /// In Marathon's order.
    pub fields: &'static [Field],
}

/// One field.
#[derive(Debug)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// What its value looks like.
    pub shape: Shape,
    /// What holds where it is left out.
    pub default: Default,
    /// What becomes of it.
    pub standing: Standing,
}

/// What a value looks like.
#[derive(Debug)]
pub enum Shape {
    /// A text.
    Text(Rule),
    /// A whole number within these bounds.
    Whole(i64, i64),
    /// A number within these bounds.
    Number(f64, f64),
    /// `true` or `false`.
    Flag,
    /// One of these words, in any case.
    Word(&'static [&'static str]),
    /// A list of at least so many.
    List(&'static Shape, usize),
    /// A list of which equal items count once.
    Set(&'static Shape, usize),
    /// Names with values.
    Map(&'static Shape),
    /// An object.
    Object(&'static Table),
    /// An object of one of several kinds: the first whose sign is there, else the last.
    OneOf(&'static [(Sign, &'static Table)]),
    /// One of these words, or else something of another shape.
    Or(&'static [&'static str], &'static Shape),
    /// A text, or an object.
    TextOr(&'static Table),
    /// A text, or a number.
    TextOrNumber,
    /// A moment, as RFC 3339 writes it.
    Moment,
}

/// What tells one kind of object from another.
#[derive(Clone, Copy, Debug)]
pub enum Sign {
    /// It has this field.
    Has(&'static str),
    /// A field of it is this word.
    Is(&'static str, &'static str),
    /// There is none.
    Else,
}

/// What holds where a field is left out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Default {
    /// It must be there.
    Required,
    /// Nothing, and nothing is shown.
    Absent,
    /// This number.
    Number(f64),
    /// This text.
    Text(&'static str),
    /// This.
    Flag(bool),
    /// An empty list, which is shown.
    List,
    /// An empty object, which is shown.
    Map,
    /// It depends on others; this says how.
    Derived(&'static str),
}

/// What becomes of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It does what Marathon's documentation says.
    Works,
    /// It does that, with this difference.
    Differs(&'static str),
    /// It is read, judged, kept and shown; nothing follows from it, because of this.
    Kept(&'static str),
    /// An older spelling; it is read and turned into this.
    Older(&'static str),
    /// It is read and judged, and then refused, because of this.
    Refused(&'static str),
    /// It is shown and never read.
    Shown,
    /// It is not there, because of this.
    Missing(&'static str),
}

impl Field {
    const fn new(name: &'static str, shape: Shape, default: Default) -> Self {
        Self { name, shape, default, standing: Standing::Works }
    }

    const fn must(name: &'static str, shape: Shape) -> Self {
        Self::new(name, shape, Default::Required)
    }

    const fn may(name: &'static str, shape: Shape) -> Self {
        Self::new(name, shape, Default::Absent)
    }

    const fn seconds(name: &'static str, default: f64) -> Self {
        Self::new(name, SECONDS, Default::Number(default))
    }

    /// Whether clients may send it.
    pub fn is_read(&self) -> bool {
        !matches!(self.standing, Standing::Shown | Standing::Missing(_))
    }

    /// What it is where it is left out, if that is anything and does not depend on others.
    pub fn default_value(&self) -> Option<serde_json::Value> {
        read::default(self)
    }

    const fn standing(self, standing: Standing) -> Self {
        Self { name: self.name, shape: self.shape, default: self.default, standing }
    }

    const fn kept(self, why: &'static str) -> Self {
        self.standing(Standing::Kept(why))
    }

    const fn differs(self, how: &'static str) -> Self {
        self.standing(Standing::Differs(how))
    }

    const fn older(self, now: &'static str) -> Self {
        self.standing(Standing::Older(now))
    }

    const fn refused(self, why: &'static str) -> Self {
        self.standing(Standing::Refused(why))
    }
}

/// What becomes of tasks that are to have a secret.
const NO_SECRETS: &str =
    "the agent is given a reference, and has nowhere to look it up yet: the task fails and says so";

/// Any text.
const TEXT: Shape = Shape::Text(Rule::Any);
/// A text that is not empty.
const SOME_TEXT: Shape = Shape::Text(Rule::Length(1, usize::MAX));
/// A path, up to 1024 characters.
const PATH: Shape = Shape::Text(Rule::Length(1, 1024));
/// Whole seconds.
const SECONDS: Shape = Shape::Whole(0, i32::MAX as i64);
/// Whole seconds of a longer kind.
const LONG_SECONDS: Shape = Shape::Whole(0, i64::MAX);
/// A port, or 0.
const PORT: Shape = Shape::Whole(0, 65_535);
/// Labels.
const LABELS: Shape = Shape::Map(&TEXT);
/// As much as makes sense of anything: sums of it stay exact.
const PLENTY: f64 = 1e12;
/// An amount of a resource, possibly none.
const AMOUNT: Shape = Shape::Number(0.0, PLENTY);
