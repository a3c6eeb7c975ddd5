//! Lanes: traffic from one end to another for as long as the run takes. Every byte that arrives is checked, and when
//! something last did is known.

use super::{Broken, Deed, Run, micros};
use ginnel_control::lab::traffic::{End, Pattern};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// Sockets do not wait longer, so that whoever has one sees the end of the run.
const WAIT: Duration = Duration::from_millis(200);

/// Time between probes.
const PROBE_EVERY: Duration = Duration::from_millis(50);

/// Payload of a probe in bytes: from a number to what fits a packet of the overlay.
const PROBE_BYTES: std::ops::RangeInclusive<usize> = 16..=1_372;

/// What a writer writes at once, and how long it pauses behind, from a trickle to as much as goes.
const PACES: [(usize, Duration); 4] = [
    (4_000, Duration::from_millis(50)),
    (64_000, Duration::from_millis(20)),
    (200_000, Duration::from_millis(10)),
    (256_000, Duration::from_millis(1)),
];

/// How long it keeps to one of them.
const PACE_FOR: Duration = Duration::from_millis(1_500);

/// What the last bytes get to arrive.
const DRAIN: Duration = Duration::from_secs(60);

/// How something travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One TCP connection that has to outlive everything.
    Stream,
    /// Datagrams of all sizes that are sent back.
    Probes,
}

/// A lane.
#[derive(Debug)]
pub struct Lane {
    /// Between whom.
    pub name: String,
    /// How.
    pub kind: Kind,
    near: End,
    far: End,
    /// When something last arrived that was sent then or later: microseconds of the clock of the run.
    moved: AtomicU64,
}

impl Lane {
    /// A lane on which nothing moves yet.
    #[must_use]
    pub fn new(name: String, kind: Kind, near: End, far: End) -> Self {
        Self { name, kind, near, far, moved: AtomicU64::default() }
    }

    /// When something last moved on it from end to end.
    pub fn moved(&self) -> Duration {
        Duration::from_micros(self.moved.load(Ordering::Relaxed))
    }

    fn moves(&self, at: Duration) {
        self.moved.fetch_max(micros(at), Ordering::Relaxed);
    }

    /// Moves something until the run is over.
    pub fn carry(&self, run: &Run, seed: u64) -> Result<(), Broken> {
        let outcome = match self.kind {
            Kind::Stream => self.stream(run, StdRng::seed_from_u64(seed)),
            Kind::Probes => self.probe(run, StdRng::seed_from_u64(seed)),
        };
        outcome.map_err(|broken| Broken(format!("lane {}: {broken}", self.name)))
    }

