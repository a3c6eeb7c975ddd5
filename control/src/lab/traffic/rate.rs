//! UDP datagrams at a given rate, counted where they arrive, and the search for the highest rate that arrives.
//!
//! Datagrams leave in short bursts on a schedule that does not wait for anything, so what a tunnel cannot carry shows as
//! loss. A burst is many messages of one call (`sendmmsg`), or, as modern QUIC stacks do, one message that the kernel cuts
//! (`UDP_SEGMENT`) and merges again (`UDP_GRO`). Every datagram carries the run and its number; all its bytes are checked.

use super::{End, TrafficError};
use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, recvmsg, sendmmsg,
    setsockopt, sockopt,
};
use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Datagrams of one system call, and so of one burst: what the kernel itself takes in one poll (NAPI weight).
const BURST: usize = 64;

/// The sender sleeps so long when nothing is due: at 100,000 packets per second, bursts of 20.
const NAP: Duration = Duration::from_micros(200);

/// The receiver gives up so long after the last datagram.
const QUIET: Duration = Duration::from_millis(150);

/// Bytes of the receiver's socket buffer: a quarter of a second at a million small datagrams, so that the receiving
/// thread of this generator never is what loses them.
const RECEIVE_BUFFER: usize = 64 << 20;

/// Bytes of a message that the kernel cuts: the payload of the largest UDP datagram, less some room.
const TRAIN_BYTES_MAX: usize = 65_000;

/// Bytes at the head of a datagram: the number of the run and of the datagram.
const HEAD_BYTES: usize = 16;

/// A rate to try.
#[derive(Clone, Copy, Debug)]
pub struct RatePlan {
    /// UDP payload of a datagram in bytes, 16 to 1,400.
    pub payload_bytes: usize,
    /// Datagrams per second.
    pub per_sec: f64,
    /// For how long.
    pub time: Duration,
    /// A burst is one message that the kernel cuts into datagrams.
    pub trains: bool,
}

/// What became of it.
#[derive(Clone, Copy, Debug)]
pub struct RateReport {
    /// Datagrams that were due.
    pub planned: u64,
    /// Datagrams sent. Fewer than planned where this generator, or the machine, was too slow.
    pub sent: u64,
    /// Different datagrams received.
    pub received: u64,
    /// How long sending took.
    pub elapsed: Duration,
}

impl RateReport {
    /// The share of sent datagrams that did not arrive, 0 to 1.
    #[must_use]
    pub fn loss(&self) -> f64 {
        if self.sent == 0 { 0.0 } else { 1.0 - self.received as f64 / self.sent as f64 }
    }

    /// Datagrams received per second.
    #[must_use]
    pub fn received_per_sec(&self) -> f64 {
        self.received as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// Whether the generator could not keep to the plan: a higher rate would not be one.
    #[must_use]
    pub fn is_generator_bound(&self) -> bool {
        (self.sent as f64) < self.planned as f64 * 0.95
    }
}

/// How to search for the highest rate.
#[derive(Clone, Copy, Debug)]
pub struct SearchPlan {
    /// UDP payload of a datagram in bytes, 16 to 1,400.
    pub payload_bytes: usize,
    /// The share of datagrams that may be lost, 0 to 1.
    pub loss_max: f64,
    /// Where to begin, in datagrams per second.
    pub start_per_sec: f64,
    /// Length of one trial.
    pub trial: Duration,
    /// Halvings of the interval once it is known: 4 leave it 1/16 of an octave wide.
    pub refinements: u32,
    /// As in [`RatePlan`].
    pub trains: bool,
}

impl Default for SearchPlan {
    fn default() -> Self {
        Self {
            payload_bytes: 64,
            loss_max: 0.01,
            start_per_sec: 20_000.0,
            trial: Duration::from_millis(500),
            refinements: 4,
            trains: false,
        }
    }
}

/// What the search found.
#[derive(Clone, Debug)]
pub struct SearchReport {
    /// The best trial within the permitted loss, if any.
    pub best: Option<RateReport>,
    /// Every trial, in order.
    pub trials: Vec<RateReport>,
}

impl SearchReport {
    /// Datagrams received per second in the best trial; 0 if there was none.
    #[must_use]
    pub fn per_sec(&self) -> f64 {
        self.best.map_or(0.0, |best| best.received_per_sec())
    }
}

/// Searches for the highest rate from `sender` to `receiver` with at most the planned loss: doubles until it fails or
/// this generator is at its end, then halves the interval.
///
/// # Errors
/// [`TrafficError`] of a trial. That no rate is low enough is a result, not an error.
pub fn highest_rate(sender: &End, receiver: &End, plan: &SearchPlan) -> Result<SearchReport, TrafficError> {
    let mut report = SearchReport { best: None, trials: Vec::new() };
    let attempt = |per_sec: f64, report: &mut SearchReport| -> Result<Verdict, TrafficError> {
        let SearchPlan { payload_bytes, trial: time, trains, .. } = *plan;
        let trial = RatePlan { payload_bytes, per_sec, time, trains };
        let mut outcome = rate(sender, receiver, &trial)?;
        report.trials.push(outcome);
        if outcome.loss() > plan.loss_max {
            // A hiccup of the machine costs a percent easily; a rate that is too high fails again.
            outcome = rate(sender, receiver, &trial)?;
            report.trials.push(outcome);
        }
        if outcome.loss() > plan.loss_max {
            return Ok(Verdict::Lossy);
        }
        if report.best.is_none_or(|best| outcome.received_per_sec() > best.received_per_sec()) {
            report.best = Some(outcome);
        }
        Ok(if outcome.is_generator_bound() { Verdict::GeneratorBound } else { Verdict::Good })
    };
    let bounds = bracket(plan.start_per_sec, |per_sec| attempt(per_sec, &mut report))?;
    if let Some((mut good, mut bad)) = bounds {
        for _ in 0..plan.refinements {
            let middle = (good * bad).sqrt();
            match attempt(middle, &mut report)? {
                Verdict::Good => good = middle,
                Verdict::Lossy | Verdict::GeneratorBound => bad = middle,
            }
        }
    }
    Ok(report)
}

/// What a trial says of its rate.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Good,
    Lossy,
    GeneratorBound,
}

