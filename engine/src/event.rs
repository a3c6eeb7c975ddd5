//! What the engine tells control: facts, through a bounded queue. A full queue loses the event and counts it; it never
//! holds up a packet.

use crate::key::PublicKey;
use std::net::SocketAddr;

/// Something control may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A handshake with the peer completed: a session can carry data both ways.
    HandshakeCompleted {
        /// The peer.
        peer: PublicKey,
    },
    /// An authenticated packet of the peer came from another address than before.
    EndpointChanged {
        /// The peer.
        peer: PublicKey,
        /// Where it is heard from.
        endpoint: SocketAddr,
    },
    /// No answer to handshakes for 90 s (paper, section 6.4: `REKEY_ATTEMPT_TIME`); queued packets were dropped.
    HandshakeAbandoned {
        /// The peer.
        peer: PublicKey,
    },
    /// A port of the device is gone for good (interface deleted, socket closed); the worker stopped.
    PortClosed {
        /// The `errno`, or 0.
        errno: i32,
    },
    /// A datagram on the WireGuard socket that is no WireGuard message: NAT traversal and the like.
    Diverted {
        /// Who sent it.
        from: SocketAddr,
        /// The whole payload.
        datagram: Vec<u8>,
    },
}
