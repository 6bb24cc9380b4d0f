//! The bytes of a terminal, as they are. The client library looks for frames in what a terminal shows and takes control
//! characters for their beginning; here nothing is looked at.

use bollard::container::LogOutput;
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use std::io::{Error, ErrorKind};
use std::path::Path;
use tokio::io::{AsyncReadExt, ReadHalf};
use tokio::net::UnixStream;

use crate::exec::{Answer, Writer};

/// Size of a piece.
const PIECE: usize = 32 * 1024;

/// Starts a prepared command with a terminal and takes the connection over.
pub async fn start_terminal(socket: &Path, api: &str, exec: &str) -> Result<(Answer, Writer), Error> {
    begin(socket, &format!("/v{api}/exec/{exec}/start"), r#"{"Detach":false,"Tty":true}"#).await
}

/// Asks the engine for something that ends in a terminal, and takes the connection over.
pub async fn begin(socket: &Path, at: &str, body: &'static str) -> Result<(Answer, Writer), Error> {
    let stream = UnixStream::connect(socket).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(Error::other)?;
    tokio::spawn(connection.with_upgrades());
    let request = http::Request::post(at)
        .header(http::header::HOST, "docker")
        .header(http::header::CONTENT_TYPE, "application/json")
        .header(http::header::CONNECTION, "Upgrade")
        .header(http::header::UPGRADE, "tcp")
        .body(Full::new(Bytes::from_static(body.as_bytes())))
        .map_err(Error::other)?;
    let response = sender.send_request(request).await.map_err(Error::other)?;
    if response.status() != http::StatusCode::SWITCHING_PROTOCOLS {
        let text = format!("the engine answered {} instead of handing the terminal over", response.status());
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    let upgraded = hyper::upgrade::on(response).await.map_err(Error::other)?;
    let (read, write) = tokio::io::split(TokioIo::new(upgraded));
    Ok((pieces(read), Box::pin(write)))
}

fn pieces(from: ReadHalf<TokioIo<hyper::upgrade::Upgraded>>) -> Answer {
    let next = |mut from: ReadHalf<TokioIo<hyper::upgrade::Upgraded>>| async move {
        let mut piece = BytesMut::with_capacity(PIECE);
        match from.read_buf(&mut piece).await {
            Ok(0) => None,
            Ok(_) => Some((Ok(LogOutput::Console { message: piece.freeze() }), from)),
            // As with the kernel's terminals, an error is the end.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => None,
            Err(err) => Some((Err(bollard::errors::Error::IOError { err }), from)),
        }
    };
    Box::pin(stream::unfold(from, next))
}
