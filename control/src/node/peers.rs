//! The peers the overlay is to have: remembered before there is a device, replayed whenever there is a new one.
//!
//! A prefix belongs to one peer; giving it to another takes it from the first, as in WireGuard itself.

use crate::ipc::wire::PeerSpec;
use ginnel_engine::command::{AllowedIpUpdate, PeerUpdate};
use ginnel_engine::key::{KeyError, PublicKey};
use ginnel_engine::limits::PEERS_MAX;
use ipnet::IpNet;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

/// Prefixes in one request. A node advertises its slice and its services; three orders of magnitude above that.
const ALLOWED_IPS_MAX: usize = 4096;

/// A peer as asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Peer {
    /// Where it is, unless that is left to it.
    pub(super) endpoint: Option<SocketAddr>,
    /// Seconds between keepalives; 0 is off.
    pub(super) keepalive_secs: u16,
    /// Its prefixes, in the order given.
    pub(super) allowed_ips: Vec<IpNet>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct PeerBook {
    peers: BTreeMap<PublicKey, Peer>,
    owners: HashMap<IpNet, PublicKey>,
}

impl PeerBook {
    pub(super) fn peer(&self, key: &PublicKey) -> Option<&Peer> {
        self.peers.get(key)
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = (&PublicKey, &Peer)> {
        self.peers.iter()
    }

    /// Whether another peer still fits.
    pub(super) fn has_room(&self) -> bool {
        self.peers.len() < PEERS_MAX
    }

    /// Adds the peer, or replaces what is known of it.
    pub(super) fn put(&mut self, key: PublicKey, peer: Peer) {
        self.remove(&key);
        let allowed_ips = peer.allowed_ips.clone();
        self.peers.insert(key, Peer { allowed_ips: Vec::new(), ..peer });
        for prefix in allowed_ips {
            self.give(key, prefix);
        }
    }

    pub(super) fn remove(&mut self, key: &PublicKey) {
        for prefix in self.peers.remove(key).unwrap_or_default().allowed_ips {
            self.owners.remove(&prefix);
        }
    }

    /// Routes `prefix` to a known peer.
    pub(super) fn give(&mut self, key: PublicKey, prefix: IpNet) {
        match self.owners.insert(prefix, key) {
            Some(owner) if owner == key => return,
            Some(other) => self.forget_prefix(&other, prefix),
            None => {}
        }
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.allowed_ips.push(prefix);
        }
    }

    /// Stops routing `prefix` to the peer, if it is routed there.
    pub(super) fn take(&mut self, key: &PublicKey, prefix: IpNet) {
        if self.owners.get(&prefix) == Some(key) {
            self.owners.remove(&prefix);
            self.forget_prefix(key, prefix);
        }
    }

    /// What a new device has to be told, leaving out `own`, which is no peer of itself.
    pub(super) fn replay(&self, own: &PublicKey) -> Vec<PeerUpdate> {
        self.iter().filter(|(key, _)| *key != own).map(|(key, peer)| peer.update(*key)).collect()
    }

    fn forget_prefix(&mut self, key: &PublicKey, prefix: IpNet) {
        if let Some(peer) = self.peers.get_mut(key) {
            peer.allowed_ips.retain(|held| *held != prefix);
        }
    }
}

impl Peer {
    /// Checks everything in `spec` but the endpoint, which was resolved to `endpoint`.
    pub(super) fn new(spec: &PeerSpec, endpoint: Option<SocketAddr>) -> Result<Self, String> {
        let keepalive_secs = u16::try_from(spec.persistent_keepalive_secs).map_err(|_| {
            format!("persistent_keepalive_secs {} is more than {}", spec.persistent_keepalive_secs, u16::MAX)
        })?;
        let mut allowed_ips = Vec::new();
        for text in spec.allowed_ips.split(',').map(str::trim) {
            if text.is_empty() && spec.allowed_ips.trim().is_empty() {
                break;
            }
            let prefix = prefix(text).map_err(|error| format!("invalid CIDR {text:?} in allowed_ips: {error}"))?;
            if !allowed_ips.contains(&prefix) {
                allowed_ips.push(prefix);
            }
            if allowed_ips.len() > ALLOWED_IPS_MAX {
                return Err(format!("more than {ALLOWED_IPS_MAX} allowed_ips: add the others with add_allowed_ip"));
            }
        }
        Ok(Self { endpoint, keepalive_secs, allowed_ips })
    }

