//! Streams of records over HTTP: which form was asked for, records of a request's body one after the other, records of an answer.

use axum::body::{Body, Bytes};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use plenum_api::agent::Call;
use plenum_api::codec::{self, Encoding};
use plenum_api::recordio::Decoder;

use super::text;

/// The media type of a stream of records.
const STREAM: &str = "application/recordio";
/// Says how the records of a request are encoded, or those of an answer.
const MESSAGE_TYPE: HeaderName = HeaderName::from_static("message-content-type");
/// Says which encoding of records is wanted.
const MESSAGE_ACCEPT: HeaderName = HeaderName::from_static("message-accept");
/// Largest record of a request (bytes). Clients send pieces of a few kilobytes.
const RECORD: usize = 4 << 20;

/// Whether a request's body is a stream of records.
pub(super) fn is_stream(headers: &HeaderMap) -> bool {
    let named = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    named.and_then(|text| text.split(';').next()).is_some_and(|name| name.trim().eq_ignore_ascii_case(STREAM))
}

/// How the records of such a body are encoded.
pub(super) fn message_encoding(headers: &HeaderMap) -> Result<Encoding, Response> {
    let Some(named) = headers.get(MESSAGE_TYPE) else {
        let words = "Expecting 'Message-Content-Type' to be set for streaming requests";
        return Err(text(StatusCode::BAD_REQUEST, words));
    };
    named.to_str().ok().and_then(Encoding::from_media_type).ok_or_else(|| {
        let words = "Expecting 'Message-Content-Type' of application/json or application/x-protobuf";
        text(StatusCode::UNSUPPORTED_MEDIA_TYPE, words)
    })
}

/// The form of an answer that is a stream of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Form {
    /// Of each record.
    pub encoding: Encoding,
    /// The answer is called a stream; otherwise it is called by its records, as the oldest clients know it.
    named: bool,
}

/// The form that a client asks for, by Mesos' order: JSON, then protobuf, then a stream of either.
pub(super) fn form(headers: &HeaderMap) -> Result<Form, Response> {
    let allows = |name: &HeaderName, media: &str| match headers.get(name) {
        None => true,
        Some(value) => {
            let mut wanted = value.to_str().unwrap_or_default().split(',');
            wanted.any(|one| {
                let one = one.split(';').next().unwrap_or_default().trim();
                one == "*/*" || one == "application/*" || one.eq_ignore_ascii_case(media)
            })
        }
    };
    let both = [Encoding::Json, Encoding::Protobuf];
    let pick = |name: &HeaderName| both.into_iter().find(|encoding| allows(name, encoding.media_type()));
    if let Some(encoding) = pick(&header::ACCEPT) {
        if headers.contains_key(&MESSAGE_ACCEPT) {
            let words = "Expecting 'Message-Accept' to be not set for non-streaming responses";
            return Err(text(StatusCode::NOT_ACCEPTABLE, words));
        }
        return Ok(Form { encoding, named: false });
    }
    if !allows(&header::ACCEPT, STREAM) {
        let words =
            "Expecting 'Accept' to allow application/json or application/x-protobuf or application/recordio";
        return Err(text(StatusCode::NOT_ACCEPTABLE, words));
    }
    let encoding = pick(&MESSAGE_ACCEPT).ok_or_else(|| {
        let words = "Expecting 'Message-Accept' to allow application/json or application/x-protobuf";
        text(StatusCode::NOT_ACCEPTABLE, words)
    })?;
    Ok(Form { encoding, named: true })
}

impl Form {
    /// An answer whose body is these records.
    pub fn answer(
        self,
        records: impl Stream<Item = Result<Bytes, std::convert::Infallible>> + Send + 'static,
    ) -> Response {
        let media = self.encoding.media_type();
        let mut response = Body::from_stream(records).into_response();
        let headers = response.headers_mut();
        headers
            .insert(header::CONTENT_TYPE, HeaderValue::from_static(if self.named { STREAM } else { media }));
        if self.named {
            headers.insert(MESSAGE_TYPE, HeaderValue::from_static(media));
        }
        response
    }
}

/// The calls that arrive in a request's body, one record each. What has not been asked for stays with the sender.
pub(super) struct Calls {
    body: axum::body::BodyDataStream,
    decoder: Decoder,
    encoding: Encoding,
}

impl Calls {
    pub fn new(body: Body, encoding: Encoding) -> Self {
        Self { body: body.into_data_stream(), decoder: Decoder::new(RECORD), encoding }
    }

    /// The next one; `None` at the end of the body. An error is a sentence.
    pub async fn next(&mut self) -> Result<Option<Call>, String> {
        loop {
            if let Some(record) = self.decoder.next_record().map_err(|error| error.to_string())? {
                let call = codec::decode_limited(self.encoding, &record, RECORD);
                return call.map(Some).map_err(|error| format!("Failed to parse the call: {error}"));
            }
            match self.body.next().await {
                Some(Ok(piece)) => self.decoder.feed(&piece),
                Some(Err(error)) => return Err(format!("The body broke off: {error}")),
                None => return self.decoder.finish().map(|()| None).map_err(|error| error.to_string()),
            }
        }
    }

    /// Reads on and throws away, until the end of the body.
    pub async fn discard(&mut self) {
        while let Some(Ok(_)) = self.body.next().await {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn the_form_of_an_answer_is_chosen_as_in_mesos() {
        let json = Encoding::Json;
        let (accept, inner) = ("accept", "message-accept");
        for (given, want) in [
            (vec![], Ok((json, false))),
            (vec![(accept, "*/*")], Ok((json, false))),
            (vec![(accept, "application/x-protobuf")], Ok((Encoding::Protobuf, false))),
            (vec![(accept, "application/recordio")], Ok((json, true))),
            (vec![(accept, "application/recordio"), (inner, "application/json")], Ok((json, true))),
            (
                vec![(accept, "application/recordio"), (inner, "application/x-protobuf")],
                Ok((Encoding::Protobuf, true)),
            ),
            (vec![(accept, "application/recordio"), (inner, "text/html")], Err(406)),
            (vec![(accept, "application/json"), (inner, "application/json")], Err(406)),
            (vec![(accept, "text/html")], Err(406)),
        ] {
            let found = form(&headers(&given));
            let found = found.map(|form| (form.encoding, form.named)).map_err(|no| no.status().as_u16());
            assert_eq!(found, want, "{given:?}");
        }
    }

    #[test]
    fn a_stream_says_what_its_records_are() {
        assert!(is_stream(&headers(&[("content-type", "application/recordio")])));
        assert!(!is_stream(&headers(&[("content-type", "application/json")])));
        for (given, want) in [
            (vec![], Err(400)),
            (vec![("message-content-type", "application/json")], Ok(Encoding::Json)),
            (vec![("message-content-type", "text/plain")], Err(415)),
        ] {
            assert_eq!(message_encoding(&headers(&given)).map_err(|no| no.status().as_u16()), want);
        }
    }

    #[tokio::test]
    async fn calls_are_read_one_by_one_and_rubbish_is_an_error() {
        let calls = |text: &'static str| Calls::new(Body::from(text), Encoding::Json);
        let mut good = calls("21\n{\"type\":\"GET_HEALTH\"}20\n{\"type\":\"GET_FLAGS\"}");
        assert!(good.next().await.unwrap().is_some());
        assert!(good.next().await.unwrap().is_some());
        assert!(good.next().await.unwrap().is_none());
        for bad in ["x\n{}", "99999999999\n", "1\n7", "30\n{\"type\":\"GET", "7\n{\"type\""] {
            assert!(calls(bad).next().await.is_err(), "{bad}");
        }
    }
}
