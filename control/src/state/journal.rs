//! The bytes of the journal: how a line is written, and what a file full of them says. No file is touched here.
//!
//! Reading never fails: [`read_journal`] takes any bytes and tells what was in them.

use super::record::{Key, Object, Transaction};
use super::report::Span;
use super::tables::Tables;
use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;
use std::borrow::Cow;
use std::hash::Hasher;
use std::ops::RangeInclusive;

/// Version of the schema written here. A file of a greater one is left alone.
pub const VERSION: u32 = 1;

/// What a header calls itself.
const FORMAT: &str = "ginnel-state";

/// Hexadecimal digits of a checksum.
const DIGITS: usize = 16;

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Header<'a> {
    format: Cow<'a, str>,
    version: u32,
    /// Of the store, drawn when it was made.
    id: Cow<'a, str>,
    /// Number of the last line that was there before the file got its name: those lines cannot be a torn tail.
    snapshot: u64,
}

/// Any other line, as it is written.
#[derive(Serialize)]
struct Written<'a> {
    n: u64,
    after: u64,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    put: &'a [Object],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    del: &'a [Key],
}

/// The same, as it is read.
#[derive(Deserialize)]
struct Line {
    #[serde(rename = "n")]
    number: u64,
    after: u64,
    #[serde(default, rename = "put")]
    puts: Vec<Object>,
    #[serde(default, rename = "del")]
    deletions: Vec<Key>,
}

/// What a file says.
#[derive(Debug)]
pub struct Reading {
    /// The id of the store; `None` where the header cannot be read.
    pub id: Option<String>,
    /// The objects, as far as they can be told.
    pub tables: Tables,
    /// Number of the last transaction, lost ones included.
    pub last: u64,
    /// Transactions that were read.
    pub transactions: u64,
    /// The state of the file.
    pub verdict: Verdict,
}

/// Whether a file is what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every byte.
    Sound,
    /// The file ends in something that was never confirmed. What counts are the first `length` bytes.
    Torn {
        /// Bytes before the tail.
        length: u64,
        /// Bytes of the tail.
        bytes: u64,
        /// Whole transactions in it.
        transactions: u64,
    },
    /// Something that was confirmed is missing.
    Damaged {
        /// Bytes that say nothing.
        spans: Vec<Span>,
        /// Numbers of the transactions that are lost; the last range may be longer than is known.
        lost: Vec<RangeInclusive<u64>>,
    },
    /// A later version wrote it; nothing was read.
    Newer {
        /// Its version.
        version: u32,
    },
}

/// Appends the first line of a file to `text`.
pub(super) fn write_header(text: &mut Vec<u8>, id: &str, snapshot: u64) {
    let header = Header { format: FORMAT.into(), version: VERSION, id: id.into(), snapshot };
    write_line(text, &header);
}

/// Appends the line of a transaction.
pub(super) fn write_transaction(text: &mut Vec<u8>, number: u64, after: u64, transaction: &Transaction) {
    let Transaction { puts, deletions } = transaction;
    write_line(text, &Written { n: number, after, put: puts, del: deletions });
}

/// Appends a whole file that says what `tables` do. Returns the number of its last line.
pub(crate) fn write_snapshot(text: &mut Vec<u8>, id: &str, tables: &Tables) -> u64 {
    let count = tables.len() as u64;
    write_header(text, id, count);
    // One object a line, so that damage to a line costs one object.
    for (n, object) in (1..).zip(tables.iter()) {
        write_line(text, &Written { n, after: 0, put: std::slice::from_ref(object), del: &[] });
    }
    count
}

fn write_line(text: &mut Vec<u8>, content: &impl Serialize) {
    let start = text.len();
    text.extend_from_slice(&[b' '; DIGITS + 1]);
    // The types written have string keys only and the vector does not fail, so nothing can go wrong here.
    if serde_json::to_writer(&mut *text, content).is_err() {
        debug_assert!(false, "records are plain data");
    }
    let sum = checksum(&text[start + DIGITS + 1..]);
    text[start..start + DIGITS].copy_from_slice(sum.as_bytes());
    text.push(b'\n');
}