/// Finds a good rate and twice it that is lossy. `None` where the generator ends first or nothing is good.
fn bracket<E>(start: f64, mut attempt: impl FnMut(f64) -> Result<Verdict, E>) -> Result<Option<(f64, f64)>, E> {
    const PER_SEC_MIN: f64 = 500.0;
    const PER_SEC_MAX: f64 = 20e6;
    let mut rate = start.clamp(PER_SEC_MIN, PER_SEC_MAX);
    if attempt(rate)? == Verdict::Lossy {
        while rate > PER_SEC_MIN {
            rate /= 2.0;
            if attempt(rate)? != Verdict::Lossy {
                return Ok(Some((rate, rate * 2.0)));
            }
        }
        return Ok(None);
    }
    while rate < PER_SEC_MAX {
        rate *= 2.0;
        match attempt(rate)? {
            Verdict::Good => {}
            Verdict::Lossy => return Ok(Some((rate / 2.0, rate))),
            Verdict::GeneratorBound => return Ok(None),
        }
    }
    Ok(None)
}

/// Sends datagrams from `sender` to `receiver` as planned and counts them.
///
/// # Errors
/// [`TrafficError::CorruptDatagram`] where one arrives that was not sent like this.
pub fn rate(sender: &End, receiver: &End, plan: &RatePlan) -> Result<RateReport, TrafficError> {
    let open = |source| TrafficError::socket("open a UDP socket", source);
    let bind = |end: &End| end.netns.run_in(|| UdpSocket::bind(SocketAddr::new(end.ip, 0)));
    let far = bind(receiver)?.map_err(open)?;
    let near = bind(sender)?.map_err(open)?;
    near.connect(far.local_addr().map_err(open)?).map_err(open)?;
    far.set_read_timeout(Some(QUIET)).map_err(open)?;
    // Beyond the system's limit where the rights allow it, else up to it.
    if setsockopt(&far, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        let _ = setsockopt(&far, sockopt::RcvBuf, &RECEIVE_BUFFER);
    }
    let run = Run { number: rand::random(), payload_bytes: plan.payload_bytes.clamp(HEAD_BYTES, 1_400) };
    if plan.trains {
        let segment = i32::try_from(run.payload_bytes).unwrap_or(i32::MAX);
        setsockopt(&near, sockopt::UdpGsoSegment, &segment).map_err(|errno| open(errno.into()))?;
        setsockopt(&far, sockopt::UdpGroSegment, &true).map_err(|errno| open(errno.into()))?;
    }
    let planned = (plan.per_sec * plan.time.as_secs_f64()).max(1.0) as u64;
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let counter = scope.spawn(|| match plan.trains {
            true => run.receive_trains(&far, planned, &ended),
            false => run.receive(&far, planned, &ended),
        });
        let start = Instant::now();
        let sent = if plan.trains { run.send_trains(&near, planned, plan) } else { run.send(&near, planned, plan) };
        let elapsed = start.elapsed();
        ended.store(true, Ordering::Relaxed);
        let received = counter.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok(RateReport { planned, sent: sent?, received, elapsed })
    })
}

#[derive(Clone, Copy)]
struct Run {
    number: u64,
    payload_bytes: usize,
}

