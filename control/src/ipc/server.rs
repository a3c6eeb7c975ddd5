//! Connections: accept them, take one request after the other from each, answer in order, and let nothing a peer does or
//! omits touch another.
//!
//! One task per connection; a request runs in a task of its own, so that neither a panic nor a closed connection nor the
//! deadline interrupts it half-way. What each bound protects:
//!
//! | Bound | Against |
//! |---|---|
//! | [`Limits::connections`] | descriptors and tasks running out |
//! | [`Limits::frame_time`] | a sender that stops inside a frame, a receiver that does not read |
//! | [`Limits::long_frames`] | memory for many large bodies at once |
//! | [`Limits::request_time`] | waiting for ever for a request that hangs |
//!
//! Idle connections have no deadline: the published client keeps one open for days and never reconnects.

use super::frame::{FrameError, read_body, read_length, write_frame};
use super::socket::BoundSocket;
use super::stop::Stop;
use super::wire::{DecodeError, Frame, Request, Response, decode};
use crate::log_budget::LogBudget;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Whoever carries requests out.
pub trait Handler: Send + Sync + 'static {
    /// Carries `request` out. Runs to its end even when the connection that asked is gone.
    fn handle(&self, caller: Caller, request: Request) -> impl Future<Output = Response> + Send;
}

/// Who is at the other end of a connection, as the kernel tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// Effective user at the time of connecting; `None` where the kernel does not say.
    pub uid: Option<u32>,
    /// Process at the time of connecting.
    pub pid: Option<i32>,
}

/// Bounds of a server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once; more are closed as they come. Half of the usual 1,024 descriptors of a process.
    pub connections: usize,
    /// For the rest of a frame once its first byte is there, and for the peer to take an answer. Orders of magnitude
    /// above what a local socket needs.
    pub frame_time: Duration,
    /// Bodies above [`LONG_FRAME_BYTES`] being read or carried out at once. JSON of many small values takes up to 16 times
    /// its length once read, so two keep the worst case near 256 MiB. No request of the contract is that long.
    pub long_frames: usize,
    /// For one request. A little above the slowest thing a request may wait for.
    pub request_time: Duration,
}

/// Bodies above this are long.
pub const LONG_FRAME_BYTES: usize = 256 * 1024;

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 512,
            frame_time: Duration::from_secs(30),
            long_frames: 2,
            request_time: Duration::from_secs(60),
        }
    }
}

/// First and longest pause after a failed accept. The usual cause, no free descriptor, passes only when somebody closes.
const ACCEPT_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// Complaints about refused connections are not logged more often than this.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(10);

/// Serves `socket` until `stop` is triggered, from outside or by a `shutdown` request that was answered `ok`. Open
/// connections are cut then. Nothing else ends it.
pub async fn serve<H: Handler>(socket: &BoundSocket, handler: Arc<H>, limits: Limits, stop: Stop) {
    let long_frames = Arc::new(Semaphore::new(limits.long_frames));
    let mut connections = JoinSet::new();
    let mut pause = ACCEPT_PAUSE.0;
    let mut complaints = LogBudget::new(1, COMPLAINT_INTERVAL);
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.triggered() => return,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = socket.listener().accept() => accepted,
        };
        match accepted {
            Ok(_) if connections.len() >= limits.connections => {
                if let Some(withheld) = complaints.admit(Instant::now()) {
                    tracing::warn!(open = limits.connections, withheld, "too many connections: closing new ones");
                }
            }
            Ok((stream, _)) => {
                pause = ACCEPT_PAUSE.0;
                let connection = Connection {
                    caller: caller(&stream),
                    handler: handler.clone(),
                    limits,
                    long_frames: long_frames.clone(),
                    stop: stop.clone(),
                };
                connections.spawn(connection.run(stream));
            }
            Err(error) => {
                if let Some(withheld) = complaints.admit(Instant::now()) {
                    tracing::warn!(%error, withheld, "a connection cannot be accepted; going on");
                }
                tokio::select! {
                    () = stop.triggered() => return,
                    () = tokio::time::sleep(pause) => pause = (pause * 2).min(ACCEPT_PAUSE.1),
                }
            }
        }
    }
}

/// One connection and what it needs.
struct Connection<H> {
    caller: Caller,
    handler: Arc<H>,
    limits: Limits,
    long_frames: Arc<Semaphore>,
    stop: Stop,
}

