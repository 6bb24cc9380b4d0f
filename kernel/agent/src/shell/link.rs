//! The connection to the leading master: frames both ways until one side ends it. Which master that is, is `doors`.

use std::time::Duration;

use plenum_api::codec;
use plenum_api::internal::{AgentFrame, AgentMessage, MasterFrame, agent_message};
use plenum_base::frames::{FrameReader, FrameWriter, MAX_FRAME};
use plenum_base::service::Shutdown;
use plenum_base::tls::Identity;
use tokio::sync::mpsc;

use super::Input;
use super::doors::{Doors, Finder, Heard, Stream};
use crate::core::Event;

/// For one frame to be taken by the kernel.
const WRITE: Duration = Duration::from_secs(30);
/// Messages in one frame at most, so that a frame stays far below its limit.
const BATCH: usize = 256;
/// Bytes in one frame, about.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// What the actor tells the link.
#[derive(Debug)]
pub(crate) enum ToLink {
    Say { conn: u64, message: Box<agent_message::Kind> },
    HangUp { conn: u64 },
}

/// Dials until the end.
pub(crate) async fn keep(
    doors: Doors,
    identity: Identity,
    inbox: mpsc::Sender<Input>,
    mut outbox: mpsc::UnboundedReceiver<ToLink>,
    shutdown: Shutdown,
) {
    let mut finder = match Finder::new(doors, &identity) {
        Ok(finder) => finder,
        Err(error) => return tracing::error!(%error, "masters cannot be called"),
    };
    let mut conn = 0_u64;
    while !shutdown.is_triggered() {
        match shutdown.until(finder.dial()).await {
            None => return,
            Some(Err(error)) => tracing::debug!(%error, "cannot reach the master"),
            Some(Ok((stream, master))) => {
                conn += 1;
                let began = tokio::time::Instant::now();
                let heard = Heard::new();
                let talk = async {
                    tokio::select! {
                        why = talk(stream, conn, &inbox, &mut outbox, &heard) => why,
                        () = finder.moved(&heard) => "another master leads".to_owned(),
                    }
                };
                let why = shutdown.until(talk).await;
                let _ = inbox.send(Input::Event(Event::Disconnected { conn })).await;
                let Some(why) = why else { return };
                tracing::info!(%master, why, "connection to the master ended");
                finder.lost(began.elapsed());
            }
        }
        if !shutdown.sleep(finder.pause()).await {
            return;
        }
        // What was said meanwhile was for a connection that is gone.
        while outbox.try_recv().is_ok() {}
    }
}

/// Carries frames both ways until one side ends it; says why.
async fn talk(
    stream: Stream,
    conn: u64,
    inbox: &mpsc::Sender<Input>,
    outbox: &mut mpsc::UnboundedReceiver<ToLink>,
    heard: &Heard,
) -> String {
    while outbox.try_recv().is_ok() {}
    let (reader, writer) = tokio::io::split(stream);
    let mut reader = FrameReader::new(reader, MAX_FRAME);
    let mut writer = FrameWriter::new(writer, MAX_FRAME);
    if inbox.send(Input::Event(Event::Connected { conn })).await.is_err() {
        return "the agent ends".to_owned();
    }
    let listen = async {
        loop {
            let next = reader.next().await;
            heard.now();
            match next {
                Ok(Some(bytes)) => match codec::decode_protobuf::<MasterFrame>(&bytes) {
                    Ok(frame) => {
                        if inbox.send(Input::Event(Event::Master { conn, frame })).await.is_err() {
                            return "the agent ends".to_owned();
                        }
                    }
                    Err(error) => return format!("the master sent what is no frame: {error}"),
                },
                Ok(None) => return "the master closed it".to_owned(),
                Err(error) => return error.to_string(),
            }
        }
    };
    let speak = async {
        loop {
            let Some((frame, last)) = gather(outbox, conn).await else {
                return "the agent ends".to_owned();
            };
            if !frame.messages.is_empty() {
                let mut bytes = Vec::new();
                codec::encode_protobuf_into(&frame, &mut bytes);
                match tokio::time::timeout(WRITE, writer.send(&bytes)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => return error.to_string(),
                    Err(_) => return "the master does not take what is sent".to_owned(),
                }
            }
            if last {
                let _ = tokio::time::timeout(Duration::from_secs(1), writer.close()).await;
                return "this agent closed it".to_owned();
            }
        }
    };
    tokio::select! {
        why = listen => why,
        why = speak => why,
    }
}

/// Waits for something to say and takes what else is there; the flag says that it is the last.
async fn gather(outbox: &mut mpsc::UnboundedReceiver<ToLink>, conn: u64) -> Option<(AgentFrame, bool)> {
    let mut frame = AgentFrame::default();
    let mut size = 0;
    let mut first = Some(outbox.recv().await?);
    while frame.messages.len() < BATCH && size < BATCH_BYTES {
        let Some(said) = first.take().or_else(|| outbox.try_recv().ok()) else { break };
        match said {
            ToLink::Say { conn: of, message } if of == conn => {
                let message = AgentMessage { kind: Some(*message) };
                size += prost::Message::encoded_len(&message);
                frame.messages.push(message);
            }
            ToLink::HangUp { conn: of } if of == conn => return Some((frame, true)),
            _ => {}
        }
    }
    Some((frame, false))
}
