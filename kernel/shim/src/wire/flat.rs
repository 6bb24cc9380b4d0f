//! The flat encoding of fields: little-endian integers, byte strings and lists with a u32 count, options with a flag.

/// What is wrong with bytes that should have been a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "malformed message: {}", self.0)
    }
}

impl std::error::Error for Malformed {}

/// A cursor over the bytes of a payload.
#[derive(Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the beginning of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next `n` bytes.
    pub fn bytes(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        let (head, tail) = self.rest.split_at_checked(n).ok_or(Malformed("it ends too early"))?;
        self.rest = tail;
        Ok(head)
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    fn left(&self) -> usize {
        self.rest.len()
    }
}

/// A value with a flat encoding. Every value takes at least one byte, which bounds what a count can ask for.
pub trait Flat: Sized {
    /// Appends the value.
    fn put(&self, out: &mut Vec<u8>);
    /// Reads the value.
    fn take(from: &mut Reader<'_>) -> Result<Self, Malformed>;
}

macro_rules! integer {
    ($($t:ty),*) => {$(
        impl Flat for $t {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            fn take(from: &mut Reader<'_>) -> Result<Self, Malformed> {
                let mut raw = [0; size_of::<$t>()];
                raw.copy_from_slice(from.bytes(size_of::<$t>())?);
                Ok(<$t>::from_le_bytes(raw))
            }
        }
    )*};
}
integer!(u8, u16, u32, u64, i32);

impl Flat for bool {
    fn put(&self, out: &mut Vec<u8>) {
        u8::from(*self).put(out);
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        match u8::take(from)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed("a flag that is neither 0 nor 1")),
        }
    }
}

fn put_len(len: usize, out: &mut Vec<u8>) {
    u32::try_from(len).unwrap_or(u32::MAX).put(out);
}

impl Flat for String {
    fn put(&self, out: &mut Vec<u8>) {
        put_len(self.len(), out);
        out.extend_from_slice(self.as_bytes());
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let raw = Vec::<u8>::take(from)?;
        String::from_utf8(raw).map_err(|_| Malformed("text that is not UTF-8"))
    }
}

impl<T: Flat> Flat for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        put_len(self.len(), out);
        for item in self {
            item.put(out);
        }
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let count = usize::try_from(u32::take(from)?).unwrap_or(usize::MAX);
        if count > from.left() {
            return Err(Malformed("a count larger than the message"));
        }
        // Grows as items are really there: a count alone reserves nothing.
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(T::take(from)?);
        }
        Ok(items)
    }
}

impl<T: Flat> Flat for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(if bool::take(from)? { Some(T::take(from)?) } else { None })
    }
}

/// A count that was appended to a message: 0 takes no bytes, so that messages without it are as they were before there was one. Only the last field
/// of a message can be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Appended(pub u64);

impl Flat for Appended {
    fn put(&self, out: &mut Vec<u8>) {
        if self.0 != 0 {
            self.0.put(out);
        }
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        if from.is_empty() { Ok(Self(0)) } else { u64::take(from).map(Self) }
    }
}

/// Declares a struct of public fields with its flat encoding: the fields in order.
#[macro_export]
macro_rules! flat_struct {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$fmeta:meta])* pub $field:ident: $ty:ty,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, Default)]
        pub struct $name { $($(#[$fmeta])* pub $field: $ty,)* }

        impl $crate::wire::Flat for $name {
            fn put(&self, out: &mut Vec<u8>) {
                $($crate::wire::Flat::put(&self.$field, out);)*
            }
            fn take(from: &mut $crate::wire::Reader<'_>) -> Result<Self, $crate::wire::Malformed> {
                Ok(Self { $($field: $crate::wire::Flat::take(from)?,)* })
            }
        }
    };
}