impl Run {
    fn template(self) -> Vec<u8> {
        let mut datagram = self.number.to_le_bytes().to_vec();
        datagram.extend((HEAD_BYTES - 8..self.payload_bytes).map(|place| (place * 37) as u8));
        datagram
    }

    fn send(self, socket: &UdpSocket, planned: u64, plan: &RatePlan) -> Result<u64, TrafficError> {
        let template = self.template();
        let mut datagrams = vec![template; BURST];
        let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BURST, None);
        let nowhere: [Option<SockaddrStorage>; BURST] = [None; BURST];
        let no_control: [ControlMessage<'_>; 0] = [];
        let start = Instant::now();
        let mut sent = 0;
        while sent < planned && start.elapsed() < plan.time {
            let due = (start.elapsed().as_secs_f64() * plan.per_sec) as u64 + 1;
            let burst = due.min(planned).saturating_sub(sent).min(BURST as u64) as usize;
            if burst == 0 {
                thread::sleep(NAP);
                continue;
            }
            for (number, datagram) in (sent..).zip(&mut datagrams[..burst]) {
                datagram[8..HEAD_BYTES].copy_from_slice(&number.to_le_bytes());
            }
            let slices: Vec<_> = datagrams[..burst].iter().map(|datagram| [IoSlice::new(datagram)]).collect();
            let outcome = sendmmsg(socket.as_raw_fd(), &mut headers, &slices, nowhere, no_control, MsgFlags::empty());
            match outcome {
                Ok(results) => sent += results.count() as u64,
                // A full queue: these datagrams are lost, as the kernel says without saying it elsewhere.
                Err(Errno::ENOBUFS | Errno::EAGAIN) => sent += 1,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(TrafficError::Socket { what: "send over UDP", source: errno.into() }),
            }
        }
        Ok(sent)
    }

    fn receive(self, socket: &UdpSocket, planned: u64, ended: &AtomicBool) -> Result<u64, TrafficError> {
        let template = self.template();
        let mut seen = Seen::new(planned);
        let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BURST, None);
        // One byte more than a datagram has, so that a longer one shows.
        let room = self.payload_bytes + 1;
        let mut buffers = vec![0_u8; BURST * room];
        loop {
            let mut slices: Vec<_> = buffers.chunks_mut(room).map(|buffer| [IoSliceMut::new(buffer)]).collect();
            let outcome = recvmmsg(socket.as_raw_fd(), &mut headers, &mut slices, MsgFlags::MSG_WAITFORONE, None);
            let lengths: Vec<_> = match outcome {
                Ok(results) => results.map(|datagram| datagram.bytes).collect(),
                Err(Errno::EAGAIN) if ended.load(Ordering::Relaxed) => return Ok(seen.count),
                Err(Errno::EAGAIN | Errno::EINTR) => continue,
                Err(errno) => return Err(TrafficError::Socket { what: "receive over UDP", source: errno.into() }),
            };
            for (datagram, len) in buffers.chunks(room).zip(lengths) {
                let number = self.check(&template, &datagram[..len]).ok_or(TrafficError::CorruptDatagram)?;
                if !seen.mark(number) {
                    return Err(TrafficError::CorruptDatagram);
                }
            }
        }
    }

    /// As [`Run::send`], each burst as one message.
    fn send_trains(self, socket: &UdpSocket, planned: u64, plan: &RatePlan) -> Result<u64, TrafficError> {
        // What fits one message, and the kernel's limit on its parts.
        let burst_max = (TRAIN_BYTES_MAX / self.payload_bytes).min(BURST);
        let mut train = self.template().repeat(burst_max);
        let start = Instant::now();
        let mut sent = 0;
        while sent < planned && start.elapsed() < plan.time {
            let due = (start.elapsed().as_secs_f64() * plan.per_sec) as u64 + 1;
            let burst = due.min(planned).saturating_sub(sent).min(burst_max as u64) as usize;
            if burst == 0 {
                thread::sleep(NAP);
                continue;
            }
            for (number, datagram) in (sent..).zip(train.chunks_mut(self.payload_bytes).take(burst)) {
                datagram[8..HEAD_BYTES].copy_from_slice(&number.to_le_bytes());
            }
            match socket.send(&train[..burst * self.payload_bytes]) {
                Ok(_) => sent += burst as u64,
                Err(error) => match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
                    // As above.
                    Errno::ENOBUFS | Errno::EAGAIN => sent += burst as u64,
                    Errno::EINTR => {}
                    _ => return Err(TrafficError::socket("send over UDP", error)),
                },
            }
        }
        Ok(sent)
    }

    /// As [`Run::receive`], with datagrams merged by the kernel.
    fn receive_trains(self, socket: &UdpSocket, planned: u64, ended: &AtomicBool) -> Result<u64, TrafficError> {
        let template = self.template();
        let mut seen = Seen::new(planned);
        let mut buffer = vec![0_u8; 1 << 16];
        let mut control = nix::cmsg_space!(i32);
        loop {
            let mut slices = [IoSliceMut::new(&mut buffer)];
            let outcome =
                recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::empty());
            let (bytes, segment) = match outcome {
                Ok(message) => {
                    let merged = message.cmsgs().into_iter().flatten().find_map(|message| match message {
                        ControlMessageOwned::UdpGroSegments(bytes) => usize::try_from(bytes).ok(),
                        _ => None,
                    });
                    (message.bytes, merged.unwrap_or(message.bytes))
                }
                Err(Errno::EAGAIN) if ended.load(Ordering::Relaxed) => return Ok(seen.count),
                Err(Errno::EAGAIN | Errno::EINTR) => continue,
                Err(errno) => return Err(TrafficError::Socket { what: "receive over UDP", source: errno.into() }),
            };
            for datagram in buffer[..bytes].chunks(segment.max(1)) {
                let number = self.check(&template, datagram).ok_or(TrafficError::CorruptDatagram)?;
                if !seen.mark(number) {
                    return Err(TrafficError::CorruptDatagram);
                }
            }
        }
    }

    /// The number of a datagram, if it is one of this run and intact.
    fn check(self, template: &[u8], datagram: &[u8]) -> Option<u64> {
        let intact = datagram.len() == template.len()
            && datagram[..8] == template[..8]
            && datagram[HEAD_BYTES..] == template[HEAD_BYTES..];
        intact.then(|| datagram[8..HEAD_BYTES].try_into().ok().map(u64::from_le_bytes)).flatten()
    }
}

