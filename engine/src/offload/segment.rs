//! Cuts a superpacket into packets without moving its payload.
//!
//! The header of segment *k* is written over the dead tail of segment *k − 1*, which has been sealed elsewhere by then,
//! so that every segment is contiguous where it lies:
//!
//! ```text
//! before   [IP|TCP][ payload 0 ][ payload 1 ][ payload 2 ]
//! next()   [IP|TCP][ payload 0 ]
//! next()    ········ dead [IP|TCP][ payload 1 ]
//! next()    ····················· dead [IP|TCP][ payload 2 ]
//! ```
//! Padding works the same way: up to 15 bytes behind a segment are saved, zeroed, and put back.
//!
//! What segments get is what Linux gives them (`net/ipv4/tcp_offload.c`, `udp_offload.c`): rising IPv4 IDs and TCP
//! sequence numbers, FIN and PSH on the last only, CWR on the first only, complete checksums.

use super::Plaintexts;
use crate::port::{Transport, UnitMeta};
use crate::wire::checksum;
use crate::wire::ip::{self, IpHeader};
use crate::wire::message::padded;

/// Longest header run that is repeated per segment: IPv6, some extension headers, and a full TCP header.
const HEADERS_MAX: usize = 256;

/// Bytes that must follow the unit in its buffer: room to pad the last segment.
pub const TAIL_ROOM: usize = 16;

const PADDING_MAX: usize = 15;
const TCP_FIN: u8 = 0x01;
const TCP_PSH: u8 = 0x08;
const TCP_CWR: u8 = 0x80;

/// The packets of one unit.
pub struct Segments<'a> {
    /// The unit and [`TAIL_ROOM`] bytes.
    bytes: &'a mut [u8],
    end: usize,
    mtu: usize,
    plan: Plan,
    overwritten: Overwritten,
}

#[expect(clippy::large_enum_variant, reason = "lives on the stack for one unit; a box would allocate per unit")]
enum Plan {
    /// One packet, given out once.
    Single { given: bool },
    /// Several.
    Cut(Cut),
}

/// The bytes that padding displaced.
#[derive(Default)]
struct Overwritten {
    at: usize,
    len: usize,
    bytes: [u8; PADDING_MAX],
}

struct Cut {
    headers: [u8; HEADERS_MAX],
    headers_bytes: usize,
    transport_at: usize,
    transport: Transport,
    version: u8,
    segment_bytes: usize,
    /// Where the payload of the next segment starts.
    at: usize,
    index: u16,
    /// Sums of all that stays the same: the IPv4 header without length, ID and checksum, and the pseudo-header and
    /// transport header without length, sequence, flags and checksum.
    ip_sum: u64,
    transport_sum: u64,
    id: u16,
    sequence: u32,
    flags: u8,
}

/// The unit cannot be cut: its header or metadata make no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

impl<'a> Segments<'a> {
    /// The packets of the unit in the first `len` bytes of `bytes`, which must have [`TAIL_ROOM`] more. `mtu` bounds the
    /// padding.
    ///
    /// # Errors
    /// [`Malformed`]; the unit is then to be dropped.
    pub fn new(bytes: &'a mut [u8], len: usize, meta: &UnitMeta, mtu: usize) -> Result<Self, Malformed> {
        if bytes.len() < len + TAIL_ROOM {
            return Err(Malformed);
        }
        let plan = match meta.gso {
            Some(gso) => plan_cut(&bytes[..len], gso.transport, usize::from(gso.segment_bytes), meta)?,
            None => {
                complete_checksum(&mut bytes[..len], meta)?;
                Plan::Single { given: false }
            }
        };
        Ok(Self { bytes, end: len, mtu, plan, overwritten: Overwritten::default() })
    }

    /// Zeroes the padding behind `start..end`, keeping what was there for the next call, and returns the padded packet.
    fn pad(&mut self, start: usize, end: usize) -> &[u8] {
        let padded_end = start + padded(end - start, self.mtu);
        let len = padded_end - end;
        self.overwritten = Overwritten { at: end, len, bytes: [0; PADDING_MAX] };
        self.overwritten.bytes[..len].copy_from_slice(&self.bytes[end..padded_end]);
        self.bytes[end..padded_end].fill(0);
        &self.bytes[start..padded_end]
    }

