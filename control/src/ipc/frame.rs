//! The envelope of a message: a length of four bytes, little-endian, and that many bytes of JSON.
//!
//! Owns the limit of 8 MiB and the rule that memory follows the bytes that arrive, not the length that was announced.
//! What the bytes mean is [`super::wire`].

use serde::Serialize;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Largest body either side accepts.
pub const FRAME_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Bytes of the length.
pub const PREFIX_BYTES: usize = 4;

/// First piece of memory for a body; most fit. It doubles from there, never beyond the announced length.
const FIRST_PIECE_BYTES: usize = 4 * 1024;

/// Why a frame was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Larger than the contract allows.
    #[error("a frame of {bytes} bytes exceeds the limit of {FRAME_BYTES_MAX}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// The sender went away in the middle of a frame.
    #[error("the connection ended {missing} bytes before the end of a frame")]
    Truncated {
        /// What did not arrive.
        missing: usize,
    },
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
}

/// Reads the length of the next frame; `None` where the sender closed, even inside the prefix.
///
/// # Errors
/// [`FrameError`]; [`FrameError::TooLong`] before any of the body was read.
pub async fn read_length<R: AsyncRead + Unpin>(reader: &mut R) -> Result<Option<usize>, FrameError> {
    let mut prefix = [0; PREFIX_BYTES];
    match reader.read_exact(&mut prefix).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let bytes = usize::try_from(u32::from_le_bytes(prefix)).unwrap_or(usize::MAX);
    if bytes > FRAME_BYTES_MAX { Err(FrameError::TooLong { bytes }) } else { Ok(Some(bytes)) }
}

/// Reads a body of `bytes` bytes.
///
/// # Errors
/// [`FrameError`] where the connection ends or fails first.
pub async fn read_body<R: AsyncRead + Unpin>(reader: &mut R, bytes: usize) -> Result<Vec<u8>, FrameError> {
    let mut body = Vec::new();
    while body.len() < bytes {
        let missing = bytes - body.len();
        if body.capacity() == body.len() {
            body.reserve_exact(missing.min(body.len().max(FIRST_PIECE_BYTES)));
        }
        let room = missing.min(body.capacity() - body.len());
        // `take` keeps the next frame of a pipelining client where it is.
        let read = (&mut *reader).take(room as u64).read_buf(&mut body).await?;
        if read == 0 {
            return Err(FrameError::Truncated { missing });
        }
    }
    Ok(body)
}

/// Writes `body` as one frame and flushes.
///
/// # Errors
/// [`FrameError::TooLong`] with nothing written, or a failure of the connection.
pub async fn write_frame<W: AsyncWrite + Unpin>(writer: &mut W, body: &[u8]) -> Result<(), FrameError> {
    if body.len() > FRAME_BYTES_MAX {
        return Err(FrameError::TooLong { bytes: body.len() });
    }
    // One buffer, so that a small frame is one system call and one segment of the socket.
    let mut frame = vec![0; PREFIX_BYTES];
    frame.extend_from_slice(body);
    set_length(&mut frame);
    writer.write_all(&frame).await?;
    writer.flush().await?;
    Ok(())
}

/// `frame` as a whole frame, prefix and all. What is longer than [`FRAME_BYTES_MAX`] and the prefix must not be sent.
///
/// # Errors
/// Where `frame` cannot be written as JSON.
pub fn encode<T: Serialize>(frame: &T) -> Result<Vec<u8>, serde_json::Error> {
    let mut bytes = vec![0; PREFIX_BYTES];
    serde_json::to_writer(&mut bytes, frame)?;
    set_length(&mut bytes);
    Ok(bytes)
}

fn set_length(frame: &mut [u8]) {
    let length = u32::try_from(frame.len() - PREFIX_BYTES).unwrap_or(u32::MAX);
    frame[..PREFIX_BYTES].copy_from_slice(&length.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use tokio::io::ReadBuf;

    #[tokio::test]
    async fn frames_round_trip_one_after_the_other() {
        let mut wire = Vec::new();
        let long = vec![b'x'; 100_000];
        write_frame(&mut wire, b"{}").await.unwrap();
        write_frame(&mut wire, b"").await.unwrap();
        write_frame(&mut wire, &long).await.unwrap();
        assert_eq!(wire[..6], [2, 0, 0, 0, b'{', b'}']);
        let mut reader = wire.as_slice();
        for expected in [b"{}".as_slice(), b"", &long] {
            let bytes = read_length(&mut reader).await.unwrap().unwrap();
            assert_eq!(read_body(&mut reader, bytes).await.unwrap(), expected);
        }
        assert!(read_length(&mut reader).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn the_limit_holds_both_ways() {
        let mut most = u32::try_from(FRAME_BYTES_MAX).unwrap().to_le_bytes().as_slice().to_vec();
        assert_eq!(read_length(&mut most.as_slice()).await.unwrap(), Some(FRAME_BYTES_MAX));
        most[0] = 1;
        assert!(matches!(read_length(&mut most.as_slice()).await, Err(FrameError::TooLong { bytes: 8_388_609 })));
        let mut wire = Vec::new();
        let refused = write_frame(&mut wire, &vec![0; FRAME_BYTES_MAX + 1]).await;
        assert!(matches!(refused, Err(FrameError::TooLong { .. })) && wire.is_empty());
    }

    #[tokio::test]
    async fn an_end_inside_the_prefix_is_a_close_and_inside_the_body_is_not() {
        assert!(read_length(&mut [1, 0].as_slice()).await.unwrap().is_none());
        let cut = read_body(&mut [1, 2].as_slice(), 5).await;
        assert!(matches!(cut, Err(FrameError::Truncated { missing: 3 })));
    }

    /// Hands out one byte, notes how much room it was offered, and ends.
    struct OneByte {
        given: bool,
        room_offered: usize,
    }

    impl AsyncRead for OneByte {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            self.room_offered = self.room_offered.max(buf.remaining());
            if !self.given {
                buf.put_slice(b"x");
                self.given = true;
            }
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn memory_follows_the_bytes_and_not_the_announcement() {
        let mut sender = OneByte { given: false, room_offered: 0 };
        let cut = read_body(&mut sender, FRAME_BYTES_MAX).await;
        assert!(matches!(cut, Err(FrameError::Truncated { .. })));
        assert!(sender.room_offered <= FIRST_PIECE_BYTES, "{} bytes were set aside", sender.room_offered);
    }
}
