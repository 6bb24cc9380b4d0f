//! Helpers behind the serde attributes of the generated types: Mesos' reading of numbers, enums and bytes.

use std::fmt;
use std::marker::PhantomData;

use ::bytes::Bytes;
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::de::{Error, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serializer};

/// A protobuf enum that JSON shows by name.
pub trait WireEnum: Copy + Sized + Into<i32> {
    /// Name in protobuf and JSON.
    fn wire_name(self) -> &'static str;
    /// The value with this name.
    fn from_wire_name(name: &str) -> Option<Self>;
    /// The value with this number.
    fn from_wire_number(number: i32) -> Option<Self>;
}

macro_rules! wire_enum {
    ($name:path) => {
        impl crate::json::WireEnum for $name {
            fn wire_name(self) -> &'static str {
                self.as_str_name()
            }
            fn from_wire_name(name: &str) -> Option<Self> {
                <$name>::from_str_name(name)
            }
            fn from_wire_number(number: i32) -> Option<Self> {
                <$name>::try_from(number).ok()
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str_name())
            }
        }
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(self.as_str_name())
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                crate::json::enum_value(d)
            }
        }
    };
}
pub(crate) use wire_enum;

// ---- enums

struct EnumVisitor<E>(PhantomData<E>);

impl<E: WireEnum> Visitor<'_> for EnumVisitor<E> {
    type Value = Option<E>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of an enum value")
    }
    fn visit_str<X: Error>(self, name: &str) -> Result<Self::Value, X> {
        Ok(E::from_wire_name(name))
    }
    fn visit_u64<X: Error>(self, number: u64) -> Result<Self::Value, X> {
        Ok(i32::try_from(number).ok().and_then(E::from_wire_number))
    }
    fn visit_i64<X: Error>(self, number: i64) -> Result<Self::Value, X> {
        Ok(i32::try_from(number).ok().and_then(E::from_wire_number))
    }
    fn visit_unit<X: Error>(self) -> Result<Self::Value, X> {
        Ok(None)
    }
}

/// An enum value that is not known reads as `None`.
struct MaybeEnum<E>(Option<E>);

impl<'de, E: WireEnum> Deserialize<'de> for MaybeEnum<E> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(EnumVisitor(PhantomData)).map(MaybeEnum)
    }
}

pub(crate) fn enum_value<'de, E: WireEnum, D: Deserializer<'de>>(d: D) -> Result<E, D::Error> {
    MaybeEnum::deserialize(d)?.0.ok_or_else(|| D::Error::custom("unknown enum value"))
}

pub(crate) fn enum_in<'de, E: WireEnum, D: Deserializer<'de>>(d: D) -> Result<i32, D::Error> {
    enum_value::<E, D>(d).map(Into::into)
}

pub(crate) fn opt_enum_in<'de, E: WireEnum, D: Deserializer<'de>>(d: D) -> Result<Option<i32>, D::Error> {
    Ok(MaybeEnum::<E>::deserialize(d)?.0.map(Into::into))
}

pub(crate) fn enum_list_in<'de, E: WireEnum, D: Deserializer<'de>>(d: D) -> Result<Vec<i32>, D::Error> {
    let list: Option<Vec<MaybeEnum<E>>> = Option::deserialize(d)?;
    Ok(list.unwrap_or_default().into_iter().filter_map(|e| e.0.map(Into::into)).collect())
}

pub(crate) fn enum_out<E: WireEnum, S: Serializer>(value: &i32, s: S) -> Result<S::Ok, S::Error> {
    match E::from_wire_number(*value) {
        Some(e) => s.serialize_str(e.wire_name()),
        None => s.serialize_i32(*value),
    }
}

pub(crate) fn opt_enum_out<E: WireEnum, S: Serializer>(value: &Option<i32>, s: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => enum_out::<E, S>(value, s),
        None => s.serialize_none(),
    }
}

/// True when there is nothing to show: unset, or a number this version has no name for.
pub(crate) fn no_enum<E: WireEnum>(value: &Option<i32>) -> bool {
    value.and_then(E::from_wire_number).is_none()
}

pub(crate) fn enum_list_out<E: WireEnum, S: Serializer>(list: &[i32], s: S) -> Result<S::Ok, S::Error> {
    s.collect_seq(list.iter().filter_map(|v| E::from_wire_number(*v)).map(WireEnum::wire_name))
}

// ---- numbers

/// An integer type of protobuf.
pub(crate) trait Int: Sized {
    fn from_wide(value: i128) -> Option<Self>;
}

macro_rules! int_types {
    ($($t:ty),*) => { $( impl Int for $t {
        fn from_wide(value: i128) -> Option<Self> { <$t>::try_from(value).ok() }
    } )* };
}
int_types!(i32, i64, u32, u64);

struct IntVisitor<T>(PhantomData<T>);

impl<T: Int> IntVisitor<T> {
    fn fit<X: Error>(value: i128, seen: Unexpected<'_>) -> Result<T, X> {
        T::from_wide(value).ok_or_else(|| X::invalid_value(seen, &"an integer in the range of the field"))
    }
}

