//! Connections on the wire (`linux/netfilter/nfnetlink_conntrack.h`).

use crate::firewall::desired::Protocol;
use crate::firewall::netfilter::{Attributes, Writer, be16, be32};
use std::net::{IpAddr, SocketAddr};

/// Of `CTA_…`.
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const PROTOCOL_INFO: u16 = 4;
const ID: u16 = 12;
const ZONE: u16 = 18;
const FILTER: u16 = 25;

/// Of `CTA_TUPLE_…`.
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;

/// Of `CTA_IP_…`.
const V4_SOURCE: u16 = 1;
const V4_DESTINATION: u16 = 2;
const V6_SOURCE: u16 = 3;
const V6_DESTINATION: u16 = 4;

/// Of `CTA_PROTO_…`.
const PROTOCOL_NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;

/// Of `CTA_PROTOINFO_…`.
const TCP: u16 = 1;

/// Of `CTA_PROTOINFO_TCP_…`, for both directions.
const TCP_FLAGS: [u16; 2] = [4, 5];

/// `IP_CT_TCP_FLAG_BE_LIBERAL`: what is out of the window is not invalid.
const LIBERAL: u8 = 8;

/// Of `CTA_FILTER_…`.
const ORIGINAL_FLAGS: u16 = 1;
const REPLY_FLAGS: u16 = 2;

/// Bits of both: what of a tuple is to be the same (`net/netfilter/nf_internals.h`).
const BY_SOURCE: u32 = 1;
const BY_PROTOCOL: u32 = 8;
const BY_DESTINATION_PORT: u32 = 32;

/// An entry of conntrack. Ports are 0 for protocols without.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    pub(super) family: u8,
    pub(super) protocol: u8,
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) reply_source: SocketAddr,
    pub(super) reply_destination: IpAddr,
    pub(super) status: u32,
    /// The attributes that name it: tuple, zone, number.
    name: Vec<(u16, Vec<u8>)>,
}

impl Connection {
    pub(super) fn read(family: u8, body: &[u8]) -> Option<Self> {
        let attributes = Attributes::new(body);
        let original = Tuple::read(attributes.find(TUPLE_ORIGINAL)?)?;
        let reply = Tuple::read(attributes.find(TUPLE_REPLY)?)?;
        let named_by = |kind| attributes.find(kind).map(|payload| (kind, payload.to_vec()));
        Some(Self {
            family,
            protocol: original.protocol,
            source: original.source,
            destination: original.destination,
            reply_source: reply.source,
            reply_destination: reply.destination.ip(),
            status: attributes.find(STATUS).and_then(be32).unwrap_or(0),
            name: [TUPLE_ORIGINAL, ZONE, ID].into_iter().filter_map(named_by).collect(),
        })
    }

    /// Writes what names it, so that only this entry is deleted and none that took its place.
    pub(super) fn write_name(&self, writer: &mut Writer) {
        for (kind, payload) in &self.name {
            if *kind == TUPLE_ORIGINAL {
                writer.nest(*kind, |writer| {
                    writer.raw(payload);
                });
            } else {
                writer.bytes(*kind, payload);
            }
        }
    }

    /// Writes its name and that its windows do not matter any more.
    pub(super) fn write_forgiven(&self, writer: &mut Writer) {
        self.write_name(writer);
        writer.nest(PROTOCOL_INFO, |writer| {
            writer.nest(TCP, |writer| {
                for direction in TCP_FLAGS {
                    // Flags, and which of them are meant.
                    writer.bytes(direction, &[LIBERAL, LIBERAL]);
                }
            });
        });
    }
}

struct Tuple {
    protocol: u8,
    source: SocketAddr,
    destination: SocketAddr,
}

impl Tuple {
    fn read(bytes: &[u8]) -> Option<Self> {
        let attributes = Attributes::new(bytes);
        let ip = Attributes::new(attributes.find(TUPLE_IP)?);
        let protocol = Attributes::new(attributes.find(TUPLE_PROTOCOL)?);
        let address = |v4, v6| {
            let v4 = ip.find(v4).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok()).map(IpAddr::from);
            v4.or_else(|| ip.find(v6).and_then(|bytes| <[u8; 16]>::try_from(bytes).ok()).map(IpAddr::from))
        };
        let port = |kind| protocol.find(kind).and_then(be16).unwrap_or(0);
        Some(Self {
            protocol: *protocol.find(PROTOCOL_NUMBER)?.first()?,
            source: SocketAddr::new(address(V4_SOURCE, V6_SOURCE)?, port(SOURCE_PORT)),
            destination: SocketAddr::new(address(V4_DESTINATION, V6_DESTINATION)?, port(DESTINATION_PORT)),
        })
    }
}

/// What the kernel is to list only.
#[derive(Clone, Copy, Debug)]
pub(super) enum Filter {
    /// Opened from this address.
    Source(IpAddr),
    /// Answered from this address.
    ReplySource(IpAddr),
    /// Opened to this port.
    Port(Protocol, u16),
}

impl Filter {
    pub(super) fn write(&self, writer: &mut Writer) {
        let source = |address: IpAddr, writer: &mut Writer| {
            writer.nest(TUPLE_IP, |ip| {
                match address {
                    IpAddr::V4(v4) => ip.bytes(V4_SOURCE, &v4.octets()),
                    IpAddr::V6(v6) => ip.bytes(V6_SOURCE, &v6.octets()),
                };
            });
        };
        let (tuple, original, reply) = match self {
            Self::Source(_) => (TUPLE_ORIGINAL, BY_SOURCE, 0),
            Self::ReplySource(_) => (TUPLE_REPLY, 0, BY_SOURCE),
            Self::Port(..) => (TUPLE_ORIGINAL, BY_PROTOCOL | BY_DESTINATION_PORT, 0),
        };
        writer.nest(tuple, |writer| match self {
            Self::Source(address) | Self::ReplySource(address) => source(*address, writer),
            Self::Port(protocol, port) => {
                writer.nest(TUPLE_PROTOCOL, |writer| {
                    writer.u8(PROTOCOL_NUMBER, protocol.number()).u16(DESTINATION_PORT, *port);
                });
            }
        });
        // Flags are in host order here.
        writer.nest(FILTER, |writer| {
            writer.bytes(ORIGINAL_FLAGS, &original.to_ne_bytes()).bytes(REPLY_FLAGS, &reply.to_ne_bytes());
        });
    }
}
