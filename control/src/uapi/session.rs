//! One connection: requests in, answers out, in order.
//!
//! A request is an operation line, its lines, and a blank line. It is read to that blank line even where an early line
//! is wrong: the answer is then for the whole request, the next one starts where it should, and a client that is still
//! writing is not cut off. An operation nobody knows has no known end, so it closes the connection.
//!
//! Errors are sent as negative numbers, as wireguard-go does: `wg` prints the text of the error for these, and
//! "Unknown error" for positive ones.

use super::Configurable;
use super::limits::{BUFFER_BYTES, REQUEST_BYTES_MAX};
use super::lines::{Line, Lines};
use super::parse::{ParseError, SetParser};
use super::render;
use ginnel_backends::device::DeviceError;
use ginnel_engine::command::{DeviceUpdate, PrivateKeyUpdate};
use nix::errno::Errno;
use std::fmt::{self, Write as _};
use std::io::{self, Read, Write};
use std::sync::{Mutex, PoisonError};
use zeroize::Zeroizing;

/// What to do with the connection after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Read another request.
    Request,
    /// Close it: the client is done, or cannot be understood.
    Close,
}

/// A device and the order of its changes, shared by all connections.
pub struct Service<C> {
    device: C,
    /// Held from reading the identity of the device to applying an update checked against it.
    changing: Mutex<()>,
}

/// Why a request was refused.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Parse(#[from] ParseError),
    #[error("a line is longer than any that has a meaning")]
    LineTooLong,
    #[error("a request may have {REQUEST_BYTES_MAX} bytes: set fewer peers at a time")]
    RequestTooLong,
    #[error("a request broke off before its blank line: nothing was changed")]
    BrokenOff,
    #[error("get=1 takes no lines")]
    GetWithLines,
    #[error("{0:?} is no operation: ask for get=1 or set=1")]
    Operation(String),
    #[error(transparent)]
    Device(#[from] DeviceError),
}

impl Refusal {
    fn errno(&self) -> Errno {
        match self {
            Self::Parse(ParseError::NotAPair) | Self::BrokenOff | Self::Operation(_) => Errno::EPROTO,
            Self::Parse(_) | Self::GetWithLines | Self::Device(DeviceError::TooManyPeers(_)) => Errno::EINVAL,
            Self::Device(DeviceError::PortTaken { .. }) => Errno::EADDRINUSE,
            Self::LineTooLong | Self::RequestTooLong | Self::Device(_) => Errno::EIO,
        }
    }
}

impl<C: Configurable> Service<C> {
    /// A service for `device`.
    pub fn new(device: C) -> Self {
        Self { device, changing: Mutex::new(()) }
    }

    /// Reads one request from `lines` and answers it on `out`, in one piece where the answer is short.
    ///
    /// # Errors
    /// What the connection says. It is of no more use then.
    pub fn answer(&self, lines: &mut Lines<impl Read>, out: &mut impl Write) -> io::Result<Next> {
        let mut text = ChunkedText::new(out);
        let (outcome, next) = match lines.next_line()? {
            Line::End => return Ok(Next::Close),
            Line::Text(b"get=1") => (self.answer_get(lines, &mut text)?, Next::Request),
            Line::Text(b"set=1") => (self.answer_set(lines)?, Next::Request),
            Line::Text(other) => (Err(Refusal::Operation(String::from_utf8_lossy(other).into_owned())), Next::Close),
            Line::TooLong => (Err(Refusal::LineTooLong), Next::Close),
        };
        let errno = match outcome {
            Ok(()) => 0,
            Err(refusal) => {
                tracing::warn!(error = %refusal, "a request on the WireGuard control socket was refused");
                -(refusal.errno() as i32)
            }
        };
        // A formatting error can only be a failed write, which `finish` reports.
        let _ = write!(text, "errno={errno}\n\n");
        text.finish()?;
        Ok(next)
    }

    fn answer_get(
        &self,
        lines: &mut Lines<impl Read>,
        text: &mut ChunkedText<'_, impl Write>,
    ) -> io::Result<Result<(), Refusal>> {
        let body = read_body(lines, |_| Err(Refusal::GetWithLines))?;
        Ok(body.map(|()| {
            // As above: a failed write is reported at the end.
            let _ = render::device(&self.device.state(), text);
        }))
    }