impl<T: Int> Visitor<'_> for IntVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an integer, or an integer in a string")
    }
    fn visit_u64<X: Error>(self, v: u64) -> Result<T, X> {
        Self::fit(i128::from(v), Unexpected::Unsigned(v))
    }
    fn visit_i64<X: Error>(self, v: i64) -> Result<T, X> {
        Self::fit(i128::from(v), Unexpected::Signed(v))
    }
    fn visit_f64<X: Error>(self, v: f64) -> Result<T, X> {
        if v.fract() != 0.0 || !v.is_finite() {
            return Err(X::invalid_type(Unexpected::Float(v), &self));
        }
        // The cast saturates, and what saturates is out of every range.
        Self::fit(v as i128, Unexpected::Float(v))
    }
    fn visit_str<X: Error>(self, v: &str) -> Result<T, X> {
        let wide = v.parse::<i128>().map_err(|_| X::invalid_value(Unexpected::Str(v), &self))?;
        Self::fit(wide, Unexpected::Str(v))
    }
}

struct IntIn<T>(T);

impl<'de, T: Int> Deserialize<'de> for IntIn<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(IntVisitor(PhantomData)).map(IntIn)
    }
}

pub(crate) fn int<'de, T: Int, D: Deserializer<'de>>(d: D) -> Result<T, D::Error> {
    IntIn::deserialize(d).map(|v| v.0)
}

pub(crate) fn opt_int<'de, T: Int, D: Deserializer<'de>>(d: D) -> Result<Option<T>, D::Error> {
    Ok(Option::<IntIn<T>>::deserialize(d)?.map(|v| v.0))
}

pub(crate) fn int_list<'de, T: Int, D: Deserializer<'de>>(d: D) -> Result<Vec<T>, D::Error> {
    let list: Option<Vec<IntIn<T>>> = Option::deserialize(d)?;
    Ok(list.unwrap_or_default().into_iter().map(|v| v.0).collect())
}

struct FloatIn(f64);

impl<'de> Deserialize<'de> for FloatIn {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl Visitor<'_> for V {
            type Value = f64;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, or a number in a string")
            }
            fn visit_f64<X: Error>(self, v: f64) -> Result<f64, X> {
                Ok(v)
            }
            fn visit_u64<X: Error>(self, v: u64) -> Result<f64, X> {
                Ok(v as f64)
            }
            fn visit_i64<X: Error>(self, v: i64) -> Result<f64, X> {
                Ok(v as f64)
            }
            fn visit_str<X: Error>(self, v: &str) -> Result<f64, X> {
                let parsed = v.parse::<f64>().ok().filter(|n| n.is_finite());
                parsed.ok_or_else(|| X::invalid_value(Unexpected::Str(v), &self))
            }
        }
        d.deserialize_any(V).map(FloatIn)
    }
}

pub(crate) fn float<'de, D: Deserializer<'de>>(d: D) -> Result<f64, D::Error> {
    FloatIn::deserialize(d).map(|v| v.0)
}

pub(crate) fn opt_float<'de, D: Deserializer<'de>>(d: D) -> Result<Option<f64>, D::Error> {
    Ok(Option::<FloatIn>::deserialize(d)?.map(|v| v.0))
}

/// `null` where a list or map belongs is an empty one.
pub(crate) fn null_is_empty<'de, T, D>(d: D) -> Result<T, D::Error>
where
    T: Default + Deserialize<'de>,
    D: Deserializer<'de>,
{
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

// ---- bytes

const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

struct BytesIn(Bytes);

impl<'de> Deserialize<'de> for BytesIn {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Bytes;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes in base64")
            }
            fn visit_str<X: Error>(self, v: &str) -> Result<Bytes, X> {
                let engine = if v.contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
                engine.decode(v).map(Bytes::from).map_err(|_| X::custom("bytes are not valid base64"))
            }
            fn visit_bytes<X: Error>(self, v: &[u8]) -> Result<Bytes, X> {
                Ok(Bytes::copy_from_slice(v))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Bytes, A::Error> {
                Err(A::Error::invalid_type(Unexpected::Seq, &self))
            }
        }
        d.deserialize_str(V).map(BytesIn)
    }
}

pub(crate) mod bytes {
    //! Required bytes.
    use super::*;

    pub(crate) fn serialize<S: Serializer>(value: &Bytes, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&STANDARD.encode(value))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Bytes, D::Error> {
        BytesIn::deserialize(d).map(|b| b.0)
    }
}

pub(crate) mod opt_bytes {
    //! Optional bytes.
    use super::*;

    pub(crate) fn serialize<S: Serializer>(value: &Option<Bytes>, s: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => super::bytes::serialize(value, s),
            None => s.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Bytes>, D::Error> {
        Ok(Option::<BytesIn>::deserialize(d)?.map(|b| b.0))
    }
}

/// True when the text would be accepted as bytes.
pub(crate) fn is_base64(text: &str) -> bool {
    let engine = if text.contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
    engine.decode(text).is_ok()
}
