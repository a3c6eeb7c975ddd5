//! A name server full of names, and queries for them.

use ginnel_control::dns::{DnsConfig, DnsServer};
use std::net::IpAddr;

/// A server without names that asks nobody else.
///
/// # Panics
/// Where the system has no thread left.
#[must_use]
pub fn server() -> DnsServer {
    let nobody = "127.0.0.1:1".parse().expect("an address");
    let server = DnsServer::start(&DnsConfig { upstreams: vec![nobody], ..DnsConfig::default() }).expect("a thread");
    server.allow(&["10.0.0.0/8".parse().expect("a prefix")]);
    server
}

/// Registers so many names, each with an address of its own.
///
/// # Panics
/// Where one is no name.
pub fn fill(server: &DnsServer, names: u32) {
    for number in 0..names {
        server.records().register(&name(number), address(number)).expect("a name");
    }
}

/// A name like those of services.
#[must_use]
pub fn name(number: u32) -> String {
    format!("web-{number}.service.prod.local")
}

/// Its address.
#[must_use]
pub fn address(number: u32) -> IpAddr {
    let [_, a, b, c] = number.to_be_bytes();
    [10, a, b, c].into()
}

/// The bytes of a query for a name (RFC 1035, section 4.1).
#[must_use]
pub fn query(name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.extend(u8::try_from(label.len()));
        bytes.extend(label.bytes());
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend(1_u16.to_be_bytes());
    bytes
}
