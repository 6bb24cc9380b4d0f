//! Running one command on a connection, with its input, its output line by line, and a deadline.

use std::time::Duration;

use russh::ChannelMsg;
use tokio::io::AsyncRead;

use super::Connection;
use crate::error::{InstallError, Result};

/// No command here says more; one that does is cut off.
const MOST: usize = 8 << 20;

/// What a command reads.
pub enum Input {
    /// Nothing.
    Nothing,
    /// Bytes, then the end.
    Bytes(Vec<u8>),
    /// Bytes first, then a stream.
    Stream(Vec<u8>, Box<dyn AsyncRead + Unpin + Send>),
}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Input")
    }
}

/// What a command said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    /// Its exit code; none where a signal ended it.
    pub code: Option<u32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Output {
    /// Whether it ended with 0.
    #[must_use]
    pub fn ok(&self) -> bool {
        self.code == Some(0)
    }

    /// The last line of its complaint.
    #[must_use]
    pub fn complaint(&self) -> String {
        let last = |text: &str| text.trim().lines().last().map(str::trim).map(str::to_owned);
        let said = last(&self.err).filter(|line| !line.is_empty()).or_else(|| last(&self.out));
        let said = said.filter(|line| !line.is_empty());
        said.unwrap_or_else(|| {
            self.code.map_or_else(|| "a signal ended it".to_owned(), |code| format!("it ended with {code}"))
        })
    }
}

impl Connection {
    /// Runs a command of the user's shell. Each whole line of its output is given to `line` as it comes.
    ///
    /// # Errors
    /// [`InstallError::Cut`] where the connection ends first, [`InstallError::Deadline`].
    pub async fn run(
        &self,
        command: &str,
        input: Input,
        deadline: Duration,
        line: &mut (dyn FnMut(&str) + Send),
    ) -> Result<Output> {
        let work = self.run_it(command, input, line);
        tokio::time::timeout(deadline, work).await.map_err(|_| {
            InstallError::Deadline(format!("the host was not done within {} s", deadline.as_secs()))
        })?
    }

    async fn run_it(
        &self,
        command: &str,
        input: Input,
        line: &mut (dyn FnMut(&str) + Send),
    ) -> Result<Output> {
        let cut = |error: russh::Error| InstallError::Cut(format!("the connection broke: {error}"));
        let channel = self.handle.channel_open_session().await.map_err(cut)?;
        channel.exec(true, command).await.map_err(cut)?;
        let (mut reader, writer) = channel.split();
        let send = async {
            match input {
                Input::Nothing => {}
                Input::Bytes(bytes) => writer.data(bytes.as_slice()).await?,
                Input::Stream(first, rest) => {
                    writer.data(first.as_slice()).await?;
                    writer.data(rest).await?;
                }
            }
            writer.eof().await
        };
        let mut gather = Gather::default();
        let tell: &mut (dyn FnMut(&str) + Send) = &mut *line;
        let (collect, receive_line) = (&mut gather, tell);
        let receive = async move {
            let mut ended = false;
            while let Some(message) = reader.wait().await {
                match message {
                    ChannelMsg::Data { data } => collect.out(&data, receive_line),
                    ChannelMsg::ExtendedData { data, .. } => collect.err(&data),
                    ChannelMsg::ExitStatus { exit_status } => {
                        collect.code = Some(exit_status);
                        ended = true;
                    }
                    ChannelMsg::ExitSignal { .. } => ended = true,
                    ChannelMsg::Failure => {
                        return Err(InstallError::Host("the host runs no commands".to_owned()));
                    }
                    _ => {}
                }
            }
            if ended {
                Ok(())
            } else {
                Err(InstallError::Cut("the connection broke while a command ran".to_owned()))
            }
        };
        {
            tokio::pin!(send, receive);
            // A command that ends early reads no further: then its end counts, not ours.
            tokio::select! {
                biased;
                done = &mut receive => done?,
                _ = &mut send => receive.await?,
            }
        }
        Ok(gather.finish(line))
    }
}

#[derive(Default)]
struct Gather {
    code: Option<u32>,
    out: Vec<u8>,
    err: Vec<u8>,
    told: usize,
}

impl Gather {
    fn out(&mut self, data: &[u8], line: &mut (dyn FnMut(&str) + Send)) {
        let room = MOST.saturating_sub(self.out.len());
        self.out.extend_from_slice(data.get(..data.len().min(room)).unwrap_or_default());
        while let Some(rest) = self.out.get(self.told..)
            && let Some(length) = rest.iter().position(|byte| *byte == b'\n')
        {
            line(&String::from_utf8_lossy(rest.get(..length).unwrap_or_default()));
            self.told = self.told.saturating_add(length).saturating_add(1);
        }
    }

    fn err(&mut self, data: &[u8]) {
        let room = MOST.saturating_sub(self.err.len());
        self.err.extend_from_slice(data.get(..data.len().min(room)).unwrap_or_default());
    }

    fn finish(self, line: &mut (dyn FnMut(&str) + Send)) -> Output {
        if let Some(rest) = self.out.get(self.told..)
            && !rest.is_empty()
        {
            line(&String::from_utf8_lossy(rest));
        }
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Output { code: self.code, out: text(self.out), err: text(self.err) }
    }
}