    /// The update that makes this of the peer `key`, new or not. A session in progress goes on.
    pub(super) fn update(&self, key: PublicKey) -> PeerUpdate {
        PeerUpdate {
            endpoint: self.endpoint,
            persistent_keepalive_secs: Some(self.keepalive_secs),
            replace_allowed_ips: true,
            allowed_ips: self
                .allowed_ips
                .iter()
                .map(|prefix| AllowedIpUpdate { prefix: *prefix, remove: false })
                .collect(),
            ..PeerUpdate::new(key)
        }
    }
}

/// A prefix of a peer: the length is required, host bits are dropped.
pub(super) fn prefix(text: &str) -> Result<IpNet, ipnet::AddrParseError> {
    text.trim().parse::<IpNet>().map(|net| net.trunc())
}

/// A public key, refused in the words of the catalogue.
pub(super) fn public_key(text: &str) -> Result<PublicKey, String> {
    PublicKey::from_base64(text).map_err(|error| match error {
        KeyError::Length(bytes) => format!("Invalid key length: expected 32 bytes, got {bytes}"),
        KeyError::Encoding(_) => "Invalid symbol: the public key is not base64".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> PublicKey {
        PublicKey([byte; 32])
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn peer(allowed_ips: &str) -> Result<Peer, String> {
        let spec = PeerSpec {
            public_key: String::new(),
            endpoint: String::new(),
            allowed_ips: allowed_ips.into(),
            persistent_keepalive_secs: 25,
            candidates: Vec::new(),
        };
        Peer::new(&spec, None)
    }

    #[test]
    fn lists_of_prefixes() {
        assert_eq!(
            peer("10.1.0.0/24, fd00::1/64,10.1.0.9/24").unwrap().allowed_ips,
            [net("10.1.0.0/24"), net("fd00::/64")]
        );
        assert!(peer(" ").unwrap().allowed_ips.is_empty());
        for bad in ["10.1.0.0", ",", "10.1.0.0/24,", "10.1.0.0/24,,10.2.0.0/24", "10.1.0.0/33", "x"] {
            assert!(peer(bad).unwrap_err().starts_with("invalid CIDR"), "{bad}");
        }
        let many: Vec<String> = (0..=ALLOWED_IPS_MAX).map(|i| format!("10.{}.{}.0/24", i / 256, i % 256)).collect();
        assert!(peer(&many.join(",")).unwrap_err().contains("add_allowed_ip"));
    }

    #[test]
    fn a_prefix_has_one_owner() {
        let mut book = PeerBook::default();
        book.put(key(1), peer("10.1.0.0/24,10.2.0.0/24").unwrap());
        book.put(key(2), peer("10.2.0.0/24").unwrap());
        assert_eq!(book.peer(&key(1)).unwrap().allowed_ips, [net("10.1.0.0/24")]);
        book.take(&key(1), net("10.2.0.0/24"));
        assert_eq!(book.peer(&key(2)).unwrap().allowed_ips, [net("10.2.0.0/24")]);
        book.give(key(1), net("10.2.0.0/24"));
        book.give(key(1), net("10.2.0.0/24"));
        assert!(book.peer(&key(2)).unwrap().allowed_ips.is_empty());
        assert_eq!(book.peer(&key(1)).unwrap().allowed_ips.len(), 2);
        book.remove(&key(1));
        book.give(key(2), net("10.2.0.0/24"));
        assert_eq!(book.peer(&key(2)).unwrap().allowed_ips, [net("10.2.0.0/24")]);
    }

    #[test]
    fn replay_tells_all_but_the_node_itself() {
        let mut book = PeerBook::default();
        book.put(key(1), peer("10.1.0.0/24").unwrap());
        book.put(key(2), peer("10.2.0.0/24").unwrap());
        let updates = book.replay(&key(2));
        assert_eq!(updates.len(), 1);
        assert_eq!(updates[0].public_key, key(1));
        assert_eq!(updates[0].persistent_keepalive_secs, Some(25));
        assert!(updates[0].replace_allowed_ips && updates[0].allowed_ips.len() == 1);
    }

    #[test]
    fn keys_are_refused_in_the_words_of_the_catalogue() {
        assert!(public_key("base64key").unwrap_err().contains("Invalid symbol"));
        assert_eq!(public_key("AAAA").unwrap_err(), "Invalid key length: expected 32 bytes, got 3");
    }
}
