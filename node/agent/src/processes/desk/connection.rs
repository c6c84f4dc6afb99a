//! One connection: bytes to messages and back, within limits. Its one idea: it knows nothing about updates and keeps
//! nothing but half a line.

use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};
use tribune_p2p::network::wire::AnyStream;
use tribune_process::protocol::{MAX_LINE, NodeMessage, ProcessMessage, encode};

use super::Limits;

/// What a connection tells the desk.
#[derive(Debug)]
pub(super) enum Heard {
    /// The process said this.
    Message(ProcessMessage),
    /// The connection has ended; the last thing that is heard of it.
    Closed,
}

/// A connection and what it may still do.
pub(super) struct Connection {
    pub(super) id: u64,
    pub(super) stream: AnyStream,
    pub(super) to_desk: mpsc::Sender<(u64, Heard)>,
    /// Lines to write. When the desk drops its end, what is queued is written and the connection closed.
    pub(super) lines: mpsc::Receiver<String>,
    pub(super) limits: Limits,
}

/// Why a connection ends.
enum End {
    /// The process hung up, or cannot be reached: nobody to tell.
    Gone,
    /// It broke a rule, and is told which.
    Refused(String),
}

impl Connection {
    /// Serves the connection until it ends.
    pub(super) async fn run(mut self) {
        if let End::Refused(message) = self.serve().await {
            tracing::debug!(connection = self.id, message, "a process's connection was closed");
            let _ = self.write_error(message).await;
        }
        // The desk outlives its connections, unless the node is stopping.
        let _ = self.to_desk.send((self.id, Heard::Closed)).await;
    }

    async fn serve(&mut self) -> End {
        let mut buffer = BytesMut::with_capacity(4096);
        let mut allowance = Allowance::new(&self.limits);
        let hello_by = Instant::now() + self.limits.hello_within;
        let mut said_hello = false;
        let mut line_by = None;
        loop {
            while let Some(line) = take_line(&mut buffer) {
                line_by = None;
                if let Err(end) = self.take(&line, &mut said_hello, &mut allowance).await {
                    return end;
                }
            }
            if buffer.len() >= MAX_LINE {
                return End::Refused(format!("a line is longer than {MAX_LINE} bytes"));
            }
            if !buffer.is_empty() && line_by.is_none() {
                line_by = Some(Instant::now() + self.limits.line_within);
            }
            let patience = [line_by, (!said_hello).then_some(hello_by)].into_iter().flatten().min();
            let read = tokio::select! {
                line = self.lines.recv() => {
                    let Some(line) = line else { return End::Gone };
                    if self.write(&line).await.is_err() {
                        return End::Gone;
                    }
                    continue;
                }
                read = read_some(&mut self.stream, &mut buffer, patience) => read,
            };
            match read {
                Ok(Ok(1..)) => {}
                Ok(Ok(0) | Err(_)) => return End::Gone,
                Err(_) if said_hello => {
                    return End::Refused(format!("a line was begun and not ended within {:?}", self.limits.line_within));
                }
                Err(_) => return End::Refused(format!("no hello within {:?}", self.limits.hello_within)),
            }
        }
    }

    /// Takes one line in.
    async fn take(&mut self, line: &[u8], said_hello: &mut bool, allowance: &mut Allowance) -> Result<(), End> {
        if !allowance.take_one() {
            return Err(End::Refused(format!(
                "too many messages: more than {} at once and {} a second",
                self.limits.burst, self.limits.per_second
            )));
        }
        let message = match serde_json::from_slice::<ProcessMessage>(line) {
            Ok(message) => message,
            Err(error) => {
                let message = format!("not a message of this protocol: {error}");
                return self.write_error(message).await.map_err(|_| End::Gone);
            }
        };
        if let ProcessMessage::Hello { protocol: 0, .. } = message {
            return Err(End::Refused("there is no protocol 0; the first is 1".to_owned()));
        }
        *said_hello |= matches!(message, ProcessMessage::Hello { .. });
        if !*said_hello {
            return Err(End::Refused("the first message must be hello".to_owned()));
        }
        self.to_desk.send((self.id, Heard::Message(message))).await.map_err(|_| End::Gone)
    }

    async fn write_error(&mut self, message: String) -> std::io::Result<()> {
        // What serde says of a wrong field may quote all of it.
        let message = tribune_process::protocol::clean_reason(&message);
        let line = encode(&NodeMessage::Error { message }).map_err(std::io::Error::other)?;
        self.write(&line).await
    }

    async fn write(&mut self, line: &str) -> std::io::Result<()> {
        timeout(self.limits.read_within, self.stream.write_all(line.as_bytes())).await?
    }
}

/// Reads what is there, until `patience` runs out. Losing the race against a line to write loses no byte.
async fn read_some(
    stream: &mut AnyStream,
    buffer: &mut BytesMut,
    patience: Option<Instant>,
) -> Result<std::io::Result<usize>, tokio::time::error::Elapsed> {
    buffer.reserve(4096);
    match patience {
        Some(until) => timeout_at(until, stream.read_buf(buffer)).await,
        None => Ok(stream.read_buf(buffer).await),
    }
}

/// Takes one whole line, without its newline, off the buffer's front. Empty lines are nothing.
fn take_line(buffer: &mut BytesMut) -> Option<BytesMut> {
    loop {
        let end = buffer.iter().position(|byte| *byte == b'\n')?;
        let line = buffer.split_to(end);
        buffer.advance(1);
        if !line.is_empty() {
            return Some(line);
        }
    }
}

/// How many messages a connection may still send: so many at once, refilled over time.
struct Allowance {
    left: f64,
    burst: f64,
    per_second: f64,
    counted: Instant,
}

impl Allowance {
    fn new(limits: &Limits) -> Self {
        let burst = f64::from(limits.burst);
        Self { left: burst, burst, per_second: f64::from(limits.per_second), counted: Instant::now() }
    }

    fn take_one(&mut self) -> bool {
        let passed: Duration = self.counted.elapsed();
        self.counted = Instant::now();
        self.left = (self.left + passed.as_secs_f64() * self.per_second).min(self.burst);
        self.left -= 1.0;
        self.left >= 0.0
    }
}
