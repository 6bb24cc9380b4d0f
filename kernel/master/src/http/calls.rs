//! Reading calls and choosing encodings: Content-Type, Accept, Message-Accept.

use http::{HeaderMap, Method, StatusCode, header};
use plenum_api::codec::{self, Encoding};

use super::{Asked, Refusal, plain};

/// How an answer is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The encoding of messages.
    pub encoding: Encoding,
    /// Whether a stream was asked for as `application/recordio`, so that the answer says so.
    pub recordio: bool,
}

impl Wanted {
    /// The content type of a stream, and of its messages if that needs saying.
    pub fn stream_types(self) -> (&'static str, Option<&'static str>) {
        if self.recordio {
            ("application/recordio", Some(self.encoding.media_type()))
        } else {
            (self.encoding.media_type(), None)
        }
    }
}

fn refusal(status: StatusCode, text: impl Into<String>) -> Refusal {
    Box::new(plain(status, text))
}

/// Reads the body of a POST as a call.
pub(crate) fn read<T: codec::Message>(asked: &Asked) -> Result<T, Refusal> {
    if asked.method != Method::POST {
        let mut response = plain(
            StatusCode::METHOD_NOT_ALLOWED,
            format!("Expecting one of {{ 'POST' }}, but received '{}'", asked.method),
        );
        response.headers_mut().insert(header::ALLOW, http::HeaderValue::from_static("POST"));
        return Err(Box::new(response));
    }
    let Some(content_type) = asked.header("content-type") else {
        return Err(refusal(StatusCode::BAD_REQUEST, "Expecting 'Content-Type' to be present"));
    };
    let Some(encoding) = Encoding::from_media_type(content_type) else {
        return Err(refusal(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "Expecting 'Content-Type' of application/json or application/x-protobuf",
        ));
    };
    codec::decode(encoding, &asked.body)
        .map_err(|e| refusal(StatusCode::BAD_REQUEST, format!("Failed to parse body into Call: {e}")))
}

/// What the Accept headers allow; JSON when several things are fine.
pub(crate) fn wanted(headers: &HeaderMap) -> Result<Wanted, Refusal> {
    if accepts(headers, "accept", "application/json") {
        return Ok(Wanted { encoding: Encoding::Json, recordio: false });
    }
    if accepts(headers, "accept", "application/x-protobuf") {
        return Ok(Wanted { encoding: Encoding::Protobuf, recordio: false });
    }
    if accepts(headers, "accept", "application/recordio") {
        if accepts(headers, "message-accept", "application/json") {
            return Ok(Wanted { encoding: Encoding::Json, recordio: true });
        }
        if accepts(headers, "message-accept", "application/x-protobuf") {
            return Ok(Wanted { encoding: Encoding::Protobuf, recordio: true });
        }
    }
    Err(refusal(
        StatusCode::NOT_ACCEPTABLE,
        "Expecting 'Accept' to allow application/json or application/x-protobuf",
    ))
}

/// Whether a header allows a media type; one that is absent allows everything.
fn accepts(headers: &HeaderMap, name: &str, media: &str) -> bool {
    let mut present = false;
    for value in headers.get_all(name) {
        present = true;
        for part in value.to_str().unwrap_or_default().split(',') {
            let mut fields = part.split(';').map(str::trim);
            let range = fields.next().unwrap_or_default();
            let refused = fields.any(|field| {
                matches!(field.replace(' ', "").as_str(), "q=0" | "q=0.0" | "q=0.00" | "q=0.000")
            });
            if !refused && (range == "*/*" || range == "application/*" || range.eq_ignore_ascii_case(media)) {
                return true;
            }
        }
    }
    !present
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_headers_choose_encodings() {
        let json = Some((Encoding::Json, false));
        let protobuf = Some((Encoding::Protobuf, false));
        for (accept, message, expected) in [
            (None, None, json),
            (Some("*/*"), None, json),
            (Some("application/json, application/x-protobuf"), None, json),
            (Some("application/x-protobuf"), None, protobuf),
            (Some("application/json;q=0, application/x-protobuf"), None, protobuf),
            (Some("application/recordio"), None, Some((Encoding::Json, true))),
            (Some("application/recordio"), Some("application/x-protobuf"), Some((Encoding::Protobuf, true))),
            (Some("application/recordio"), Some("text/plain"), None),
            (Some("text/html"), None, None),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(accept) = accept {
                headers.insert("accept", accept.parse().expect("a header"));
            }
            if let Some(message) = message {
                headers.insert("message-accept", message.parse().expect("a header"));
            }
            let got = wanted(&headers).ok().map(|w| (w.encoding, w.recordio));
            assert_eq!(got, expected, "{accept:?} {message:?}");
        }
    }
}
