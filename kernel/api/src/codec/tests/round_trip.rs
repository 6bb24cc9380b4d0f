//! Every message, both encodings: what goes out comes back, what is missing is named, what is broken is refused.

use proptest::prelude::*;

use super::generate::{Random, message};
use crate::codec::{DecodeError, Encoding, Message, decode, decode_protobuf, encode, encode_protobuf_into};
use crate::internal::{AgentFrame, MasterFrame};
use crate::schema::{Described, Label, MESSAGES};
use crate::{agent, executor, master, mesos, scheduler};

const SEEDS: u64 = 8;

fn check<T: Message + PartialEq + std::fmt::Debug>() {
    let schema = T::schema();
    for seed in 0..SEEDS {
        let bytes = message(schema, &mut Random::new(seed), 4, None);
        let first: T = decode(Encoding::Protobuf, &bytes).unwrap_or_else(|e| panic!("{}: {e}", schema.name));
        for encoding in [Encoding::Protobuf, Encoding::Json] {
            let out = encode(encoding, &first);
            let again: T = decode(encoding, &out).unwrap_or_else(|e| {
                panic!("{} seed {seed} {encoding:?}: {e}: {}", schema.name, String::from_utf8_lossy(&out))
            });
            assert!(again == first, "{} seed {seed} {encoding:?}\n{first:?}\n{again:?}", schema.name);
        }
        refuses_missing::<T>(&first, seed);
    }
}

fn refuses_missing<T: Message>(valid: &T, seed: u64) {
    let schema = T::schema();
    let json = serde_json::to_value(valid).expect("a message is JSON");
    for field in schema.fields.iter().filter(|f| f.label == Label::Required) {
        let missing = Some(DecodeError::Missing { path: field.name.to_string() });
        let bytes = message(schema, &mut Random::new(seed), 2, Some(field.number));
        assert_eq!(decode::<T>(Encoding::Protobuf, &bytes).err(), missing, "{}", schema.name);
        for null in [true, false] {
            let mut without = json.clone();
            let object = without.as_object_mut().expect("a message is an object");
            if null {
                object.insert(field.name.to_string(), serde_json::Value::Null);
            } else {
                object.remove(field.name);
            }
            let text = without.to_string();
            assert_eq!(decode::<T>(Encoding::Json, text.as_bytes()).err(), missing, "{}", schema.name);
        }
    }
}

#[test]
fn every_message_survives_both_encodings() {
    let mut count = 0;
    macro_rules! one {
        ($t:ty) => {
            check::<$t>();
            count += 1;
        };
    }
    crate::schema::every_json_message!(one);
    assert!(count > 340, "only {count} messages were looked at");
}

#[test]
fn frames_of_the_private_protocol_survive() {
    fn check<T: prost::Message + Default + Described + PartialEq + std::fmt::Debug>() {
        for seed in 0..200 {
            let bytes = message(T::schema(), &mut Random::new(seed), 5, None);
            let first: T = decode_protobuf(&bytes).expect("generated messages are valid");
            let mut out = Vec::new();
            encode_protobuf_into(&first, &mut out);
            assert_eq!(decode_protobuf::<T>(&out).as_ref(), Ok(&first));
        }
    }
    check::<AgentFrame>();
    check::<MasterFrame>();
}

#[test]
fn tables_fit_the_scanner() {
    for message in &MESSAGES {
        assert!(message.fields.len() < 128, "{} has too many fields for the bit set", message.name);
        assert!(message.fields.windows(2).all(|w| w[0].number < w[1].number), "{}", message.name);
        for (at, field) in message.fields.iter().enumerate() {
            assert_eq!(message.position(field.number), Some(at));
        }
    }
}

/// Decodes into all the messages that come from outside; only a panic is a failure here.
fn feed(bytes: &[u8]) -> usize {
    let mut accepted = 0;
    for encoding in [Encoding::Json, Encoding::Protobuf] {
        accepted += usize::from(decode::<scheduler::Call>(encoding, bytes).is_ok());
        accepted += usize::from(decode::<scheduler::Event>(encoding, bytes).is_ok());
        accepted += usize::from(decode::<executor::Call>(encoding, bytes).is_ok());
        accepted += usize::from(decode::<master::Call>(encoding, bytes).is_ok());
        accepted += usize::from(decode::<agent::Call>(encoding, bytes).is_ok());
        accepted += usize::from(decode::<mesos::TaskInfo>(encoding, bytes).is_ok());
    }
    accepted += usize::from(decode_protobuf::<AgentFrame>(bytes).is_ok());
    accepted + usize::from(decode_protobuf::<MasterFrame>(bytes).is_ok())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let decoders = 14;
        prop_assert!(feed(&bytes) <= decoders);
    }

    #[test]
    fn broken_protobuf_never_panics(seed: u64, at: prop::sample::Index, with: u8, cut: prop::sample::Index) {
        let mut bytes = message(scheduler::Call::schema(), &mut Random::new(seed), 5, None);
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] = with;
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        feed(&bytes);
        // The scanner and prost agree on what is well formed: prost accepts all that decodes at all.
        if decode::<scheduler::Call>(Encoding::Protobuf, &bytes).is_ok() {
            let accepted = <scheduler::Call as prost::Message>::decode(bytes.as_slice()).is_ok();
            prop_assert!(accepted);
        }
    }

    #[test]
    fn broken_json_never_panics(seed: u64, at: prop::sample::Index, with: u8) {
        let bytes = message(master::Call::schema(), &mut Random::new(seed), 5, None);
        let call: master::Call = decode(Encoding::Protobuf, &bytes).expect("generated messages are valid");
        let mut json = encode(Encoding::Json, &call).to_vec();
        let at = at.index(json.len());
        json[at] = with;
        feed(&json);
        if let Err(error) = decode::<master::Call>(Encoding::Json, &json) {
            prop_assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn generated_calls_survive(seed: u64) {
        let bytes = message(scheduler::Call::schema(), &mut Random::new(seed), 7, None);
        let call: scheduler::Call = decode(Encoding::Protobuf, &bytes).expect("generated messages are valid");
        for encoding in [Encoding::Json, Encoding::Protobuf] {
            prop_assert_eq!(&decode::<scheduler::Call>(encoding, &encode(encoding, &call)).expect("own output"), &call);
        }
    }
}

#[test]
fn deep_nesting_is_refused_in_both_encodings() {
    let mut json = String::from(r#"{"value":"x"}"#);
    let mut wire: Vec<u8> = vec![10, 1, b'x'];
    for _ in 0..300 {
        json = format!(r#"{{"value":"x","parent":{json}}}"#);
        let mut outer = vec![10, 1, b'x', 18];
        prost::encoding::encode_varint(wire.len() as u64, &mut outer);
        outer.extend_from_slice(&wire);
        wire = outer;
    }
    for (encoding, bytes) in [(Encoding::Json, json.as_bytes()), (Encoding::Protobuf, wire.as_slice())] {
        let result = decode::<mesos::ContainerId>(encoding, bytes);
        assert!(matches!(result, Err(DecodeError::Malformed { .. })), "{encoding:?}: {result:?}");
    }
}
