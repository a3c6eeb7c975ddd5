//! Every bound of the engine, with its reason. Together they fix the memory of a worker ([`WORKER_BYTES`]).

/// Largest IP packet, and so the largest superpacket either way (16-bit length fields of IPv4, IPv6 and TUN).
pub const SUPERPACKET_BYTES_MAX: usize = 65_535;

/// Room for one TUN unit: the largest superpacket, padding to 16 behind its last segment, and cache-line rounding.
pub const UNIT_ROOM: usize = 65_536 + 64;

/// TUN units taken in one turn. Small packets come singly, so this is also how many can share one train; 64 is the
/// kernel's own NAPI budget and the segment limit of older UDP GSO.
pub const TUN_BATCH_UNITS_MAX: usize = 64;

/// Stop reading TUN once a batch holds this much: one full superpacket. More would only make the cache cold and the
/// other direction wait.
pub const TUN_BATCH_BYTES_SOFT: usize = 60_000;

/// Datagrams in one train: `UDP_MAX_SEGMENTS` is 64 on kernels before 6.9 (Linux `include/linux/udp.h`).
pub const TRAIN_DATAGRAMS_MAX: usize = 64;

/// Bytes in one train: the payload of the largest IPv4 UDP datagram (65,535 − 20 − 8).
pub const TRAIN_BYTES_MAX: usize = 65_507;

/// Packets of `mtu` bytes whose datagrams fit one train: what superpackets on their way to a tunnel should hold at most. Others
/// are cut into packets by the kernel, or take a second send.
#[must_use]
pub fn train_packets(mtu: usize) -> usize {
    (TRAIN_BYTES_MAX / (mtu + crate::wire::message::DATA_OVERHEAD)).clamp(1, TRAIN_DATAGRAMS_MAX)
}

/// Trains open at once, one per destination, size and ECN mark. 16 keeps one `sendmmsg` busy with many peers and the
/// buffers (1 MiB) within a core's L2 cache.
pub const TRAINS_MAX: usize = 16;

/// Datagram buffers of one receive call. Small unmerged datagrams need many; merged ones fill 64 KiB each.
pub const INBOX_SLOTS: usize = 32;

/// Room of one received train: a UDP GRO buffer never exceeds an IP packet.
pub const INBOX_SLOT_BYTES: usize = 65_536;

/// Inner flows coalesced at once on the way in. Linux GRO keeps 8 per bucket; a turn rarely holds more.
pub const LANES_MAX: usize = 8;

/// Room of a lane: a superpacket plus one more datagram opened behind it.
pub const LANE_ROOM: usize = 2 * 65_536;

/// Handshake messages answered per turn. One costs about 240 µs, so 4 stay below a millisecond.
pub const HANDSHAKES_PER_TURN: usize = 4;

/// Handshake messages of a worker that wait: answers to half a second of initiations of ours, and what the budgets below let
/// in meanwhile. 0.5 MiB where they ever do.
pub const HANDSHAKES_WAITING_MAX: usize = 2_048;

/// Handshake messages per second before a sender has to prove its address with a cookie (paper, section 5.3).
pub const HANDSHAKES_PER_SEC_UNPROVEN: u64 = 200;

/// Handshake messages per second, beyond those, of senders that have proven their address: a twentieth of a core.
pub const HANDSHAKES_PER_SEC_PROVEN: u64 = 200;

/// Cookies sent per second: two hundredths of a core.
pub const COOKIES_PER_SEC: u64 = 3_000;

/// Packets of a peer that wait for a session: as many as boringtun keeps, twice as many as the Linux module.
pub const STAGED_PACKETS_MAX: usize = 256;

/// Bytes of a peer that wait for a session: all of the above at the usual size, or eight of the largest.
pub const STAGED_BYTES_MAX: usize = 512 << 10;

/// Parcels of other workers waiting for one worker: 1 MiB, a few milliseconds of packets.
pub const PARCELS_MAX: usize = 16;

/// Parcels opened per turn, so that a worker's own ports are not kept waiting.
pub const PARCELS_PER_TURN: usize = 4;

/// Commands waiting for a worker.
pub const COMMANDS_QUEUED_MAX: usize = 256;

/// Events waiting for control.
pub const EVENTS_QUEUED_MAX: usize = 1_024;

/// Largest datagram passed on to control. STUN and TURN messages fit; a flood cannot fill memory.
pub const DIVERTED_BYTES_MAX: usize = 2_048;

/// Workers of one device: the worker number lives in 8 bits of the session index.
pub const WORKERS_MAX: usize = 256;

/// Peers of one device: what the 24 bits of a session index leave beside the worker, kept half empty so that drawing a
/// free random index stays cheap.
pub const PEERS_MAX: usize = 1 << 20;

/// Inner MTU: an IPv6 link carries at least 1,280 bytes (RFC 8200, section 5); boringtun and the kernel accept less for
/// IPv4, and so do we.
pub const MTU_MIN: u16 = 576;

/// Inner MTU: what an IPv4 datagram of 65,535 bytes leaves after IP, UDP and WireGuard headers, rounded to 16.
pub const MTU_MAX: u16 = 65_456;

/// Packet buffers of one worker, all told.
pub const WORKER_BYTES: usize = 2 * UNIT_ROOM
    + TRAINS_MAX * UNIT_ROOM
    + INBOX_SLOTS * INBOX_SLOT_BYTES
    + (LANES_MAX + 1) * LANE_ROOM
    + PARCELS_MAX * UNIT_ROOM;

const _: () = assert!(WORKER_BYTES < 6 << 20, "packet buffers of a worker stay below 6 MiB");
const _: () = assert!(TRAIN_BYTES_MAX < UNIT_ROOM);
