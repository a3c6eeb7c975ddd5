//! What a name server is told, and its limits.

use super::name::{NameFault, canonical};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Zones whose names are never asked of anybody else: `local` is not for name servers outside (RFC 6762, section 22.1),
/// `internal` is kept for private use.
pub const DEFAULT_ZONES: [&str; 2] = ["internal", "local"];

/// Seconds an answer may be remembered: long enough that a busy client does not ask for each connection, short enough that
/// a container that moved is found.
pub const DEFAULT_TTL_SECS: u32 = 5;

/// Seconds it may be remembered that there is nothing: whoever waits for a name asks again soon.
pub const DEFAULT_NEGATIVE_TTL_SECS: u32 = 1;

/// What a name server goes by.
#[derive(Clone, Debug)]
pub struct DnsConfig {
    /// Zones answered from the records alone, as [`canonical`](super::canonical) names.
    pub zones: Vec<String>,
    /// Domains in which a name of one label is looked for, for every client.
    pub search: Vec<String>,
    /// Servers for all other names. Without any, those of `resolv_conf`.
    pub upstreams: Vec<SocketAddr>,
    /// Servers for the names below a domain, the longest domain first.
    pub split: Vec<(String, Vec<SocketAddr>)>,
    /// Records besides those that are registered.
    pub records: Vec<StaticRecord>,
    /// Seconds an answer may be remembered.
    pub ttl_secs: u32,
    /// Seconds it may be remembered that there is nothing.
    pub negative_ttl_secs: u32,
    /// Where upstreams are read from, and read again when it changes.
    pub resolv_conf: PathBuf,
}

impl Default for DnsConfig {
    fn default() -> Self {
        Self {
            zones: DEFAULT_ZONES.map(str::to_owned).to_vec(),
            search: Vec::new(),
            upstreams: Vec::new(),
            split: Vec::new(),
            records: Vec::new(),
            ttl_secs: DEFAULT_TTL_SECS,
            negative_ttl_secs: DEFAULT_NEGATIVE_TTL_SECS,
            resolv_conf: "/etc/resolv.conf".into(),
        }
    }
}

/// A record that an operator wrote down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticRecord {
    /// Whose it is.
    pub name: String,
    /// What it says.
    pub data: StaticData,
}

/// What a [`StaticRecord`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StaticData {
    /// Where a service is (RFC 2782).
    Service {
        /// Lower is tried first.
        priority: u16,
        /// Share among those of one priority.
        weight: u16,
        /// Its port.
        port: u16,
        /// The name of its host.
        target: String,
    },
    /// Text, in pieces of up to 255 bytes.
    Text(Vec<String>),
}

impl StaticRecord {
    /// Reads `name SRV priority weight port target` or `name TXT text`.
    ///
    /// # Errors
    /// [`NameFault`] says what is expected.
    pub fn parse(line: &str) -> Result<Self, NameFault> {
        let form = NameFault("it is `name SRV priority weight port target` or `name TXT text`");
        let mut words = line.splitn(3, char::is_whitespace);
        let (Some(name), Some(kind), Some(rest)) = (words.next(), words.next(), words.next()) else { return Err(form) };
        let data = match kind {
            "SRV" => {
                let fields: Vec<_> = rest.split_whitespace().collect();
                let [priority, weight, port, target] = fields[..] else { return Err(form) };
                let number = |text: &str| text.parse().map_err(|_| NameFault("its numbers go up to 65535"));
                let (priority, weight, port) = (number(priority)?, number(weight)?, number(port)?);
                StaticData::Service { priority, weight, port, target: canonical(target)? }
            }
            "TXT" => {
                let text = rest.trim().trim_matches('"');
                if text.len() > TEXT_BYTES_MAX || text.contains(char::is_control) {
                    return Err(NameFault("its text has up to 1024 bytes, all of them visible"));
                }
                StaticData::Text(pieces(text))
            }
            _ => return Err(form),
        };
        Ok(Self { name: canonical(name)?, data })
    }
}

