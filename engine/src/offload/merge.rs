//! When a packet continues a superpacket, and what its headers become. The rules are those of Linux GRO
//! (`net/ipv4/tcp_offload.c`, `udp_offload.c`, `af_inet.c`), so that the receiving stack sees what it would have built
//! itself: same flow, same everything but length, ID, sequence and checksum; PSH ends a run; CWR, FIN, SYN, RST, URG,
//! IP options and fragments are never merged.

use crate::port::{Gso, PartialChecksum, Transport, UnitMeta};
use crate::wire::checksum;
use crate::wire::ip::{self, IpHeader};

const TCP_PSH: u8 = 0x08;
const TCP_ACK: u8 = 0x10;
const TCP_ECE: u8 = 0x40;

/// A run of more UDP datagrams is refused by kernels before 6.9 (`UDP_MAX_SEGMENTS`).
const UDP_SEGMENTS_MAX: u16 = 64;

/// The shape of a packet that may start or continue a superpacket.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    transport: Transport,
    transport_at: usize,
    /// IP and transport headers.
    pub headers_bytes: usize,
    /// What follows them.
    pub payload_bytes: usize,
}

/// What is known of a superpacket being built. Its first packet's headers lie at the start of its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    transport: Transport,
    transport_at: usize,
    /// IP and transport headers.
    pub headers_bytes: usize,
    segment_bytes: usize,
    /// Packets so far.
    pub packets: u16,
    next_sequence: u32,
    pushed: bool,
    /// Nothing can follow: the last packet was short or pushed.
    pub closed: bool,
}

impl Candidate {
    /// The shape of `packet`, or `None` where it is always delivered alone.
    pub fn of(packet: &[u8], header: &IpHeader) -> Option<Self> {
        if header.fragment || (header.version == 4 && header.header_bytes != ip::IPV4_HEADER_BYTES) {
            return None;
        }
        let transport_at = header.header_bytes;
        let segment = packet.get(transport_at..header.packet_bytes)?;
        let (transport, transport_bytes) = match header.protocol {
            ip::TCP => {
                let tcp: &[u8; 20] = segment.first_chunk()?;
                let plain = tcp[13] & !(TCP_PSH | TCP_ECE) == TCP_ACK;
                (Transport::Tcp, plain.then_some(usize::from(tcp[12] >> 4) * 4).filter(|&bytes| bytes >= 20)?)
            }
            ip::UDP => {
                let udp: &[u8; 8] = segment.first_chunk()?;
                let whole = usize::from(u16::from_be_bytes([udp[4], udp[5]])) == segment.len();
                (Transport::Udp, (whole && udp[6..8] != [0, 0]).then_some(8)?)
            }
            _ => return None,
        };
        let payload_bytes = segment.len().checked_sub(transport_bytes).filter(|&bytes| bytes > 0)?;
        Some(Self { transport, transport_at, headers_bytes: transport_at + transport_bytes, payload_bytes })
    }

    /// TCP or UDP.
    pub fn transport(&self) -> Transport {
        self.transport
    }
}

impl Run {
    /// The run that `packet` starts.
    pub fn start(packet: &[u8], candidate: &Candidate) -> Self {
        let tcp = candidate.transport == Transport::Tcp;
        let transport = &packet[candidate.transport_at..];
        let pushed = tcp && transport[13] & TCP_PSH != 0;
        let payload = u32::try_from(candidate.payload_bytes).unwrap_or(0);
        Self {
            transport: candidate.transport,
            transport_at: candidate.transport_at,
            headers_bytes: candidate.headers_bytes,
            segment_bytes: candidate.payload_bytes,
            packets: 1,
            next_sequence: if tcp { sequence(transport).wrapping_add(payload) } else { 0 },
            pushed,
            closed: pushed,
        }
    }

    /// Whether `packet` is the next one after those in `run`.
    pub fn continues(&self, run: &[u8], packet: &[u8], candidate: &Candidate) -> bool {
        !self.closed
            && candidate.transport == self.transport
            && candidate.headers_bytes == self.headers_bytes
            && candidate.payload_bytes <= self.segment_bytes
            && run.len() + candidate.payload_bytes <= crate::limits::SUPERPACKET_BYTES_MAX
            && self.same_ip_header(run, packet)
            && match self.transport {
                Transport::Tcp => self.same_tcp_header(run, packet),
                Transport::Udp => {
                    self.packets < UDP_SEGMENTS_MAX && run[self.transport_at..][..4] == packet[self.transport_at..][..4]
                }
            }
    }

