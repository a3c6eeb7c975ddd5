//! Datagrams of a client into the name server, with records of every kind and no upstream.
//!
//! The first byte says whether the client is one of ours.

use ginnel_control::dns::{DnsConfig, DnsServer, StaticRecord};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::LazyLock;

/// Bytes of the header of a message (RFC 1035, section 4.1.1).
const HEADER_BYTES: usize = 12;

/// One for all inputs: what it answers does not depend on what it was asked before.
static SERVER: LazyLock<DnsServer> = LazyLock::new(|| {
    let record = |line| StaticRecord::parse(line).expect("a record of a target is well formed");
    let config = DnsConfig {
        search: vec!["prod.internal".into()],
        records: vec![record("_web._tcp.internal SRV 1 2 80 web.internal"), record("note.internal TXT \"some words\"")],
        resolv_conf: "/dev/null".into(),
        ..DnsConfig::default()
    };
    let server = DnsServer::start(&config).expect("a thread and descriptors are left");
    let records = server.records();
    for (name, ip) in [("web.internal", "10.200.0.2"), ("web.internal", "fd00::2"), ("db.prod.internal", "10.200.0.3")]
    {
        records.register(name, ip.parse().expect("an address")).expect("a name");
    }
    for n in 0..100 {
        records.register("many.internal", Ipv4Addr::new(10, 200, 1, n).into()).expect("a name");
    }
    records.set_domain(ours(), Some("prod.internal")).expect("a name");
    server.allow(&["10.200.0.0/16".parse().expect("a prefix"), "fd00::/48".parse().expect("a prefix")]);
    server
});

/// Runs the target.
pub fn run(bytes: &[u8]) {
    let Some((whose, query)) = bytes.split_first() else { return };
    let client = if whose & 1 == 0 { ours() } else { Ipv4Addr::new(203, 0, 113, 5).into() };
    let Some(answer) = SERVER.answer(query, client) else { return };
    let asked: &[u8; HEADER_BYTES] = query.first_chunk().expect("what is no message is not answered");
    let header: &[u8; HEADER_BYTES] = answer.first_chunk().expect("an answer is a message");
    assert_eq!(header[..2], asked[..2], "the answer has the number of the query");
    assert!(header[2] >> 7 == 1 && asked[2] >> 7 == 0, "queries are answered, and with answers");
    assert!(answer.len() <= usize::from(u16::MAX));
    // Who asks by datagram is sent no more than he says he takes, which is 512 bytes unless he says otherwise.
    let says_otherwise = asked[10..12] != [0, 0];
    assert!(says_otherwise || answer.len() <= 512, "{} bytes", answer.len());
}

fn ours() -> IpAddr {
    Ipv4Addr::new(10, 200, 0, 9).into()
}
