//! `Value.Scalar`, the one message written by hand.
//!
//! Prost leaves a map value out of the encoding when it equals the default, and a peer then misses the required
//! field inside it: a quota limit of zero would arrive as an invalid message. So the default here is negative zero,
//! and equality looks at the bits: no scalar that anybody sets equals it, and all are written.

use prost::DecodeError;
use prost::bytes::{Buf, BufMut};
use prost::encoding::{DecodeContext, WireType, double, skip_field};

/// A scalar value. See [`crate::resources::Amount`] for arithmetic.
#[derive(Clone, Copy, serde::Serialize, serde::Deserialize)]
pub struct Scalar {
    /// The number; three decimals count.
    #[serde(deserialize_with = "crate::json::float")]
    pub value: f64,
}

impl Default for Scalar {
    fn default() -> Self {
        Self { value: -0.0 }
    }
}

impl PartialEq for Scalar {
    fn eq(&self, other: &Self) -> bool {
        self.value.to_bits() == other.value.to_bits()
    }
}

impl Eq for Scalar {}

impl std::fmt::Debug for Scalar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scalar").field("value", &self.value).finish()
    }
}

impl From<f64> for Scalar {
    fn from(value: f64) -> Self {
        Self { value }
    }
}

impl prost::Message for Scalar {
    fn encode_raw(&self, out: &mut impl BufMut) {
        double::encode(1, &self.value, out);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            1 => double::merge(wire_type, &mut self.value, buf, ctx),
            _ => skip_field(wire_type, tag, buf, ctx),
        }
    }

    fn encoded_len(&self) -> usize {
        double::encoded_len(1, &self.value)
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}