    fn unpad(&mut self) {
        let Overwritten { at, len, bytes } = std::mem::take(&mut self.overwritten);
        self.bytes[at..at + len].copy_from_slice(&bytes[..len]);
    }
}

impl Plaintexts for Segments<'_> {
    fn next(&mut self) -> Option<&[u8]> {
        self.unpad();
        match &mut self.plan {
            Plan::Single { given: true } => None,
            Plan::Single { given } => {
                *given = true;
                let end = self.end;
                Some(self.pad(0, end))
            }
            Plan::Cut(cut) => {
                let (start, end) = cut.next(self.bytes, self.end)?;
                Some(self.pad(start, end))
            }
        }
    }
}

impl Cut {
    /// Writes the headers of the next segment before its payload and returns where the packet lies.
    fn next(&mut self, bytes: &mut [u8], unit_end: usize) -> Option<(usize, usize)> {
        if self.at >= unit_end && self.index > 0 {
            return None;
        }
        let end = unit_end.min(self.at + self.segment_bytes);
        let start = self.at - self.headers_bytes;
        let (packet, payload) = bytes[start..end].split_at_mut(self.headers_bytes);
        packet.copy_from_slice(&self.headers[..self.headers_bytes]);
        let (ip_header, transport_header) = packet.split_at_mut(self.transport_at);
        self.write_ip_header(ip_header, end - start);
        let sum = self.transport_sum + checksum::sum(payload);
        match self.transport {
            Transport::Tcp => self.write_tcp_header(transport_header, sum, payload.len(), end == unit_end),
            Transport::Udp => write_udp_header(transport_header, sum, payload.len()),
        }
        self.index = self.index.wrapping_add(1);
        self.sequence = self.sequence.wrapping_add(u32::try_from(payload.len()).unwrap_or(0));
        self.at = end;
        Some((start, end))
    }

    fn write_ip_header(&self, header: &mut [u8], packet_bytes: usize) {
        if self.version == 4 {
            let total = u16::try_from(packet_bytes).unwrap_or(u16::MAX);
            let id = self.id.wrapping_add(self.index);
            header[2..4].copy_from_slice(&total.to_be_bytes());
            header[4..6].copy_from_slice(&id.to_be_bytes());
            let sum = self.ip_sum + checksum::sum_u16(total) + checksum::sum_u16(id);
            header[10..12].copy_from_slice(&checksum::finish(sum));
        } else {
            let payload = u16::try_from(packet_bytes - ip::IPV6_HEADER_BYTES).unwrap_or(u16::MAX);
            header[4..6].copy_from_slice(&payload.to_be_bytes());
        }
    }

    fn write_tcp_header(&self, header: &mut [u8], sum: u64, payload_bytes: usize, last: bool) {
        let mut flags = self.flags;
        if !last {
            flags &= !(TCP_FIN | TCP_PSH);
        }
        if self.index > 0 {
            flags &= !TCP_CWR;
        }
        header[4..8].copy_from_slice(&self.sequence.to_be_bytes());
        header[13] = flags;
        let len = u16::try_from(header.len() + payload_bytes).unwrap_or(u16::MAX);
        let changing = checksum::sum(&header[4..8]) + checksum::sum_u16(u16::from(flags)) + checksum::sum_u16(len);
        header[16..18].copy_from_slice(&checksum::finish(sum + changing));
    }
}

fn write_udp_header(header: &mut [u8], sum: u64, payload_bytes: usize) {
    let len = u16::try_from(8 + payload_bytes).unwrap_or(u16::MAX);
    header[4..6].copy_from_slice(&len.to_be_bytes());
    // The length counts twice: in the header and in the pseudo-header.
    let sum = sum + 2 * checksum::sum_u16(len);
    header[6..8].copy_from_slice(&checksum::finish_udp(sum));
}