/// Which datagrams arrived, so that none counts twice.
struct Seen {
    words: Vec<u64>,
    count: u64,
}

impl Seen {
    fn new(planned: u64) -> Self {
        Self { words: vec![0; planned.div_ceil(64) as usize], count: 0 }
    }

    /// Notes datagram `number`; `false` where no such datagram was planned.
    fn mark(&mut self, number: u64) -> bool {
        let Some(word) = usize::try_from(number / 64).ok().and_then(|index| self.words.get_mut(index)) else {
            return false;
        };
        let bit = 1 << (number % 64);
        self.count += u64::from(*word & bit == 0);
        *word |= bit;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::{Lab, LabOptions, rights_or_skip};
    use std::convert::Infallible;

    #[test]
    fn a_bare_cable_loses_nothing() {
        if !rights_or_skip() {
            return;
        }
        let lab = Lab::build(LabOptions::default()).unwrap();
        let (a, b) = (lab.nodes()[0].end(false), lab.nodes()[1].end(false));
        for trains in [false, true] {
            let plan = RatePlan { payload_bytes: 64, per_sec: 5_000.0, time: Duration::from_millis(300), trains };
            let report = rate(&a, &b, &plan).unwrap();
            assert!(report.sent > 0 && report.received == report.sent && report.loss() == 0.0, "{report:?}");
        }
    }

    #[test]
    fn damaged_and_foreign_datagrams_are_refused() {
        let run = Run { number: 77, payload_bytes: 64 };
        let mut datagram = run.template();
        datagram[8..16].copy_from_slice(&5_u64.to_le_bytes());
        assert_eq!(run.check(&run.template(), &datagram), Some(5));
        for place in [0, 16, 63] {
            let mut damaged = datagram.clone();
            damaged[place] ^= 4;
            assert_eq!(run.check(&run.template(), &damaged), None, "{place}");
        }
        assert_eq!(run.check(&run.template(), &datagram[..63]), None);
    }

    #[test]
    fn no_datagram_counts_twice() {
        let mut seen = Seen::new(100);
        assert!(seen.mark(0) && seen.mark(99) && seen.mark(99) && !seen.mark(128));
        assert_eq!(seen.count, 2);
    }

    #[test]
    fn the_interval_is_found_from_either_side() {
        let limit = |limit: f64| {
            move |rate: f64| Ok::<_, Infallible>(if rate > limit { Verdict::Lossy } else { Verdict::Good })
        };
        assert_eq!(bracket(1_000.0, limit(5_000.0)), Ok(Some((4_000.0, 8_000.0))));
        assert_eq!(bracket(16_000.0, limit(5_000.0)), Ok(Some((4_000.0, 8_000.0))));
        assert_eq!(bracket(16_000.0, limit(1.0)), Ok(None));
        assert_eq!(bracket(16_000.0, limit(1e9)), Ok(None));
        assert_eq!(bracket(1_000.0, |_| Ok::<_, Infallible>(Verdict::GeneratorBound)), Ok(None));
    }
}