    fn stream(&self, run: &Run, mut rng: StdRng) -> Result<(), Broken> {
        let failed = |what: &'static str| move |error: std::io::Error| Broken(format!("{what}: {error}"));
        let address = SocketAddr::new(self.far.ip, 0);
        let listener = self.far.netns.run_in(|| TcpListener::bind(address))?.map_err(failed("listen"))?;
        let address = listener.local_addr().map_err(failed("listen"))?;
        let near = self.near.netns.run_in(|| TcpStream::connect(address))?.map_err(failed("connect"))?;
        let (far, _) = listener.accept().map_err(failed("accept"))?;
        near.set_write_timeout(Some(WAIT)).map_err(failed("set a timeout"))?;
        far.set_read_timeout(Some(WAIT)).map_err(failed("set a timeout"))?;
        let pattern = Pattern::new();
        thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let sent = write(run, &near, &pattern, &mut rng);
                let _ = near.shutdown(Shutdown::Write);
                sent.map_err(failed("the connection broke for its writer"))
            });
            let read = self.read(run, &far, &pattern);
            if read.is_err() {
                // The writer ends, too.
                let _ = near.shutdown(Shutdown::Both);
            }
            let received = read?;
            let sent = writer.join().map_err(|_| Broken("its writer panicked".into()))??;
            if sent == received || run.is_broken() {
                Ok(())
            } else {
                Err(Broken(format!("{received} of {sent} bytes arrived")))
            }
        })
    }

    /// Reads to the end of the stream.
    fn read(&self, run: &Run, mut socket: &TcpStream, pattern: &Pattern) -> Result<u64, Broken> {
        let mut buffer = vec![0; 256_000];
        let mut received = 0;
        let mut over_at = None;
        loop {
            match socket.read(&mut buffer) {
                Ok(0) => return Ok(received),
                Ok(len) => {
                    let bytes = &buffer[..len];
                    pattern
                        .check(0, received, bytes)
                        .map_err(|good| Broken(format!("a wrong byte arrived after {} good ones", received + good)))?;
                    received += len as u64;
                    run.did(Deed::Bytes, len as u64);
                    self.moves(run.clock.now());
                }
                Err(error) if passes(&error) => {}
                Err(error) => return Err(Broken(format!("the connection broke for its reader: {error}"))),
            }
            if run.is_broken() {
                return Ok(received);
            }
            if run.is_over() && run.clock.now() > *over_at.get_or_insert(run.clock.now()) + DRAIN {
                return Err(Broken(format!("the last bytes did not arrive within {} s", DRAIN.as_secs())));
            }
        }
    }

    fn probe(&self, run: &Run, mut rng: StdRng) -> Result<(), Broken> {
        let failed = |error: std::io::Error| Broken(format!("open a UDP socket: {error}"));
        let bind = |end: &End| end.netns.run_in(|| UdpSocket::bind(SocketAddr::new(end.ip, 0)));
        let (near, far) = (bind(&self.near)?.map_err(failed)?, bind(&self.far)?.map_err(failed)?);
        near.connect(far.local_addr().map_err(failed)?).map_err(failed)?;
        near.set_read_timeout(Some(PROBE_EVERY)).map_err(failed)?;
        far.set_read_timeout(Some(WAIT)).map_err(failed)?;
        let pattern = Pattern::new();
        thread::scope(|scope| {
            scope.spawn(|| send_back(run, &far));
            let mut buffer = [0; 2_048];
            // When each was sent.
            let mut sent = Vec::new();
            while !run.is_over() {
                let number = sent.len() as u64;
                let len = rng.random_range(PROBE_BYTES);
                let probe = [&number.to_le_bytes(), pattern.piece(1, number, len - 8)].concat();
                sent.push(run.clock.now());
                // Lost where there is no way at the moment.
                let _ = near.send(&probe);
                let next = run.clock.now() + PROBE_EVERY;
                while run.clock.now() < next {
                    let Ok(len) = near.recv(&mut buffer) else {
                        // Also a refusal, which comes at once.
                        thread::sleep(Duration::from_millis(1));
                        continue;
                    };
                    let number = buffer[..len].first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
                    let at = number.and_then(|number| Some((number, *sent.get(usize::try_from(number).ok()?)?)));
                    let Some((number, at)) = at else {
                        return Err(Broken("a datagram arrived that was not sent".into()));
                    };
                    if pattern.check(1, number, &buffer[8..len]).is_err() {
                        return Err(Broken(format!("datagram {number} arrived with a wrong byte")));
                    }
                    run.did(Deed::Bytes, len as u64);
                    self.moves(at);
                }
            }
            Ok(())
        })
    }
}

/// Writes at one pace after another until the run is over. Returns how much it was.
fn write(run: &Run, mut socket: &TcpStream, pattern: &Pattern, rng: &mut StdRng) -> std::io::Result<u64> {
    let mut sent = 0;
    while !run.is_over() {
        let (bytes, pause) = PACES[rng.random_range(0..PACES.len())];
        let until = run.clock.now() + PACE_FOR;
        while !run.is_over() && run.clock.now() < until {
            match socket.write(pattern.piece(0, sent, bytes)) {
                Ok(written) => sent += written as u64,
                Err(error) if passes(&error) => {}
                Err(error) => return Err(error),
            }
            thread::sleep(pause);
        }
    }
    Ok(sent)
}

fn send_back(run: &Run, socket: &UdpSocket) {
    let mut buffer = [0; 2_048];
    while !run.is_over() {
        if let Ok((len, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..len], from);
        }
    }
}

/// What says only that nothing moved, or that the program was stopped meanwhile.
fn passes(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
