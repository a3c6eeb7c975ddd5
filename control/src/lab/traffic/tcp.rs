//! Bulk TCP: parallel streams from one end to the other, measured where they arrive.
//!
//! Each stream has a writing and a reading thread. Reading goes on until the writer closes, so every byte sent is
//! counted and, if asked for, compared; the throughput is bytes by the time between the first and the last arrival.

use super::pattern::{PIECE_MAX, Pattern};
use super::{End, STALL, TrafficError};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes of one `write` and room of one `read`: large enough that system calls do not matter, small enough for L2.
const PIECE: usize = 256 * 1_000;
const _: () = assert!(PIECE <= PIECE_MAX);

/// How much to send.
#[derive(Clone, Copy, Debug)]
pub enum Amount {
    /// As much as goes in this time.
    For(Duration),
    /// So many bytes on each stream.
    Bytes(u64),
}

/// What to send.
#[derive(Clone, Copy, Debug)]
pub struct TcpPlan {
    /// Parallel connections, at least 1.
    pub streams: usize,
    /// How much.
    pub amount: Amount,
    /// Compare every byte received with what was sent.
    pub verify: bool,
}

/// What arrived.
#[derive(Clone, Debug)]
pub struct TcpReport {
    /// Bytes received, on all streams.
    pub bytes: u64,
    /// From the first arrival on any stream to the last.
    pub elapsed: Duration,
    /// Bytes received on each stream.
    pub streams: Vec<u64>,
}

impl TcpReport {
    /// Throughput in bits per second.
    #[must_use]
    pub fn bits_per_sec(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// Sends from `sender` to `receiver` as planned and waits for the end of it.
///
/// # Errors
/// [`TrafficError`] of the stream that failed first in order.
pub fn tcp(sender: &End, receiver: &End, plan: &TcpPlan) -> Result<TcpReport, TrafficError> {
    let pairs = connect(sender, receiver, plan.streams.max(1))?;
    let pattern = Pattern::new();
    let until = Until::new(plan.amount);
    let outcomes: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = pairs
            .iter()
            .enumerate()
            .map(|(stream, (near, far))| {
                let pattern = &pattern;
                let writer = scope.spawn(move || {
                    let sent = write(near, stream, pattern, until);
                    // Also after an error: it is what ends the reader.
                    let _ = near.shutdown(Shutdown::Write);
                    sent
                });
                (writer, scope.spawn(move || read(far, stream, plan.verify.then_some(pattern))))
            })
            .collect();
        threads.into_iter().map(|(writer, reader)| (writer.join(), reader.join())).collect()
    });
    let mut report = TcpReport { bytes: 0, elapsed: Duration::ZERO, streams: Vec::new() };
    let mut span: Option<(Instant, Instant)> = None;
    for (stream, (written, read)) in outcomes.into_iter().enumerate() {
        let arrived = read.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let sent = written.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        if sent != arrived.bytes {
            return Err(TrafficError::Short { stream, sent, received: arrived.bytes });
        }
        report.bytes += arrived.bytes;
        report.streams.push(arrived.bytes);
        if let Some((first, last)) = arrived.span {
            span = Some(span.map_or((first, last), |(a, b)| (a.min(first), b.max(last))));
        }
    }
    report.elapsed = span.map_or(Duration::ZERO, |(first, last)| last - first);
    Ok(report)
}

/// One by one, so that the order of connecting is the order of accepting.
fn connect(sender: &End, receiver: &End, streams: usize) -> Result<Vec<(TcpStream, TcpStream)>, TrafficError> {
    let listen = |source| TrafficError::socket("listen for TCP", source);
    let address = SocketAddr::new(receiver.ip, 0);
    let listener = receiver.netns.run_in(|| TcpListener::bind(address))?.map_err(listen)?;
    let address = listener.local_addr().map_err(listen)?;
    (0..streams)
        .map(|_| {
            let near = sender
                .netns
                .run_in(|| TcpStream::connect_timeout(&address, STALL))?
                .map_err(|source| TrafficError::socket("connect over TCP", source))?;
            let (far, _) = listener.accept().map_err(|source| TrafficError::socket("accept over TCP", source))?;
            near.set_write_timeout(Some(STALL)).map_err(|source| TrafficError::socket("set a timeout", source))?;
            far.set_read_timeout(Some(STALL)).map_err(|source| TrafficError::socket("set a timeout", source))?;
            Ok((near, far))
        })
        .collect()
}