    fn answer_set(&self, lines: &mut Lines<impl Read>) -> io::Result<Result<(), Refusal>> {
        let mut parser = SetParser::new(&scope_id);
        let body = read_body(lines, |line| parser.handle_line(line).map_err(Refusal::from))?;
        Ok(body.and_then(|()| self.change(parser.into_update())))
    }

    fn change(&self, mut update: DeviceUpdate) -> Result<(), Refusal> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.drop_self(&mut update);
        self.device.apply(update)?;
        Ok(())
    }

    /// A device is no peer of itself. Naming it is not an error, so that one list of peers can serve all hosts.
    fn drop_self(&self, update: &mut DeviceUpdate) {
        if update.peers.is_empty() {
            return;
        }
        let identity = match &update.private_key {
            Some(PrivateKeyUpdate::Set(key)) => Some(key.public()),
            Some(PrivateKeyUpdate::Clear) => None,
            None => self.device.state().private_key.map(|key| key.public()),
        };
        update.peers.retain(|peer| Some(peer.public_key) != identity);
    }
}

/// Reads to the blank line, giving each line to `handle` until it refuses one or a bound is passed.
fn read_body(
    lines: &mut Lines<impl Read>,
    mut handle: impl FnMut(&[u8]) -> Result<(), Refusal>,
) -> io::Result<Result<(), Refusal>> {
    let mut outcome = Ok(());
    let mut bytes = 0;
    loop {
        let step = match lines.next_line()? {
            Line::Text([]) => return Ok(outcome),
            Line::End => return Ok(Err(Refusal::BrokenOff)),
            Line::TooLong => Err(Refusal::LineTooLong),
            Line::Text(_) if outcome.is_err() => continue,
            Line::Text(line) => {
                bytes += line.len() + 1;
                if bytes > REQUEST_BYTES_MAX { Err(Refusal::RequestTooLong) } else { handle(line) }
            }
        };
        outcome = outcome.and(step);
    }
}

/// The number of an IPv6 scope written as an interface name.
fn scope_id(name: &str) -> Option<u32> {
    nix::net::if_::if_nametoindex(name).ok()
}

/// Text on its way out, in pieces of [`BUFFER_BYTES`], so that the answer of a large device is never in memory whole.
struct ChunkedText<'a, W> {
    out: &'a mut W,
    chunk: Zeroizing<Vec<u8>>,
    failure: Option<io::Error>,
}

impl<'a, W: Write> ChunkedText<'a, W> {
    fn new(out: &'a mut W) -> Self {
        Self { out, chunk: Zeroizing::new(Vec::with_capacity(BUFFER_BYTES)), failure: None }
    }

    fn finish(mut self) -> io::Result<()> {
        let _ = self.send();
        self.failure.map_or_else(|| self.out.flush(), Err)
    }

    fn send(&mut self) -> fmt::Result {
        if self.failure.is_none() {
            self.failure = self.out.write_all(&self.chunk).err();
        }
        self.chunk.clear();
        if self.failure.is_some() { Err(fmt::Error) } else { Ok(()) }
    }
}