    fn same_ip_header(&self, run: &[u8], packet: &[u8]) -> bool {
        if run[0] >> 4 == 6 {
            return run[..4] == packet[..4] && run[6..40] == packet[6..40];
        }
        // The ID of a packet that must not be fragmented means nothing (RFC 6864, section 4.1).
        let id_rises = || {
            let first = u16::from_be_bytes([run[4], run[5]]);
            u16::from_be_bytes([packet[4], packet[5]]) == first.wrapping_add(self.packets)
        };
        run[..2] == packet[..2]
            && run[6..10] == packet[6..10]
            && run[12..20] == packet[12..20]
            && (run[6] & 0x40 != 0 || id_rises())
    }

    fn same_tcp_header(&self, run: &[u8], packet: &[u8]) -> bool {
        let (ours, theirs) =
            (&run[self.transport_at..self.headers_bytes], &packet[self.transport_at..self.headers_bytes]);
        ours[..4] == theirs[..4]
            && sequence(theirs) == self.next_sequence
            && ours[8..13] == theirs[8..13]
            && ours[13] == theirs[13] & !TCP_PSH
            && ours[14..16] == theirs[14..16]
            && ours[18..] == theirs[18..]
    }

    /// Takes note of `packet`, which [`Self::continues`] the run; its payload is appended by the caller.
    pub fn add(&mut self, packet: &[u8], candidate: &Candidate) {
        self.packets += 1;
        self.pushed = self.transport == Transport::Tcp && packet[self.transport_at + 13] & TCP_PSH != 0;
        self.closed = self.pushed || candidate.payload_bytes < self.segment_bytes;
        self.next_sequence = self.next_sequence.wrapping_add(u32::try_from(candidate.payload_bytes).unwrap_or(0));
    }

    /// Makes one superpacket of the run in `bytes`: lengths, IPv4 checksum, and a pseudo-header sum for the kernel to
    /// complete. A run of one stays as it arrived.
    pub fn finish(&self, bytes: &mut [u8]) -> UnitMeta {
        if self.packets == 1 {
            return UnitMeta::default();
        }
        let total = bytes.len();
        let version = bytes[0] >> 4;
        if version == 4 {
            bytes[2..4].copy_from_slice(&field(total));
            ip::refresh_ipv4_checksum(bytes, self.transport_at);
        } else {
            bytes[4..6].copy_from_slice(&field(total - ip::IPV6_HEADER_BYTES));
        }
        let transport_bytes = total - self.transport_at;
        let protocol = if self.transport == Transport::Tcp { ip::TCP } else { ip::UDP };
        let pseudo = checksum::fold(checksum::pseudo(ip::addresses(bytes, version), protocol, transport_bytes));
        let header = &mut bytes[self.transport_at..];
        let offset = match self.transport {
            Transport::Tcp => {
                header[13] |= if self.pushed { TCP_PSH } else { 0 };
                16
            }
            Transport::Udp => {
                header[4..6].copy_from_slice(&field(transport_bytes));
                6
            }
        };
        header[offset..offset + 2].copy_from_slice(&pseudo.to_ne_bytes());
        UnitMeta {
            gso: Some(Gso {
                transport: self.transport,
                segment_bytes: u16::try_from(self.segment_bytes).unwrap_or(u16::MAX),
            }),
            partial_checksum: Some(PartialChecksum {
                start: u16::try_from(self.transport_at).unwrap_or(0),
                offset: u16::try_from(offset).unwrap_or(0),
            }),
        }
    }
}

/// Whether delivering `packet` before the run in `run` could reorder a flow. Packets without ports in sight (fragments,
/// extension headers, other protocols) count as one flow with everything between the same hosts.
pub fn same_flow(run: &[u8], packet: &[u8], header: &IpHeader) -> bool {
    let version = run[0] >> 4;
    let (protocol, transport_at) =
        if version == 4 { (run[9], ip::IPV4_HEADER_BYTES) } else { (run[6], ip::IPV6_HEADER_BYTES) };
    let ports_hidden = header.fragment || !matches!(header.protocol, ip::TCP | ip::UDP);
    version == header.version
        && ip::addresses(run, version) == ip::addresses(packet, version)
        && (ports_hidden
            || protocol == header.protocol
                && run.get(transport_at..transport_at + 4) == packet.get(header.header_bytes..header.header_bytes + 4))
}

fn sequence(tcp: &[u8]) -> u32 {
    u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]])
}

fn field(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes()
}