/// The checksum of any content: SipHash with a zero key, 64 bits that any change of the content changes, but for one chance in 2⁶⁴. It guards against
/// accidents; whoever can write the file needs no collision.
pub(crate) fn checksum(content: &[u8]) -> String {
    let mut hasher = SipHasher13::new_with_keys(0, 0);
    hasher.write(content);
    format!("{:016x}", hasher.finish())
}

/// The content of a line, if its checksum fits.
fn content(line: &[u8]) -> Option<&[u8]> {
    let (sum, content) = line.split_at_checked(DIGITS)?;
    let content = content.strip_prefix(b" ")?;
    (sum == checksum(content).as_bytes()).then_some(content)
}

/// Reads a whole file.
#[must_use]
pub fn read_journal(bytes: &[u8]) -> Reading {
    let mut lines = Lines { bytes, offset: 0 };
    let first = lines.next();
    let header = first.and_then(|(_, line)| serde_json::from_slice::<Header<'_>>(content(line)?).ok());
    let header = header.filter(|header| header.format == FORMAT);
    if let Some(version) = header.as_ref().map(|header| header.version).filter(|version| *version > VERSION) {
        let verdict = Verdict::Newer { version };
        return Reading { id: None, tables: Tables::default(), last: 0, transactions: 0, verdict };
    }
    if header.is_none() {
        // What stands in its place may be a transaction.
        lines.offset = 0;
    }
    let mut scan = Scan { confirmed: header.as_ref().map_or(0, |header| header.snapshot), ..Scan::default() };
    for (span, line) in lines {
        let line = content(line).and_then(|content| serde_json::from_slice::<Line>(content).ok());
        scan.take(span, line);
    }
    scan.end(bytes.len() as u64, header.map(|header| header.id.into_owned()))
}

/// What has been seen of a file.
#[derive(Default)]
struct Scan {
    lines: Vec<(u64, Line)>,
    /// Number of the last line.
    last: u64,
    /// Number of the last line known to have been on disk before something else was written.
    confirmed: u64,
    spans: Vec<Span>,
    lost: Vec<RangeInclusive<u64>>,
    /// Number and place of the first line that is not there.
    gap: Option<(u64, u64)>,
}

impl Scan {
    fn take(&mut self, span: Span, line: Option<Line>) {
        let line = line.filter(|line| line.number > self.last);
        if line.as_ref().is_none_or(|line| line.number != self.last + 1) {
            self.gap.get_or_insert((self.last + 1, span.offset));
        }
        let Some(line) = line else {
            match self.spans.last_mut() {
                Some(before) if before.offset + before.bytes == span.offset => before.bytes += span.bytes,
                _ => self.spans.push(span),
            }
            return;
        };
        if line.number != self.last + 1 {
            self.lost.push(self.last + 1..=line.number - 1);
        }
        self.last = line.number;
        self.confirmed = self.confirmed.max(line.after);
        self.lines.push((span.offset, line));
    }

    fn end(mut self, length: u64, id: Option<String>) -> Reading {
        if self.last < self.confirmed {
            self.gap.get_or_insert((self.last + 1, length));
            self.lost.push(self.last + 1..=self.confirmed);
            self.last = self.confirmed;
        }
        // A file gets its name after its header is on disk, so one without a header is no torn tail.
        let verdict = match self.gap {
            _ if id.is_none() => Verdict::Damaged { spans: self.spans, lost: self.lost },
            Some((number, _)) if number <= self.confirmed => Verdict::Damaged { spans: self.spans, lost: self.lost },
            Some((number, offset)) => {
                let all = self.lines.len();
                self.lines.retain(|(at, _)| *at < offset);
                self.last = number - 1;
                let transactions = (all - self.lines.len()) as u64;
                Verdict::Torn { length: offset, bytes: length - offset, transactions }
            }
            None => Verdict::Sound,
        };
        let transactions = self.lines.len() as u64;
        let mut tables = Tables::default();
        for (_, Line { puts, deletions, .. }) in self.lines {
            tables.apply(Transaction { puts, deletions });
        }
        Reading { id, tables, last: self.last, transactions, verdict }
    }
}

/// The lines of a file with their places; the last may lack its end.
struct Lines<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Iterator for Lines<'a> {
    type Item = (Span, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.bytes.get(self.offset..).filter(|rest| !rest.is_empty())?;
        let end = rest.iter().position(|byte| *byte == b'\n');
        let length = end.map_or(rest.len(), |end| end + 1);
        let span = Span { offset: self.offset as u64, bytes: length as u64 };
        self.offset += length;
        // A line without its end is not whole, even where all that shows is right.
        Some((span, end.map_or(&[][..], |end| &rest[..end])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::wire::{AttachHandle, NatConfigSpec, OverlayMode, PortProtocol, PublishedPort, Secret};
    use crate::state::{
        Attachment, Bridge, GlobalOverlay, Identity, Kind, Lease, Name, Network, Peer, Scope, Seal, Service, Settings,
        Sysctls,
    };
    use ginnel_engine::key::PublicKey;

    /// One object of each kind, with every field set.
    fn objects() -> Vec<Object> {
        let key = PublicKey([9; 32]);
        let ip = "10.200.187.130".parse().unwrap();
        let subnet = "10.200.187.128/26".parse().unwrap();
        let text = str::to_owned;
        let secret = || Secret::new("c2VjcmV0".into());
        let handle = AttachHandle::GuestManaged { id: "vm 1".into() };
        vec![
            Settings { node_id: Some(u64::MAX), advertised_key: Some(text("k")) }.into(),
            GlobalOverlay {
                deployment: text("prod"),
                instance_id: text("0"),
                cluster: "fd00::/48".parse().unwrap(),
                slice: "fd00:0:0:5::/64".parse().ok(),
                port: 0,
                chosen_port: Some(40_000),
                up: true,
                nat: Some(NatConfigSpec { enabled: true, ..NatConfigSpec::default() }),
            }
            .into(),
            Identity {
                service: text("pay"),
                private_key: secret(),
                public_key: key,
                port: 51421,
                interface: text("zl-prod-0-pay-d"),
                subnet,
            }
            .into(),
            Seal { known: vec![text("c0ffee")] }.into(),
            Service { service: text("web"), mode: OverlayMode::Isolated, bridge: text("zl-prod-0-web-b") }.into(),
            Bridge { bridge: text("zl-prod-0-web-b"), subnet_of: text("web"), node_id: 0, subnet, gateway: ip }.into(),
            Peer {
                scope: Scope::Service(text("pay")),
                public_key: key,
                endpoint: Some(text("host:1")),
                keepalive_secs: 25,
                allowed_ips: vec![subnet],
                preshared_key: Some(secret()),
            }
            .into(),
            Lease { ip, owner: text("o"), generation: u64::MAX, given_ms: 2, released_ms: Some(1) }.into(),
            Attachment {
                handle,
                service: text("web"),
                owner: Some(text("o")),
                ip,
                global_ip: Some(ip),
                started_ticks: Some(7),
                netns: Some(4_026_531_840),
                netns_path: Some(text("/run/netns/x")),
                links: vec![text("veth-7-s")],
                ephemeral: true,
                isolation_network: Some(text("n")),
                dns_server: Some(ip),
                dns_domain: Some(text("prod.local")),
                publish: vec![PublishedPort {
                    host_port: 8080,
                    container_port: 80,
                    protocol: PortProtocol::Udp,
                    host_ip: Some(ip),
                }],
                guest_key: Some(secret()),
                since_ms: 3,
            }
            .into(),
            Name { name: text("web.prod.local"), addresses: vec![ip, "fd00::1".parse().unwrap()] }.into(),
            Sysctls {
                ledger: serde_json::from_str(
                    r#"{"records":[{"name":"ipv4/ip_forward","previous":"0","written":"1"}]}"#,
                )
                .unwrap(),
            }
            .into(),
            Network { network: text("red"), members: [ip].into() }.into(),
        ]
    }

    #[test]
    fn every_kind_is_written_and_read_unchanged_and_shows_no_secret() {
        let objects = objects();
        let kinds: Vec<_> = objects.iter().map(|object| object.key().kind).collect();
        assert_eq!(
            {
                let mut sorted = kinds.clone();
                sorted.sort();
                sorted
            },
            Kind::ALL
        );
        let mut tables = Tables::default();
        tables.apply(Transaction { puts: objects.clone(), deletions: Vec::new() });
        let mut text = Vec::new();
        assert_eq!(write_snapshot(&mut text, "id", &tables), objects.len() as u64);
        let reading = read_journal(&text);
        assert_eq!((&reading.tables, reading.verdict, reading.id.as_deref()), (&tables, Verdict::Sound, Some("id")));
        assert!(Kind::ALL.iter().all(|kind| reading.tables.count(*kind) == 1));
        assert!(!format!("{objects:?}").contains("c2VjcmV0"));
        for key in objects.iter().map(Object::key) {
            tables.apply(Transaction { puts: Vec::new(), deletions: vec![key] });
        }
        assert!(tables.is_empty());
    }

    /// What is on disk at some user's must be readable for ever.
    #[test]
    fn the_words_of_version_1() {
        let mut text = Vec::new();
        write_header(&mut text, "c0ffee", 0);
        write_transaction(
            &mut text,
            1,
            0,
            &Transaction { puts: objects(), deletions: vec![Key { kind: Kind::Lease, id: "10.0.0.1".into() }] },
        );
        let text = String::from_utf8(text).unwrap();
        let key = "CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=";
        let expected = [
            r#"{"format":"ginnel-state","version":1,"id":"c0ffee","snapshot":0}"#.to_owned(),
            [
                r#"{"n":1,"after":0,"put":[{"settings":{"node_id":18446744073709551615,"advertised_key":"k"}},"#,
                r#"{"global_overlay":{"deployment":"prod","instance_id":"0","cluster":"fd00::/48","slice":"fd00:0:0:5::/64","port":0,"chosen_port":40000,"up":true,"nat":{"enabled":true,"stun_servers":[],"turn_servers":[],"hole_punch_timeout_secs":0,"stun_refresh_interval_secs":0,"max_candidate_pairs":0}}},"#,
                &format!(r#"{{"identity":{{"service":"pay","private_key":"c2VjcmV0","public_key":"{key}","port":51421,"interface":"zl-prod-0-pay-d","subnet":"10.200.187.128/26"}}}},"#),
                r#"{"seal":{"known":["c0ffee"]}},"#,
                r#"{"service":{"service":"web","mode":"isolated","bridge":"zl-prod-0-web-b"}},"#,
                r#"{"bridge":{"bridge":"zl-prod-0-web-b","subnet_of":"web","node_id":0,"subnet":"10.200.187.128/26","gateway":"10.200.187.130"}},"#,
                &format!(r#"{{"peer":{{"scope":{{"service":"pay"}},"public_key":"{key}","endpoint":"host:1","keepalive_secs":25,"allowed_ips":["10.200.187.128/26"],"preshared_key":"c2VjcmV0"}}}},"#),
                r#"{"lease":{"ip":"10.200.187.130","owner":"o","generation":18446744073709551615,"given_ms":2,"released_ms":1}},"#,
                r#"{"attachment":{"handle":{"platform":"guest_managed","id":"vm 1"},"service":"web","owner":"o","ip":"10.200.187.130","global_ip":"10.200.187.130","started_ticks":7,"netns":4026531840,"netns_path":"/run/netns/x","links":["veth-7-s"],"ephemeral":true,"isolation_network":"n","dns_server":"10.200.187.130","dns_domain":"prod.local","publish":[{"host_port":8080,"container_port":80,"protocol":"udp","host_ip":"10.200.187.130"}],"guest_key":"c2VjcmV0","since_ms":3}},"#,
                r#"{"name":{"name":"web.prod.local","addresses":["10.200.187.130","fd00::1"]}},"#,
                r#"{"sysctls":{"ledger":{"records":[{"name":"ipv4/ip_forward","previous":"0","written":"1"}]}}},"#,
                r#"{"network":{"network":"red","members":["10.200.187.130"]}}],"#,
                r#""del":[{"kind":"lease","id":"10.0.0.1"}]}"#,
            ]
            .concat(),
        ];
        let contents: Vec<_> = text.lines().map(|line| &line[DIGITS + 1..]).collect();
        assert_eq!(contents, expected);
        assert_eq!(text.lines().next().unwrap()[..DIGITS], checksum(expected[0].as_bytes()));
    }
}
