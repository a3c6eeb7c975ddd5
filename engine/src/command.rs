//! What control asks of the engine: one [`DeviceUpdate`] at a time, applied by every worker between two batches.
//!
//! A backend's device turns the update into plain [`Operation`]s, which it sends to its workers in one [`Command`].
//!
//! The shape of an update is that of the cross-platform WireGuard interface (`set=1`), so the UAPI, the IPC and an embedder speak the
//! same words. An update is validated before it is queued; applying it cannot fail.

use crate::key::{PresharedKey, PrivateKey, PublicKey};
use crate::peer::PeerRef;
use crate::stats::PeerStats;
use ipnet::IpNet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

/// A change of the whole device. Fields that are `None` stay as they are.
#[derive(Clone, Debug, Default)]
pub struct DeviceUpdate {
    /// New identity. All sessions end; peers with the matching public key are removed.
    pub private_key: Option<PrivateKeyUpdate>,
    /// UDP port to listen on; 0 lets the kernel choose.
    pub listen_port: Option<u16>,
    /// Mark of outgoing datagrams (`SO_MARK`); 0 removes it.
    pub fwmark: Option<u32>,
    /// Remove every peer first.
    pub replace_peers: bool,
    /// Changes of single peers, in order.
    pub peers: Vec<PeerUpdate>,
}

/// The identity part of an update.
#[derive(Clone, Debug)]
pub enum PrivateKeyUpdate {
    /// Take this key.
    Set(PrivateKey),
    /// Have no key: no handshake succeeds until one is set.
    Clear,
}

/// A change of one peer. Fields that are `None` stay as they are.
#[derive(Clone, Debug)]
pub struct PeerUpdate {
    /// The peer.
    pub public_key: PublicKey,
    /// Remove it; the other fields are then ignored.
    pub remove: bool,
    /// Do nothing where the peer does not exist yet.
    pub update_only: bool,
    /// New preshared key; `Some(None)` removes it.
    pub preshared_key: Option<Option<PresharedKey>>,
    /// New endpoint, used until an authenticated packet arrives from elsewhere.
    pub endpoint: Option<SocketAddr>,
    /// Seconds between persistent keepalives; 0 is off.
    pub persistent_keepalive_secs: Option<u16>,
    /// Forget the allowed IPs of the peer before `allowed_ips` is applied.
    pub replace_allowed_ips: bool,
    /// Changes of the allowed IPs, in order.
    pub allowed_ips: Vec<AllowedIpUpdate>,
}

/// A change of one allowed IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllowedIpUpdate {
    /// The prefix; host bits are ignored.
    pub prefix: IpNet,
    /// Take it from the peer instead of giving it. Removing what the peer does not hold changes nothing.
    pub remove: bool,
}

impl PeerUpdate {
    /// An update that names a peer and changes nothing else.
    #[must_use]
    pub fn new(public_key: PublicKey) -> Self {
        Self {
            public_key,
            remove: false,
            update_only: false,
            preshared_key: None,
            endpoint: None,
            persistent_keepalive_secs: None,
            replace_allowed_ips: false,
            allowed_ips: Vec::new(),
        }
    }
}

/// What a worker is told.
#[derive(Debug)]
pub enum Command {
    /// Apply these in order between two batches, then answer.
    Apply {
        /// The operations.
        operations: Arc<[Operation]>,
        /// Told when they are in use.
        done: SyncSender<()>,
    },
    /// Send a datagram that is not WireGuard.
    SendDatagram {
        /// Destination.
        to: SocketAddr,
        /// The payload.
        datagram: Vec<u8>,
    },
}

/// The smallest changes; none can fail. Every worker gets all of them and keeps what concerns it: routes always, the
/// rest for the peers it owns.
#[derive(Clone, Debug)]
pub enum Operation {
    /// A new identity, or none. Sessions of all peers end.
    SetIdentity(Option<PrivateKey>),
    /// A new peer without sessions, endpoint or routes.
    AddPeer {
        /// Its number, unused so far.
        peer: PeerRef,
        /// Its key.
        key: PublicKey,
        /// Where its counters are kept.
        stats: Arc<PeerStats>,
    },
    /// A peer is gone; its routes are removed by operations of their own.
    RemovePeer(PeerRef, PublicKey),
    /// The key for its next handshake. Sessions serve on until it completes.
    SetPresharedKey(PeerRef, Option<PresharedKey>),
    /// Where to reach it.
    SetEndpoint(PeerRef, SocketAddr),
    /// Seconds between persistent keepalives, 0 for none.
    SetKeepalive(PeerRef, u16),
    /// The prefix belongs to the peer, whoever had it.
    Route(IpNet, PeerRef),
    /// The prefix belongs to nobody.
    Unroute(IpNet),
}