fn plan_cut(unit: &[u8], transport: Transport, segment_bytes: usize, meta: &UnitMeta) -> Result<Plan, Malformed> {
    // The length field may be stale or zero on a superpacket; only the first bytes are trusted.
    let version = unit.first().ok_or(Malformed)? >> 4;
    let ip_bytes = match version {
        4 => usize::from(unit[0] & 15) * 4,
        6 => ip::IPV6_HEADER_BYTES,
        _ => return Err(Malformed),
    };
    // A superpacket always has a partial checksum, and its start is the transport header: the kernel's own header
    // length is not to be relied on for forwarded packets.
    let transport_at = usize::from(meta.partial_checksum.ok_or(Malformed)?.start);
    let transport_bytes = match transport {
        Transport::Tcp => usize::from(unit.get(transport_at + 12).ok_or(Malformed)? >> 4) * 4,
        Transport::Udp => 8,
    };
    let headers_bytes = transport_at + transport_bytes;
    let least_transport = if transport == Transport::Tcp { 20 } else { 8 };
    let sensible = ip_bytes >= if version == 4 { ip::IPV4_HEADER_BYTES } else { ip::IPV6_HEADER_BYTES }
        && transport_at >= ip_bytes
        && transport_at % 2 == 0
        && transport_bytes >= least_transport
        && headers_bytes <= HEADERS_MAX
        && headers_bytes <= unit.len()
        && segment_bytes > 0;
    if !sensible {
        return Err(Malformed);
    }
    let mut headers = [0; HEADERS_MAX];
    headers[..headers_bytes].copy_from_slice(&unit[..headers_bytes]);
    let (ip_header, rest) = headers.split_at_mut(transport_at);
    let header = &mut rest[..transport_bytes];
    let id = u16::from_be_bytes([ip_header[4], ip_header[5]]);
    let mut ip_sum = 0;
    if version == 4 {
        ip_header[2..6].fill(0);
        ip_header[10..12].fill(0);
        ip_sum = checksum::sum(&ip_header[..ip_bytes]);
    }
    let protocol = if transport == Transport::Tcp { ip::TCP } else { ip::UDP };
    let (sequence, flags) = match transport {
        Transport::Tcp => {
            let sequence = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
            let flags = header[13];
            header[4..8].fill(0);
            header[13] = 0;
            header[16..18].fill(0);
            (sequence, flags)
        }
        Transport::Udp => {
            header[4..8].fill(0);
            (0, 0)
        }
    };
    let transport_sum = checksum::sum(header) + checksum::pseudo(ip::addresses(ip_header, version), protocol, 0);
    Ok(Plan::Cut(Cut {
        headers,
        headers_bytes,
        transport_at,
        transport,
        version,
        segment_bytes,
        at: headers_bytes,
        index: 0,
        ip_sum,
        transport_sum,
        id,
        sequence,
        flags,
    }))
}

/// Finishes the checksum that the kernel left to the "device".
fn complete_checksum(packet: &mut [u8], meta: &UnitMeta) -> Result<(), Malformed> {
    let header = IpHeader::parse(packet).ok_or(Malformed)?;
    let Some(partial) = meta.partial_checksum else { return Ok(()) };
    let start = usize::from(partial.start);
    let field = start + usize::from(partial.offset);
    // Within the IP header it would change where the packet goes.
    if start < header.header_bytes || start % 2 != 0 || partial.offset % 2 != 0 || field + 2 > header.packet_bytes {
        return Err(Malformed);
    }
    let sum = checksum::sum(&packet[start..header.packet_bytes]);
    let finished = if header.protocol == ip::UDP { checksum::finish_udp(sum) } else { checksum::finish(sum) };
    packet[field..field + 2].copy_from_slice(&finished);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::PartialChecksum;

    #[test]
    fn a_checksum_within_the_ip_header_is_refused() {
        let mut packet = [0; 40];
        packet[0] = 0x45;
        packet[3] = 40;
        packet[9] = ip::UDP;
        for (start, fits) in [(0, false), (18, false), (20, true), (34, true), (36, false)] {
            let mut bytes = packet;
            let partial_checksum = Some(PartialChecksum { start, offset: 4 });
            let meta = UnitMeta { partial_checksum, ..UnitMeta::default() };
            assert_eq!(complete_checksum(&mut bytes, &meta).is_ok(), fits, "{start}");
            assert_eq!(bytes[..20], packet[..20], "{start}");
        }
    }
}
