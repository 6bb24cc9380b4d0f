//! `/files/*`: browse, read, download, debug.

use axum::body::{Body, Bytes};
use axum::response::{IntoResponse, Response};
use http::{StatusCode, Uri, header};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use super::{Http, query, text};
use crate::files::{Entry, FilesError, mode_letters};

/// Bytes of one piece of a download.
const PIECE: usize = 64 * 1024;

pub(super) fn refuse(error: &FilesError) -> Response {
    let status = match error {
        FilesError::NotFound | FilesError::NotDirectory => StatusCode::NOT_FOUND,
        FilesError::Directory | FilesError::NotRegular => StatusCode::BAD_REQUEST,
        FilesError::Io(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    text(status, &format!("{error}\n"))
}

/// Runs file work where it may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FilesError> + Send + 'static,
) -> Result<T, Response> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(refuse(&error)),
        Err(_) => Err(text(StatusCode::INTERNAL_SERVER_ERROR, "Reading failed.")),
    }
}

fn path(uri: &Uri) -> Result<String, Response> {
    query(uri)
        .remove("path")
        .filter(|path| !path.is_empty())
        .ok_or_else(|| text(StatusCode::BAD_REQUEST, "Expecting 'path=value' in query.\n"))
}

pub(super) async fn browse(http: &Http, uri: &Uri) -> Response {
    let answer = async {
        let path = path(uri)?;
        let files = http.files.clone();
        let entries = blocking(move || files.browse(&path)).await?;
        Ok(super::json(&Value::Array(entries.iter().map(entry).collect())))
    };
    answer.await.unwrap_or_else(|refusal| refusal)
}

fn entry(entry: &Entry) -> Value {
    json!({
        "path": entry.path,
        "nlink": entry.nlink,
        "size": entry.size,
        "mtime": entry.mtime,
        "mode": mode_letters(entry.mode),
        "uid": entry.uid,
        "gid": entry.gid,
    })
}

pub(super) async fn read(http: &Http, uri: &Uri) -> Response {
    let answer = async {
        let path = path(uri)?;
        let parameters = query(uri);
        let number = |name: &str| -> Result<Option<i64>, Response> {
            let Some(value) = parameters.get(name).filter(|value| !value.is_empty()) else { return Ok(None) };
            let bad = || text(StatusCode::BAD_REQUEST, &format!("Failed to parse {name}: not a number.\n"));
            let number: i64 = value.parse().map_err(|_| bad())?;
            if number < -1 {
                return Err(text(StatusCode::BAD_REQUEST, &format!("Negative {name} provided: {number}.\n")));
            }
            Ok(Some(number))
        };
        let offset = number("offset")?.unwrap_or(-1);
        let length = number("length")?.and_then(|length| u64::try_from(length).ok());
        let files = http.files.clone();
        // Without an offset, or with -1, the answer is where the file ends.
        let from = u64::try_from(offset).unwrap_or(u64::MAX);
        let (size, data) = blocking(move || files.read(&path, from, length)).await?;
        let shown = if offset < 0 { json!(size) } else { json!(offset) };
        let more = from.saturating_add(data.len() as u64) < size;
        Ok(super::json(&json!({ "offset": shown, "data": readable(&data, more) })))
    };
    answer.await.unwrap_or_else(|refusal| refusal)
}

/// Bytes as text. A character that is cut off at the end is left for the next read.
fn readable(data: &[u8], more: bool) -> String {
    let mut whole = data;
    if more
        && let Err(error) = std::str::from_utf8(data)
        && error.error_len().is_none()
        && error.valid_up_to() > 0
    {
        whole = &data[..error.valid_up_to()];
    }
    String::from_utf8_lossy(whole).into_owned()
}

pub(super) async fn download(http: &Http, uri: &Uri) -> Response {
    let answer = async {
        let path = path(uri)?;
        let files = http.files.clone();
        let name = path.rsplit('/').next().unwrap_or("file").to_owned();
        let (file, size) = blocking(move || files.open(&path)).await?;
        // What is appended meanwhile is not sent: the length was promised.
        let file = tokio::fs::File::from_std(file).take(size);
        let pieces = futures_util::stream::unfold(file, |mut file| async move {
            let mut piece = vec![0; PIECE];
            match file.read(&mut piece).await {
                Ok(0) => None,
                Ok(read) => {
                    piece.truncate(read);
                    Some((Ok(Bytes::from(piece)), file))
                }
                Err(error) => Some((Err(error), file)),
            }
        });
        let safe: String = name
            .chars()
            .map(|c| if c.is_ascii_graphic() && c != '"' && c != '\\' { c } else { '_' })
            .collect();
        let headers = [
            (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
            (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{safe}\"")),
            (header::CONTENT_LENGTH, size.to_string()),
        ];
        Ok((headers, Body::from_stream(pieces)).into_response())
    };
    answer.await.unwrap_or_else(|refusal: Response| refusal)
}

/// Virtual path to real path, of everything that can be read.
pub(super) async fn debug(http: &Http) -> Response {
    let (view, _) = match http.view().await {
        Ok(view) => view,
        Err(refusal) => return refusal,
    };
    let mut paths = serde_json::Map::new();
    for (name, real) in http.files.named() {
        paths.insert(name.clone(), json!(real.display().to_string()));
    }
    let executors = view.frameworks.into_iter().flat_map(|framework| framework.executors);
    for directory in executors.map(|executor| executor.directory).filter(|path| !path.is_empty()) {
        paths.insert(directory.clone(), json!(directory));
    }
    super::json(&Value::Object(paths))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_not_cut_while_more_follows() {
        let text = "aä".as_bytes();
        assert_eq!(readable(&text[..2], true), "a");
        assert_eq!(readable(&text[..2], false), "a\u{fffd}");
        assert_eq!(readable(text, true), "aä");
        assert_eq!(readable(&text[1..2], true), "\u{fffd}", "progress is made in any case");
        assert_eq!(readable(b"\xff\xfe", true), "\u{fffd}\u{fffd}");
    }
}
