//! The receiving half of a connection: bytes, and the descriptors that come with them.
//!
//! Nothing is read beyond the frame that is wanted, so descriptors belong to the frame during which they arrive: a client
//! sends them with the frame and nothing else in one `sendmsg`. An idle connection holds no buffer.

use ginnel_backends::linux::local::{DESCRIPTORS_MAX, Received, receive};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, Interest, ReadBuf};
use tokio::net::UnixStream;

/// Reads from a stream it shares with whoever writes.
pub(super) struct Receiver<'a> {
    stream: &'a UnixStream,
    descriptors: Vec<OwnedFd>,
    lost: bool,
}

impl<'a> Receiver<'a> {
    pub(super) fn new(stream: &'a UnixStream) -> Self {
        Self { stream, descriptors: Vec::new(), lost: false }
    }

    /// Waits for the first bytes of a frame, for as long as it takes; 0 is the end. Dropping the future loses nothing.
    pub(super) async fn begin(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let stream = self.stream;
        stream.async_io(Interest::READABLE, || self.take(bytes)).await
    }

    /// What came beside the bytes since the last call, and whether there was more than could be taken.
    pub(super) fn descriptors(&mut self) -> (Vec<OwnedFd>, bool) {
        (std::mem::take(&mut self.descriptors), std::mem::take(&mut self.lost))
    }

    fn take(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let Received { bytes, descriptors_lost } = receive(self.stream.as_fd(), bytes, &mut self.descriptors)?;
        // Each of many small pieces could bring some.
        self.lost |= descriptors_lost || self.descriptors.len() > DESCRIPTORS_MAX;
        self.descriptors.truncate(DESCRIPTORS_MAX);
        Ok(bytes)
    }
}

impl AsyncRead for Receiver<'_> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let stream = this.stream;
        loop {
            ready!(stream.poll_read_ready(cx))?;
            let room = buf.initialize_unfilled();
            match stream.try_io(Interest::READABLE, || this.take(room)) {
                Ok(bytes) => {
                    buf.advance(bytes);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}