impl<W: Write> fmt::Write for ChunkedText<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // The chunk never grows, which would leave copies of keys behind. No piece of a line is longer than a chunk.
        if self.chunk.len() + text.len() > BUFFER_BYTES {
            self.send()?;
        }
        self.chunk.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uapi::testing::{FakeDevice, hex_key};
    use ginnel_engine::key::{PrivateKey, PublicKey};
    use proptest::prelude::*;
    use std::sync::Arc;

    fn service() -> (Arc<FakeDevice>, Service<Arc<FakeDevice>>) {
        let device = Arc::new(FakeDevice::new("wg0"));
        (device.clone(), Service::new(device))
    }

    /// Everything a client that sends `input` and closes its half gets to read.
    fn converse(service: &Service<Arc<FakeDevice>>, input: impl AsRef<[u8]>) -> String {
        let mut lines = Lines::new(input.as_ref());
        let mut out = Vec::new();
        while service.answer(&mut lines, &mut out).expect("memory does not fail") == Next::Request {}
        String::from_utf8(out).expect("answers are text")
    }

    #[test]
    fn requests_are_answered_one_after_the_other() {
        let (device, service) = service();
        let answers = converse(&service, "set=1\nlisten_port=7\n\nget=1\n\nset=1\nfwmark=0x10\n\nget=1\n\n");
        assert_eq!(answers, "errno=0\n\nlisten_port=7\nerrno=0\n\nerrno=0\n\nlisten_port=7\nfwmark=16\nerrno=0\n\n");
        assert_eq!(device.updates(), 2);
        assert_eq!(converse(&service, ""), "");
    }

    #[test]
    fn a_set_is_one_update() {
        let (device, service) = service();
        let (one, two) = (hex_key(1), hex_key(2));
        let body = format!(
            "set=1\nprivate_key={}\nlisten_port=9\nreplace_peers=true\npublic_key={one}\nallowed_ip=10.0.0.0/8\n\
             public_key={two}\nremove=true\npublic_key={one}\nallowed_ip=-10.0.0.0/8\nallowed_ip=::/0\n\n",
            hex_key(3)
        );
        assert_eq!(converse(&service, body), "errno=0\n\n");
        assert_eq!(device.updates(), 1);
        let state = device.state();
        assert_eq!((state.listen_port, state.peers.len()), (9, 1));
        assert_eq!(state.peers[0].allowed_ips, ["::/0".parse().unwrap()]);
    }

    #[test]
    fn a_bad_line_anywhere_changes_nothing_and_spares_the_next_request() {
        let (device, service) = service();
        let good = format!("public_key={}\nallowed_ip=10.0.0.0/8\n", hex_key(1));
        for (bad, errno) in [
            ("listen_port=99999\n".to_owned() + &good, -22),
            (good.clone() + "allowed_ip=10.0.0.0\n" + &good, -22),
            (good.clone() + "nonsense\n", -71),
            (good.clone() + &"x".repeat(5_000) + "\n" + &good, -5),
        ] {
            let answers = converse(&service, format!("set=1\n{bad}\nget=1\n\n"));
            assert_eq!(answers, format!("errno={errno}\n\nerrno=0\n\n"), "{bad}");
        }
        assert_eq!(device.updates(), 0);
    }

    #[test]
    fn a_request_that_breaks_off_changes_nothing() {
        let (device, service) = service();
        assert_eq!(converse(&service, "set=1\nlisten_port=7\n"), "errno=-71\n\n");
        assert_eq!(converse(&service, "set=1\nlisten_port=7"), "errno=-71\n\n");
        assert_eq!(device.updates(), 0);
    }

    #[test]
    fn unknown_operations_close_the_connection() {
        let (device, service) = service();
        for operation in ["GET / HTTP/1.1\r\n", "get=2\n", "set=2\n", "\n", "\0\u{ff}\n"] {
            assert_eq!(converse(&service, format!("{operation}\nset=1\nlisten_port=7\n\n")), "errno=-71\n\n");
        }
        assert_eq!(converse(&service, "get=1\nmore\n\nget=1\n\n"), "errno=-22\n\nerrno=0\n\n");
        assert_eq!(device.updates(), 0);
    }

    #[test]
    fn device_errors_become_errnos() {
        let (device, service) = service();
        for (error, errno) in
            [(DeviceError::PortTaken { port: 7 }, -98), (DeviceError::TooManyPeers(1), -22), (DeviceError::Stopped, -5)]
        {
            device.fail_next(error);
            assert_eq!(converse(&service, "set=1\nlisten_port=7\n\n"), format!("errno={errno}\n\n"));
        }
        assert_eq!(converse(&service, "set=1\nlisten_port=7\n\n"), "errno=0\n\n");
    }

    #[test]
    fn a_device_is_not_its_own_peer() {
        let (device, service) = service();
        let own = PrivateKey::new([3; 32]).public().to_hex();
        let other = hex_key(1);
        let peers = format!("public_key={own}\nallowed_ip=10.0.0.0/8\npublic_key={other}\n");
        let keys = || device.state().peers.iter().map(|peer| peer.public_key).collect::<Vec<_>>();
        // The key of the same request counts, then the key the device has, then none.
        converse(&service, format!("set=1\nprivate_key={}\n{peers}\n", hex_key(3)));
        assert_eq!(keys(), [PublicKey([1; 32])]);
        converse(&service, format!("set=1\n{peers}\n"));
        assert_eq!(keys(), [PublicKey([1; 32])]);
        converse(&service, format!("set=1\nprivate_key={}\n{peers}\n", hex_key(0)));
        assert_eq!(keys().len(), 2);
    }

    #[test]
    fn an_endless_request_is_bounded() {
        // Sense in every line, and no blank line until after the bound.
        let line = format!("fwmark=0x{:01000}\n", 1);
        let text = format!("set=1\n{}\n", line.repeat(REQUEST_BYTES_MAX / line.len() + 10));
        let (device, service) = service();
        let mut out = Vec::new();
        let next = service.answer(&mut Lines::new(text.as_bytes()), &mut out).unwrap();
        assert_eq!((next, out.as_slice(), device.updates()), (Next::Request, &b"errno=-5\n\n"[..], 0));
    }

    #[test]
    fn an_answer_of_many_chunks_is_whole() {
        let (device, service) = service();
        let prefixes: String = (0..20_000).map(|i| format!("allowed_ip=10.{}.{}.0/24\n", i >> 8, i & 255)).collect();
        let body = format!("set=1\npublic_key={}\n{prefixes}\n", hex_key(1));
        assert_eq!(converse(&service, body), "errno=0\n\n");
        assert_eq!(device.state().peers[0].allowed_ips.len(), 20_000);
        let answer = converse(&service, "get=1\n\n");
        assert!(answer.len() > 4 * BUFFER_BYTES && answer.ends_with(&format!("{prefixes}errno=0\n\n")));
    }

    #[test]
    fn a_client_that_stops_reading_ends_its_connection_only() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (_, service) = service();
        let error = service.answer(&mut Lines::new(&b"get=1\n\n"[..]), &mut Full).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(converse(&service, "get=1\n\n"), "errno=0\n\n");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_bytes_are_answered_without_panic(
            pieces in proptest::collection::vec(
                prop_oneof![
                    proptest::collection::vec(any::<u8>(), 0..50),
                    Just(b"set=1\n".to_vec()),
                    Just(b"get=1\n".to_vec()),
                    Just(b"\n".to_vec()),
                    Just(format!("public_key={}\n", hex_key(1)).into_bytes()),
                    Just(b"allowed_ip=10.0.0.0/8\n".to_vec()),
                    Just(b"replace_peers=true\n".to_vec()),
                ],
                0..30,
            ),
        ) {
            let answers = converse(&service().1, pieces.concat());
            prop_assert!(answers.is_empty() || answers.ends_with("\n\n"));
        }

        #[test]
        fn what_get_prints_set_reads(
            peers in proptest::collection::btree_map(any::<[u8; 32]>(), (
                any::<[u8; 32]>(),
                proptest::option::of(any::<std::net::SocketAddr>()),
                any::<u16>(),
                proptest::collection::btree_set((any::<u32>(), 0_u8..=32), 0..5),
            ), 0..5),
            port: u16,
            fwmark: u32,
        ) {
            let (device, first) = service();
            let mut text = format!("set=1\nlisten_port={port}\nfwmark={fwmark}\n");
            for (key, (preshared_key, endpoint, keepalive, prefixes)) in &peers {
                text += &format!("public_key={}\n", PublicKey(*key).to_hex());
                text += &format!("preshared_key={}\n", PublicKey(*preshared_key).to_hex());
                text += &format!("persistent_keepalive_interval={keepalive}\n");
                text.extend(endpoint.map(|endpoint| format!("endpoint={endpoint}\n")));
                text.extend(prefixes.iter().map(|&(address, length)| {
                    format!("allowed_ip={}/{length}\n", std::net::Ipv4Addr::from(address))
                }));
            }
            prop_assert_eq!(converse(&first, text + "\n"), "errno=0\n\n");
            prop_assert_eq!(device.state().peers.len(), peers.len());

            // The counters are no settings; everything else goes back in as it came out.
            let printed = converse(&first, "get=1\n\n");
            let settings: String = printed
                .lines()
                .filter(|line| !["last_", "tx_", "rx_", "errno="].iter().any(|counter| line.starts_with(counter)))
                .filter(|line| !line.is_empty())
                .map(|line| format!("{line}\n"))
                .collect();
            let (_, second) = service();
            prop_assert_eq!(converse(&second, format!("set=1\n{settings}\n")), "errno=0\n\n");
            prop_assert_eq!(converse(&second, "get=1\n\n"), printed);
        }
    }
}
