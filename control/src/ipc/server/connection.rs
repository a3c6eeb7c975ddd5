//! One connection: frames in, answers in the order of their requests, and events in between for who subscribed.
//!
//! Events go out while the peer is silent and while a request is carried out, never inside a frame. A peer that does not
//! read gets no more of them and loses what the ring of the hub forgets; it is cut only where it owes us the rest of a
//! frame or does not take an answer.

use super::desk::Desk;
use super::receiver::Receiver;
use super::{Handler, LONG_FRAME_BYTES, Order};
use crate::ipc::access::Credentials;
use crate::ipc::events::Subscription;
use crate::ipc::frame::{FRAME_BYTES_MAX, FrameError, PREFIX_BYTES, encode, read_body, read_length};
use crate::ipc::stop::Stop;
use crate::ipc::wire::{DecodeError, ErrorCode, Fault, Frame, Request, Response, decode};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// A connection and what it needs.
pub(super) struct Connection<H> {
    credentials: Credentials,
    desk: Arc<Desk<H>>,
    long_frames: Arc<Semaphore>,
    stop: Stop,
    feed: Feed,
}

impl<H: Handler> Connection<H> {
    pub(super) fn new(credentials: Credentials, desk: Arc<Desk<H>>, long_frames: Arc<Semaphore>, stop: Stop) -> Self {
        Self { credentials, desk, long_frames, stop, feed: Feed::default() }
    }

    pub(super) async fn run(mut self, stream: UnixStream) {
        let pid = self.credentials.caller.pid;
        match self.converse(&stream).await {
            Ok(()) => tracing::trace!(pid, "connection closed"),
            Err(reason) => tracing::warn!(pid, %reason, "closing a connection"),
        }
    }

    async fn converse(&mut self, stream: &UnixStream) -> Result<(), Farewell> {
        let mut receiver = Receiver::new(stream);
        loop {
            // Between frames a peer may be silent for as long as it likes.
            let mut prefix = [0; PREFIX_BYTES];
            let begun = tokio::select! {
                begun = receiver.begin(&mut prefix) => begun.map_err(FrameError::Io)?,
                farewell = self.feed.flow(stream) => return Err(farewell),
            };
            let frame_time = self.desk.settings.load().limits.frame_time;
            let mut rest = (&prefix[..begun]).chain(&mut receiver);
            let Some(bytes) = timeout(frame_time, read_length(&mut rest)).await?? else { return Ok(()) };
            let _permit = match bytes > LONG_FRAME_BYTES {
                true => timeout(frame_time, self.long_frames.clone().acquire_owned()).await?.ok(),
                false => None,
            };
            let body = timeout(frame_time, read_body(&mut receiver, bytes)).await??;
            let (descriptors, lost) = receiver.descriptors();
            let decoded = decode(&body);
            drop(body);
            match decoded {
                Ok(Frame::Request { id, .. }) if lost => {
                    let fault = Fault::new(ErrorCode::Busy, "not all descriptors beside the frame could be taken")
                        .with_hint("send one descriptor, or try again when the daemon has some to spare");
                    self.reply(stream, id, Response::Err(fault)).await?;
                }
                Ok(Frame::Request { id, request }) => {
                    let shutdown = request == Request::Shutdown;
                    let response = self.answer(stream, request, descriptors).await?;
                    let done = shutdown && response == Response::Ok;
                    let sent = self.reply(stream, id, response).await;
                    if done {
                        self.stop.trigger();
                        return sent;
                    }
                    sent?;
                }
                Ok(Frame::Response { .. } | Frame::Event(_)) | Err(DecodeError::Response(_) | DecodeError::Event) => {
                    tracing::warn!(pid = self.credentials.caller.pid, "ignoring a frame that is no request");
                }
                Err(DecodeError::Refused { id, reason }) => {
                    // The reason may quote the request, so it goes to the one who sent that and not into the log.
                    tracing::warn!(pid = self.credentials.caller.pid, id, "refusing a malformed request");
                    self.reply(stream, id, Response::Err(Fault::new(ErrorCode::BadRequest, reason))).await?;
                }
                Err(DecodeError::Unreadable(_)) => return Err(Farewell::Unreadable),
            }
        }
    }

