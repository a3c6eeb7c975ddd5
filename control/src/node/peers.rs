//! The peers the overlay is to have: remembered before there is a device, replayed whenever there is a new one.
//!
//! A prefix belongs to one peer; giving it to another takes it from the first, as in WireGuard itself.
//!
//! What others change in a running device (`wg set`) is adopted before the next change of ours, so it is replayed too:
//! a peer removed there stays away until it is added again.

use crate::ipc::wire::PeerSpec;
use ginnel_backends::device::PeerState;
use ginnel_engine::command::{AllowedIpUpdate, PeerUpdate};
use ginnel_engine::key::{KeyError, PresharedKey, PublicKey};
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
    /// Its preshared key; only `wg` sets one.
    pub(super) preshared_key: Option<PresharedKey>,
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

    /// Takes over the peers of a device. Their endpoints there may be where they roamed to, so one that was asked for
    /// stays.
    pub(super) fn adopt(&mut self, peers: Vec<PeerState>) {
        let asked = std::mem::take(self).peers;
        for state in peers {
            let endpoint = asked.get(&state.public_key).and_then(|peer| peer.endpoint).or(state.endpoint);
            let peer = Peer {
                endpoint,
                keepalive_secs: state.persistent_keepalive_secs,
                allowed_ips: state.allowed_ips,
                preshared_key: state.preshared_key,
            };
            self.put(state.public_key, peer);
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
        Ok(Self { endpoint, keepalive_secs, allowed_ips, preshared_key: None })
    }

    /// The update that makes this of the peer `key`, new or not. A session in progress goes on.
    pub(super) fn update(&self, key: PublicKey) -> PeerUpdate {
        PeerUpdate {
            preshared_key: self.preshared_key.clone().map(Some),
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
    fn what_the_device_has_is_adopted() {
        let state = |byte, endpoint: &str, allowed_ips: &[&str]| PeerState {
            public_key: key(byte),
            preshared_key: PresharedKey::new([byte; 32]),
            endpoint: endpoint.parse().ok(),
            persistent_keepalive_secs: 7,
            allowed_ips: allowed_ips.iter().copied().map(net).collect(),
            last_handshake: None,
            rx_bytes: 0,
            tx_bytes: 0,
            rx_packets: 0,
            tx_packets: 0,
        };
        let mut book = PeerBook::default();
        let asked = "192.0.2.2:2".parse().ok();
        book.put(key(1), peer("10.1.0.0/24").unwrap());
        book.put(key(2), Peer { endpoint: asked, ..peer("10.2.0.0/24").unwrap() });
        book.adopt(vec![
            state(2, "198.51.100.2:2", &["10.1.0.0/24"]),
            state(3, "198.51.100.3:3", &[]),
            state(4, "", &["10.4.0.0/24"]),
        ]);
        assert!(book.peer(&key(1)).is_none());
        let two = book.peer(&key(2)).unwrap();
        assert_eq!((two.endpoint, two.keepalive_secs, &two.allowed_ips[..]), (asked, 7, &[net("10.1.0.0/24")][..]));
        assert!(two.preshared_key.is_some() && two.update(key(2)).preshared_key.is_some());
        assert_eq!(book.peer(&key(3)).unwrap().endpoint, "198.51.100.3:3".parse().ok());
        assert_eq!(book.peer(&key(4)).unwrap().endpoint, None);
        book.give(key(3), net("10.1.0.0/24"));
        assert!(book.peer(&key(2)).unwrap().allowed_ips.is_empty(), "the owners of prefixes are known");
    }

    #[test]
    fn keys_are_refused_in_the_words_of_the_catalogue() {
        assert!(public_key("base64key").unwrap_err().contains("Invalid symbol"));
        assert_eq!(public_key("AAAA").unwrap_err(), "Invalid key length: expected 32 bytes, got 3");
    }
}
