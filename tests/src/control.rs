//! The client's side of a control socket (<https://www.wireguard.com/xplatform/>), as far as tests ask. Tolerant where
//! implementations differ.

use ginnel_control::uapi;
use ginnel_engine::key::PublicKey;
use ipnet::IpNet;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longer than any answer takes.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// The control socket of one interface.
#[derive(Clone, Debug)]
pub struct Control(PathBuf);

/// What a device says of itself.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// UDP port.
    pub listen_port: u16,
    /// Mark of outgoing datagrams, 0 for none.
    pub fwmark: u32,
    /// Its peers.
    pub peers: Vec<PeerReport>,
}

/// One peer in a [`Report`].
#[derive(Clone, Debug)]
pub struct PeerReport {
    /// Its identity.
    pub public_key: PublicKey,
    /// Where its datagrams go.
    pub endpoint: Option<SocketAddr>,
    /// Prefixes routed to it.
    pub allowed_ips: Vec<IpNet>,
    /// The time of the last handshake as the implementation tells it: of day, or since. `None` for no handshake.
    pub handshake: Option<Duration>,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
}

impl Control {
    /// The socket of `interface`, in the place where `wg` looks.
    #[must_use]
    pub fn of(interface: &str) -> Self {
        Self(Path::new(uapi::DIRECTORY).join(format!("{interface}.sock")))
    }

    /// Whether the device answers.
    #[must_use]
    pub fn answers(&self) -> bool {
        self.ask("get=1\n\n").is_ok()
    }

    /// Changes the device: `lines` without the first and the last.
    ///
    /// # Panics
    /// Where the device refuses or does not answer.
    #[track_caller]
    pub fn set(&self, lines: &str) {
        if let Err(error) = self.try_set(lines) {
            panic!("{}: {error} to {lines}", self.0.display());
        }
    }

    /// As [`Control::set`], for changes that may be refused.
    ///
    /// # Errors
    /// The `errno` of the device as an error, or that of the socket.
    pub fn try_set(&self, lines: &str) -> io::Result<()> {
        self.ask(&format!("set=1\n{}\n\n", lines.trim_end())).map(drop)
    }

    /// What the device says of itself.
    ///
    /// # Panics
    /// Where it does not answer, or not in the words of the protocol.
    #[must_use]
    #[track_caller]
    pub fn report(&self) -> Report {
        let answer = self.ask("get=1\n\n").expect("the device answers");
        parse(&answer).unwrap_or_else(|| panic!("not an answer: {answer}"))
    }

    fn ask(&self, request: &str) -> io::Result<String> {
        let mut stream = UnixStream::connect(&self.0)?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        let mut piece = [0; 4_096];
        // Not every implementation closes the connection, so the empty line has to be looked for.
        while !answer.ends_with(b"\n\n") {
            match stream.read(&mut piece)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                len => answer.extend(&piece[..len]),
            }
        }
        let answer = String::from_utf8(answer).map_err(io::Error::other)?;
        match answer.lines().find_map(|line| line.strip_prefix("errno=")).and_then(|errno| errno.parse().ok()) {
            Some(0) => Ok(answer),
            Some(errno) => Err(io::Error::from_raw_os_error(i32::abs(errno))),
            None => Err(io::Error::other(format!("no errno in {answer:?}"))),
        }
    }
}

impl Report {
    /// The peer with this key.
    #[must_use]
    pub fn peer(&self, key: PublicKey) -> Option<&PeerReport> {
        self.peers.iter().find(|peer| peer.public_key == key)
    }
}

fn parse(answer: &str) -> Option<Report> {
    let mut report = Report::default();
    for line in answer.lines().filter(|line| !line.is_empty()) {
        let (key, value) = line.split_once('=')?;
        match key {
            "listen_port" => report.listen_port = value.parse().ok()?,
            "fwmark" => report.fwmark = value.parse().ok()?,
            "public_key" => report.peers.push(PeerReport {
                public_key: PublicKey::from_hex(value).ok()?,
                endpoint: None,
                allowed_ips: Vec::new(),
                handshake: None,
                rx_bytes: 0,
                tx_bytes: 0,
            }),
            _ => {
                if let Some(peer) = report.peers.last_mut() {
                    peer.read(key, value)?;
                }
            }
        }
    }
    Some(report)
}

impl PeerReport {
    fn read(&mut self, key: &str, value: &str) -> Option<()> {
        // No handshake is a time of zero, or none.
        let add = |handshake: Option<Duration>, time| Some(handshake.unwrap_or_default() + time);
        match key {
            "endpoint" => self.endpoint = Some(value.parse().ok()?),
            "allowed_ip" => self.allowed_ips.push(value.parse().ok()?),
            "last_handshake_time_sec" => self.handshake = add(self.handshake, Duration::from_secs(value.parse().ok()?)),
            "last_handshake_time_nsec" => {
                self.handshake =
                    add(self.handshake, Duration::from_nanos(value.parse().ok()?)).filter(|t| !t.is_zero());
            }
            "rx_bytes" => self.rx_bytes = value.parse().ok()?,
            "tx_bytes" => self.tx_bytes = value.parse().ok()?,
            _ => {}
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_understood() {
        let keys = [PublicKey([7; 32]), PublicKey([8; 32])];
        let answer = format!(
            "private_key=00\nlisten_port=51820\nfwmark=7\n\
             public_key={}\nendpoint=[2001:db8::1]:7\nallowed_ip=10.0.0.0/8\nallowed_ip=fd00::/8\n\
             last_handshake_time_sec=1\nlast_handshake_time_nsec=500000000\nrx_bytes=3\ntx_bytes=4\n\
             public_key={}\nlast_handshake_time_sec=0\nlast_handshake_time_nsec=0\nerrno=0\n\n",
            keys[0].to_hex(),
            keys[1].to_hex()
        );
        let report = parse(&answer).unwrap();
        assert_eq!((report.listen_port, report.fwmark, report.peers.len()), (51_820, 7, 2));
        let first = report.peer(keys[0]).unwrap();
        assert_eq!(first.endpoint, Some("[2001:db8::1]:7".parse().unwrap()));
        assert_eq!((first.allowed_ips.len(), first.rx_bytes, first.tx_bytes), (2, 3, 4));
        assert_eq!(first.handshake, Some(Duration::from_millis(1_500)));
        assert_eq!(report.peer(keys[1]).unwrap().handshake, None);
        assert!(parse("nonsense\n\n").is_none());
    }
}