    /// Has the request answered, and counts that.
    async fn answer(
        &mut self,
        stream: &UnixStream,
        request: Request,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Response, Farewell> {
        let (op, start) = (request.op(), Instant::now());
        let response = self.find_answer(stream, request, descriptors).await?;
        self.desk.tally.record(op, &response, start.elapsed());
        Ok(response)
    }

    /// Has the request carried out, and lets events through meanwhile.
    async fn find_answer(
        &mut self,
        stream: &UnixStream,
        request: Request,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Response, Farewell> {
        if let Err(fault) = self.desk.permit(&self.credentials, &request) {
            return Ok(Response::Err(fault));
        }
        // These are about this connection.
        match &request {
            Request::Subscribe(wanted) => {
                let (subscription, subscribed) = self.desk.hub.subscribe(wanted);
                self.feed.subscribe(Some(subscription));
                return Ok(Response::Subscribed(subscribed));
            }
            Request::Unsubscribe => {
                self.feed.subscribe(None);
                return Ok(Response::Ok);
            }
            Request::Hello { .. } => return Ok(self.desk.hello(&self.credentials)),
            _ => {}
        }
        let order = Order { caller: self.credentials.caller, request, descriptors };
        tokio::select! {
            response = Desk::carry_out(self.desk.clone(), order) => Ok(response),
            farewell = self.feed.flow(stream) => Err(farewell),
        }
    }

    async fn reply(&mut self, stream: &UnixStream, id: u64, response: Response) -> Result<(), Farewell> {
        let mut frame = encode(&Frame::Response { id, response })?;
        if frame.len() > FRAME_BYTES_MAX + PREFIX_BYTES {
            let text = format!(
                "overlay engine error: the answer of {} bytes exceeds the frame limit",
                frame.len() - PREFIX_BYTES
            );
            frame = encode(&Frame::Response { id, response: Response::Err(Fault::new(ErrorCode::TooLarge, text)) })?;
        }
        let frame_time = self.desk.settings.load().limits.frame_time;
        let sent = timeout(frame_time, async {
            self.feed.finish(stream).await?;
            write_all(stream, &frame).await
        });
        sent.await??;
        Ok(())
    }
}

/// The events of a connection on their way out.
#[derive(Default)]
struct Feed {
    subscription: Option<Subscription>,
    /// The event that is being written, and how much of it has been.
    frame: Vec<u8>,
    written: usize,
}

impl Feed {
    /// Changes what is told from here on. An event that has begun to be written is written to its end.
    fn subscribe(&mut self, subscription: Option<Subscription>) {
        self.subscription = subscription;
        if self.written == 0 {
            self.frame.clear();
        }
    }

    /// Writes events as they come; ends only with the connection. Dropping the future loses nothing.
    async fn flow(&mut self, stream: &UnixStream) -> Farewell {
        loop {
            if let Err(farewell) = self.step(stream).await {
                return farewell;
            }
        }
    }

    async fn step(&mut self, stream: &UnixStream) -> Result<(), Farewell> {
        if self.frame.is_empty() {
            let Some(subscription) = &mut self.subscription else { return std::future::pending().await };
            let record = subscription.next().await;
            self.frame = encode(&Frame::Event(record))?;
            self.written = 0;
        }
        self.written += write_some(stream, &self.frame[self.written..]).await.map_err(FrameError::Io)?;
        if self.written == self.frame.len() {
            self.frame.clear();
            self.written = 0;
        }
        Ok(())
    }

    /// Writes the rest of an event that has begun.
    async fn finish(&mut self, stream: &UnixStream) -> io::Result<()> {
        if self.written > 0 {
            write_all(stream, &self.frame[self.written..]).await?;
            self.frame.clear();
            self.written = 0;
        }
        Ok(())
    }
}

async fn write_some(stream: &UnixStream, bytes: &[u8]) -> io::Result<usize> {
    loop {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            written => return written,
        }
    }
}

async fn write_all(stream: &UnixStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        bytes = &bytes[write_some(stream, bytes).await?..];
    }
    Ok(())
}

/// Why the server closes a connection.
#[derive(Debug, thiserror::Error)]
enum Farewell {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    #[error("the peer stalled inside a frame")]
    Stalled(#[from] tokio::time::error::Elapsed),
    #[error("a frame without a readable id")]
    Unreadable,
    #[error("an answer cannot be written as JSON: {0}")]
    Unwritable(#[from] serde_json::Error),
}