/// Cuts a text into what one character string holds (RFC 1035, section 3.3).
fn pieces(text: &str) -> Vec<String> {
    let (mut pieces, mut rest) = (Vec::new(), text);
    while rest.len() > 255 {
        let (piece, left) = rest.split_at(rest.floor_char_boundary(255));
        pieces.push(piece.to_owned());
        rest = left;
    }
    pieces.push(rest.to_owned());
    pieces
}

/// Text of one record: what fits into a datagram.
const TEXT_BYTES_MAX: usize = 1_024;

/// Largest answer in a datagram: passes every link of 1,280 bytes unfragmented (DNS flag day 2020; RFC 9715).
pub(super) const DATAGRAM_BYTES_MAX: u16 = 1_232;

/// Largest query taken from a datagram. They have about a hundred bytes; what is longer reads as malformed.
pub(super) const QUERY_BYTES_MAX: usize = 4_096;

/// Queries answered in a row before other tasks have their turn.
pub(super) const BURST: usize = 64;

/// Queries of all clients that wait for an upstream; more are answered with SERVFAIL. Each holds a few KiB.
pub(super) const FORWARDED_MAX: usize = 1_024;

/// TCP connections at once, and of one client.
pub(super) const CONNECTIONS_MAX: usize = 256;
pub(super) const CONNECTIONS_OF_CLIENT_MAX: usize = 16;

/// Queries of one connection that wait for an upstream (RFC 7766, section 6.2.1.1: answers may overtake each other).
pub(super) const PIPELINED_MAX: usize = 32;

/// How long a connection may say nothing (RFC 7766, section 6.2.3: a few seconds), or take nothing.
pub(super) const IDLE_TIME: Duration = Duration::from_secs(10);

/// Refusals per second, to all strangers together: enough to be understood, too few to be of use to whoever forges sources.
pub(super) const REFUSALS_MAX: u32 = 50;

/// How long one upstream may take, and how many are asked for one query: together less than the 5 s after which a resolver
/// in a container asks again.
pub(super) const UPSTREAM_TIME: Duration = Duration::from_millis(1_500);
pub(super) const TRIES_MAX: usize = 3;

/// How long an upstream that did not answer is asked after the others.
pub(super) const UPSTREAM_REST: Duration = Duration::from_secs(10);

/// Answers of upstreams that are remembered, the largest of them, and for how long: at most 16 MiB together, and 2 of the
/// usual kind.
pub(super) const CACHED_MAX: usize = 8_192;
pub(super) const CACHED_BYTES_MAX: usize = 2_048;
pub(super) const CACHED_SECS_MAX: u32 = 3_600;

/// For how long it is remembered that there is nothing (RFC 2308, section 5: one to three hours at most), and that no
/// upstream answered (RFC 9520, section 3.2: at least a second).
pub(super) const CACHED_NEGATIVE_SECS_MAX: u32 = 300;
pub(super) const CACHED_FAILURE_SECS: u32 = 1;

/// How often listeners that could not be had are tried again and `resolv.conf` is looked at.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_or_refused() {
        let record = StaticRecord::parse("_http._tcp.Web.local SRV 1 2 8080 web.local.").unwrap();
        let data = StaticData::Service { priority: 1, weight: 2, port: 8_080, target: "web.local".into() };
        assert_eq!(record, StaticRecord { name: "_http._tcp.web.local".into(), data });
        let long = "ä".repeat(200);
        let record = StaticRecord::parse(&format!("a.local TXT \"{long} v=1\"")).unwrap();
        let StaticData::Text(pieces) = record.data else { panic!("no text") };
        assert_eq!(pieces.iter().map(String::len).collect::<Vec<_>>(), [254, 150]);
        for bad in
            ["", "a", "a SRV 1 2 3", "a SRV 1 2 70000 b", "a SRV 1 2 3 -b", "a A 10.0.0.1", "-a TXT x", "a TXT x\ty"]
        {
            assert!(StaticRecord::parse(bad).is_err(), "{bad}");
        }
    }
}