impl<H: Handler> Connection<H> {
    async fn run(self, stream: UnixStream) {
        let pid = self.caller.pid;
        match self.converse(stream).await {
            Ok(()) => tracing::trace!(pid, "connection closed"),
            Err(reason) => tracing::warn!(pid, %reason, "closing a connection"),
        }
    }

    async fn converse(&self, stream: UnixStream) -> Result<(), Farewell> {
        let (reader, mut writer) = stream.into_split();
        let mut reader = BufReader::with_capacity(4096, reader);
        loop {
            // Between frames a peer may be silent for as long as it likes.
            if reader.fill_buf().await.map_err(FrameError::Io)?.is_empty() {
                return Ok(());
            }
            let Some(bytes) = timeout(self.limits.frame_time, read_length(&mut reader)).await?? else { return Ok(()) };
            let _permit = match bytes > LONG_FRAME_BYTES {
                true => timeout(self.limits.frame_time, self.long_frames.acquire()).await?.ok(),
                false => None,
            };
            let body = self.body(&mut reader, bytes).await?;
            match decode(&body) {
                Ok(Frame::Request { id, request }) => {
                    drop(body);
                    let shutdown = request == Request::Shutdown;
                    let response = self.carry_out(request).await;
                    let done = shutdown && response == Response::Ok;
                    let sent = self.reply(&mut writer, id, response).await;
                    if done {
                        self.stop.trigger();
                        return sent;
                    }
                    sent?;
                }
                Ok(Frame::Response { .. } | Frame::Event(_)) | Err(DecodeError::Response(_) | DecodeError::Event) => {
                    tracing::warn!(pid = self.caller.pid, "ignoring a frame that is no request");
                }
                Err(DecodeError::Refused { id, reason }) => {
                    // The reason may quote the request, so it goes to the one who sent that and not into the log.
                    tracing::warn!(pid = self.caller.pid, id, "refusing a malformed request");
                    self.reply(&mut writer, id, Response::Err { message: reason }).await?;
                }
                Err(DecodeError::Unreadable(_)) => return Err(Farewell::Unreadable),
            }
        }
    }

    async fn body(&self, reader: &mut BufReader<OwnedReadHalf>, bytes: usize) -> Result<Vec<u8>, Farewell> {
        Ok(timeout(self.limits.frame_time, read_body(reader, bytes)).await??)
    }

    async fn carry_out(&self, request: Request) -> Response {
        let op = request.op();
        let (handler, caller) = (self.handler.clone(), self.caller);
        let task = tokio::spawn(async move { handler.handle(caller, request).await });
        let message = match timeout(self.limits.request_time, task).await {
            Ok(Ok(response)) => return response,
            Ok(Err(error)) => {
                tracing::error!(op, %error, "a request failed in a way it should not");
                format!("overlay engine error: {op} failed inside the daemon: see its log")
            }
            Err(_) => {
                let secs = self.limits.request_time.as_secs();
                format!(
                    "overlay engine error: {op} is still running after {secs} s: ask for status before trying again"
                )
            }
        };
        Response::Err { message }
    }

    async fn reply(&self, writer: &mut OwnedWriteHalf, id: u64, response: Response) -> Result<(), Farewell> {
        let mut body = encode(id, response)?;
        if body.len() > super::frame::FRAME_BYTES_MAX {
            let message = format!("overlay engine error: the answer of {} bytes exceeds the frame limit", body.len());
            body = encode(id, Response::Err { message })?;
        }
        Ok(timeout(self.limits.frame_time, write_frame(writer, &body)).await??)
    }
}

fn encode(id: u64, response: Response) -> Result<Vec<u8>, Farewell> {
    serde_json::to_vec(&Frame::Response { id, response }).map_err(Farewell::Unwritable)
}

fn caller(stream: &UnixStream) -> Caller {
    stream
        .peer_cred()
        .map_or_else(|_: io::Error| Caller::default(), |cred| Caller { uid: Some(cred.uid()), pid: cred.pid() })
}

/// Why the server closes a connection.
#[derive(Debug, thiserror::Error)]
enum Farewell {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the peer stalled inside a frame")]
    Stalled(#[from] tokio::time::error::Elapsed),
    #[error("a frame without a readable id")]
    Unreadable,
    #[error("an answer cannot be written as JSON: {0}")]
    Unwritable(serde_json::Error),
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
