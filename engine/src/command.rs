//! What control asks of the engine: one [`DeviceUpdate`] at a time, applied by every worker between two batches.
//!
//! The shape is that of the cross-platform WireGuard interface (`set=1`), so the UAPI, the IPC and an embedder speak the
//! same words. An update is validated before it is queued; applying it cannot fail.

use crate::key::{PresharedKey, PrivateKey, PublicKey};
use ipnet::IpNet;
use std::net::SocketAddr;

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
