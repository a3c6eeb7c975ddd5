//! Why a packet was not delivered: every reason once, with its counter and its text.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)+) => {
        /// The reason a packet or message went no further. The text is its name in `status` and metrics.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum DropReason { $($(#[doc = $doc])+ $name,)+ }

        impl DropReason {
            /// Every reason, in the order of the counters.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$name,)+];

            /// The stable name.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(DropReason::$name => $text,)+ }
            }
        }
    };
}

drop_reasons! {
    /// Outbound: neither IPv4 nor IPv6, or shorter than its own header says.
    OutboundMalformed = "outbound_malformed",
    /// Outbound: no peer has the destination among its allowed IPs.
    OutboundUnrouted = "outbound_unrouted",
    /// Outbound: the peer is known, its endpoint is not.
    OutboundNoEndpoint = "outbound_no_endpoint",
    /// Outbound: the device has no private key.
    OutboundNoIdentity = "outbound_no_identity",
    /// Outbound: there was no session; too many packets waited for one, or for too long.
    OutboundNoSession = "outbound_no_session",
    /// Outbound: larger than a datagram can carry.
    OutboundOversize = "outbound_oversize",
    /// Outbound: the kernel refused the datagram.
    OutboundRefused = "outbound_refused",
    /// Outbound: the socket stayed full.
    OutboundOverflow = "outbound_overflow",
    /// Outbound: read by a worker that does not own its peer while the owner's mailbox was full.
    OutboundHandoffOverflow = "outbound_handoff_overflow",
    /// Inbound: a WireGuard type with an impossible length.
    InboundMalformed = "inbound_malformed",
    /// Inbound: the receiver index names no session.
    InboundUnknownIndex = "inbound_unknown_index",
    /// Inbound: a handshake from a key that is not a peer.
    InboundUnknownPeer = "inbound_unknown_peer",
    /// Inbound: a first or second MAC does not fit.
    InboundBadMac = "inbound_bad_mac",
    /// Inbound: authentication failed.
    InboundUnauthentic = "inbound_unauthentic",
    /// Inbound: seen before, or too old for the window.
    InboundReplayed = "inbound_replayed",
    /// Inbound: a handshake message that fits no handshake of ours, or is older than the last one.
    InboundStaleHandshake = "inbound_stale_handshake",
    /// Inbound: more handshakes than the budget of this turn.
    InboundHandshakeOverload = "inbound_handshake_overload",
    /// Inbound: the decrypted packet is not IP, or shorter than its own header says.
    InboundInnerMalformed = "inbound_inner_malformed",
    /// Inbound: the source address is not routed to the peer that sent it.
    InboundForeignSource = "inbound_foreign_source",
    /// Inbound: congestion was marked outside on a packet that cannot carry the mark (RFC 6040, section 4.2).
    InboundCongested = "inbound_congested",
    /// Inbound: the TUN queue refused or could not take the packet.
    InboundTunRefused = "inbound_tun_refused",
    /// Inbound: the datagram was longer than its buffer.
    InboundTruncated = "inbound_truncated",
    /// Inbound: not WireGuard, and the port for control was full or not there.
    InboundDivertOverflow = "inbound_divert_overflow",
    /// Inbound: arrived on a worker that does not own its peer while the owner's mailbox was full.
    InboundHandoffOverflow = "inbound_handoff_overflow",
}

/// One counter per [`DropReason`]. Written by one worker, read by anyone.
#[derive(Debug)]
pub struct DropCounters([AtomicU64; DropReason::ALL.len()]);

impl Default for DropCounters {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl DropCounters {
    /// Adds `packets` drops.
    pub fn add(&self, reason: DropReason, packets: u64) {
        self.0[reason as usize].fetch_add(packets, Ordering::Relaxed);
    }

    /// Drops counted for `reason` since start.
    #[must_use]
    pub fn packets(&self, reason: DropReason) -> u64 {
        self.0[reason as usize].load(Ordering::Relaxed)
    }
}
