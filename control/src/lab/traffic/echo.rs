//! Round trips: one datagram at a time, answered by the far end, timed by the near one.

use super::{End, TrafficError, is_timeout};
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Payload of a probe: an 8-byte number and filler, as large as an `ICMP echo` of the usual `ping`.
const PROBE_BYTES: usize = 56;

/// A probe that has not come back by then is lost. Far above any round trip of a laboratory.
const LOST_AFTER: Duration = Duration::from_millis(500);

/// How to measure round trips.
#[derive(Clone, Copy, Debug)]
pub struct EchoPlan {
    /// Probes to send, at least 1.
    pub count: u32,
    /// Stop after this time at the latest.
    pub time_max: Duration,
}

/// Round trips measured.
#[derive(Clone, Copy, Debug)]
pub struct EchoReport {
    /// Probes sent.
    pub sent: u32,
    /// Probes that did not come back.
    pub lost: u32,
    /// Shortest round trip.
    pub min: Duration,
    /// Half of the round trips took at most this.
    pub p50: Duration,
    /// 99 of 100 round trips took at most this.
    pub p99: Duration,
}

/// Measures round trips from `near` to `far`.
///
/// # Errors
/// [`TrafficError::Unreachable`] where no probe came back.
pub fn echo(near: &End, far: &End, plan: &EchoPlan) -> Result<EchoReport, TrafficError> {
    with_server(near, far, |socket| {
        let start = Instant::now();
        let mut times = Vec::with_capacity(plan.count as usize);
        let mut sent = 0;
        while sent < plan.count.max(1) && (sent == 0 || start.elapsed() < plan.time_max) {
            times.extend(probe(socket, sent.into(), LOST_AFTER)?);
            sent += 1;
        }
        times.sort_unstable();
        let at = |percent: usize| times.get((times.len() * percent).div_ceil(100).saturating_sub(1)).copied();
        let (Some(min), Some(p50), Some(p99)) = (at(0), at(50), at(99)) else {
            return Err(TrafficError::Unreachable { to: far.ip, waited: start.elapsed() });
        };
        let lost = sent - u32::try_from(times.len()).unwrap_or(sent);
        Ok(EchoReport { sent, lost, min, p50, p99 })
    })
}

/// Waits until a datagram from `near` to `far` and back arrives, and returns how long that took. The probes also make a
/// tunnel in between start its handshake.
///
/// # Errors
/// [`TrafficError::Unreachable`] where none came back within `time_max`.
pub fn wait_reachable(near: &End, far: &End, time_max: Duration) -> Result<Duration, TrafficError> {
    with_server(near, far, |socket| {
        let start = Instant::now();
        let mut number = 0;
        while start.elapsed() < time_max {
            let tried = Instant::now();
            if probe(socket, number, Duration::from_millis(100))?.is_some() {
                return Ok(start.elapsed());
            }
            number += 1;
            // A refused probe comes back at once.
            thread::sleep(Duration::from_millis(50).saturating_sub(tried.elapsed()));
        }
        Err(TrafficError::Unreachable { to: far.ip, waited: start.elapsed() })
    })
}

fn with_server<T>(
    near: &End,
    far: &End,
    work: impl FnOnce(&UdpSocket) -> Result<T, TrafficError>,
) -> Result<T, TrafficError> {
    let open = |source| TrafficError::socket("open a UDP socket", source);
    let bind = |end: &End| end.netns.run_in(|| UdpSocket::bind(SocketAddr::new(end.ip, 0)));
    let server = bind(far)?.map_err(open)?;
    let client = bind(near)?.map_err(open)?;
    client.connect(server.local_addr().map_err(open)?).map_err(open)?;
    server.set_read_timeout(Some(Duration::from_millis(20))).map_err(open)?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| answer(&server, &stop));
        let outcome = work(&client);
        stop.store(true, Ordering::Relaxed);
        outcome
    })
}

/// Sends everything back until told to stop. Errors are a lost probe, which the client sees.
fn answer(socket: &UdpSocket, stop: &AtomicBool) {
    let mut buffer = [0; 2_048];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((len, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..len], from);
        }
    }
}

/// Sends one probe; `None` where it did not come back within `time_max`.
fn probe(socket: &UdpSocket, number: u64, time_max: Duration) -> Result<Option<Duration>, TrafficError> {
    let mut packet = [0xa5; PROBE_BYTES];
    packet[..8].copy_from_slice(&number.to_le_bytes());
    let start = Instant::now();
    // A route or a tunnel that is not there yet refuses the datagram: lost, not failed.
    if socket.send(&packet).is_err() {
        return Ok(None);
    }
    let mut buffer = [0; 2_048];
    loop {
        let Some(left) = time_max.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) else {
            return Ok(None);
        };
        socket.set_read_timeout(Some(left)).map_err(|source| TrafficError::socket("set a timeout", source))?;
        match socket.recv(&mut buffer) {
            Ok(len) if buffer[..len] == packet => return Ok(Some(start.elapsed())),
            // A late answer to an earlier probe differs in its number only.
            Ok(len) if len == PROBE_BYTES && buffer[8..len] == packet[8..] => {}
            Ok(_) => return Err(TrafficError::CorruptDatagram),
            Err(error) if is_timeout(&error) => return Ok(None),
            // An earlier datagram was refused by the far host.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => return Ok(None),
            Err(source) => return Err(TrafficError::Socket { what: "receive over UDP", source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Netns;
    use crate::lab::{Lab, LabOptions, rights_or_skip};

    #[test]
    fn round_trips_are_ordered_and_complete() {
        if !rights_or_skip() {
            return;
        }
        let lab = Lab::build(LabOptions::default()).unwrap();
        let (a, b) = (lab.nodes()[0].end(true), lab.nodes()[1].end(true));
        wait_reachable(&a, &b, Duration::from_secs(5)).unwrap();
        let report = echo(&a, &b, &EchoPlan { count: 200, time_max: Duration::from_secs(10) }).unwrap();
        assert_eq!((report.sent, report.lost), (200, 0));
        assert!(Duration::ZERO < report.min && report.min <= report.p50 && report.p50 <= report.p99, "{report:?}");
    }

    #[test]
    fn a_missing_end_is_named() {
        if !rights_or_skip() {
            return;
        }
        let lab = Lab::build(LabOptions::default()).unwrap();
        let a = lab.nodes()[0].end(false);
        // The server's socket is in a namespace of its own, so its address is not on the cable.
        let far = End { netns: Netns::create().unwrap(), ip: "127.0.0.1".parse().unwrap() };
        far.netns.bring_lo_up().unwrap();
        // Another one than that of the far end: the near socket may have the same port, and would hear itself.
        let near = End { ip: "127.0.0.2".parse().unwrap(), ..a };
        let error = wait_reachable(&near, &far, Duration::from_millis(200));
        assert!(matches!(error, Err(TrafficError::Unreachable { .. })), "{error:?}");
    }
}