#[derive(Clone, Copy)]
enum Until {
    Time(Instant),
    Bytes(u64),
}

impl Until {
    fn new(amount: Amount) -> Self {
        match amount {
            Amount::For(time) => Self::Time(Instant::now() + time),
            Amount::Bytes(bytes) => Self::Bytes(bytes),
        }
    }

    /// Bytes of the next write; 0 at the end.
    fn next(self, sent: u64) -> usize {
        match self {
            Self::Time(end) if Instant::now() >= end => 0,
            Self::Time(_) => PIECE,
            Self::Bytes(bytes) => usize::try_from(bytes.saturating_sub(sent)).unwrap_or(PIECE).min(PIECE),
        }
    }
}

fn write(mut socket: &TcpStream, stream: usize, pattern: &Pattern, until: Until) -> Result<u64, TrafficError> {
    let mut sent = 0;
    loop {
        let len = until.next(sent);
        if len == 0 {
            return Ok(sent);
        }
        let written = socket
            .write(pattern.piece(stream, sent, len))
            .map_err(|source| TrafficError::socket("send over TCP", source))?;
        sent += written as u64;
    }
}

struct Arrived {
    bytes: u64,
    span: Option<(Instant, Instant)>,
}

fn read(mut socket: &TcpStream, stream: usize, check: Option<&Pattern>) -> Result<Arrived, TrafficError> {
    let mut buffer = vec![0; PIECE];
    let mut arrived = Arrived { bytes: 0, span: None };
    loop {
        let len = socket.read(&mut buffer).map_err(|source| TrafficError::socket("receive over TCP", source))?;
        if len == 0 {
            return Ok(arrived);
        }
        let now = Instant::now();
        arrived.span = Some((arrived.span.map_or(now, |(first, _)| first), now));
        if let Some(pattern) = check {
            pattern
                .check(stream, arrived.bytes, &buffer[..len])
                .map_err(|good| TrafficError::Corrupt { stream, offset: arrived.bytes + good })?;
        }
        arrived.bytes += len as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::{Lab, LabOptions, rights_or_skip};

    #[test]
    fn bytes_are_counted_and_checked_both_ways_and_in_both_families() {
        if !rights_or_skip() {
            return;
        }
        let lab = Lab::build(LabOptions::default()).unwrap();
        for v6 in [false, true] {
            let (a, b) = (lab.nodes()[0].end(v6), lab.nodes()[1].end(v6));
            let plan = TcpPlan { streams: 3, amount: Amount::Bytes(1_000_001), verify: true };
            for (from, to) in [(&a, &b), (&b, &a)] {
                let report = tcp(from, to, &plan).unwrap();
                assert_eq!((report.bytes, report.streams.as_slice()), (3_000_003, [1_000_001; 3].as_slice()));
                assert!(report.bits_per_sec() > 0.0);
            }
        }
        let (a, b) = (lab.nodes()[0].end(false), lab.nodes()[1].end(false));
        let plan = TcpPlan { streams: 1, amount: Amount::For(Duration::from_millis(50)), verify: true };
        assert!(tcp(&a, &b, &plan).unwrap().elapsed < Duration::from_secs(5));
    }

    #[test]
    fn a_wrong_byte_is_reported_with_its_place() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        let pattern = Pattern::new();
        let mut bytes = pattern.piece(4, 0, 5_000).to_vec();
        bytes[4_321] ^= 0x80;
        near.write_all(&bytes).unwrap();
        drop(near);
        let error = read(&far, 4, Some(&pattern)).err().unwrap();
        assert!(matches!(error, TrafficError::Corrupt { stream: 4, offset: 4_321 }), "{error}");
    }
}
