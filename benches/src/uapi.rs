//! Configuring a device over the cross-platform WireGuard control socket (`wireguard.com/xplatform`).

use ginnel_engine::key::{PrivateKey, PublicKey};
use ipnet::IpNet;
use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// A device and all its peers.
pub struct Config<'a> {
    /// Its identity.
    pub private_key: &'a PrivateKey,
    /// Its UDP port.
    pub listen_port: u16,
    /// Its peers; others go.
    pub peers: &'a [Peer],
}

/// A peer with one prefix.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Who it is.
    pub key: PublicKey,
    /// Where it is.
    pub endpoint: SocketAddr,
    /// What is behind it.
    pub allowed: IpNet,
}

impl Config<'_> {
    /// The request that makes this of a device.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::from("set=1\n");
        // Writing to a string cannot fail.
        let _ = writeln!(text, "private_key={}", self.private_key.to_hex());
        let _ = writeln!(text, "listen_port={}", self.listen_port);
        let _ = writeln!(text, "replace_peers=true");
        for peer in self.peers {
            let _ = writeln!(text, "public_key={}", peer.key.to_hex());
            let _ = writeln!(text, "endpoint={}", peer.endpoint);
            let _ = writeln!(text, "replace_allowed_ips=true");
            let _ = writeln!(text, "allowed_ip={}", peer.allowed);
        }
        text.push('\n');
        text
    }
}

/// Where the device called `interface` listens.
#[must_use]
pub fn socket_of(interface: &str) -> PathBuf {
    PathBuf::from(format!("/var/run/wireguard/{interface}.sock"))
}

/// Connects to the device called `interface`.
///
/// # Errors
/// Where nobody listens.
pub fn connect(interface: &str) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(socket_of(interface))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(stream)
}

/// Sends the configuration and reads the verdict.
///
/// # Errors
/// Where the device refuses it, or says nothing.
pub fn configure(stream: UnixStream, config: &Config<'_>) -> io::Result<()> {
    set(stream, &config.text())
}

/// Sends a whole request that is to change something, and reads the verdict.
///
/// # Errors
/// As [`configure`].
pub fn set(mut stream: UnixStream, request: &str) -> io::Result<()> {
    stream.write_all(request.as_bytes())?;
    for line in BufReader::new(stream).lines() {
        match line?.strip_prefix("errno=") {
            Some("0") => return Ok(()),
            Some(code) => return Err(io::Error::other(format!("the device refuses its configuration: errno {code}"))),
            None => {}
        }
    }
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the device gave no verdict on its configuration"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::thread;

    fn ask(verdict: &'static str) -> (io::Result<()>, String) {
        let key = PrivateKey::new([5; 32]);
        let (near, mut far) = UnixStream::pair().unwrap();
        let device = thread::spawn(move || {
            let mut text = Vec::new();
            let mut byte = [0];
            while !text.ends_with(b"\n\n") && far.read(&mut byte).unwrap() == 1 {
                text.push(byte[0]);
            }
            far.write_all(verdict.as_bytes()).unwrap();
            String::from_utf8(text).unwrap()
        });
        let config = Config {
            private_key: &key,
            listen_port: 51_820,
            peers: &[Peer {
                key: key.public(),
                endpoint: "[2001:db8::2]:7".parse().unwrap(),
                allowed: "10.0.0.2/32".parse().unwrap(),
            }],
        };
        (configure(near, &config), device.join().unwrap())
    }

    #[test]
    fn the_request_is_complete_and_the_verdict_heard() {
        let (verdict, text) = ask("errno=0\n\n");
        verdict.unwrap();
        assert!(text.starts_with("set=1\nprivate_key="), "{text}");
        assert!(
            text.contains("\nendpoint=[2001:db8::2]:7\n") && text.ends_with("\nallowed_ip=10.0.0.2/32\n\n"),
            "{text}"
        );
        assert!(ask("errno=22\n\n").0.unwrap_err().to_string().contains("22"));
        assert!(ask("").0.is_err());
    }
}
