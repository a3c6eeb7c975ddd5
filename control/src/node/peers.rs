//! The peers an overlay is to have: remembered before there is a device, replayed whenever there is a new one.
//!
//! A prefix belongs to one peer; giving it to another takes it from the first, as in WireGuard itself. So a change of one
//! peer may be a change of several. It is worked out as [`Changes`] first, which go to the store and to the device before
//! the book makes them.
//!
//! What others change in a running device (`wg set`) is adopted before the next change of ours, so it is kept and replayed
//! too: a peer removed there stays away until it is added again.

use crate::ipc::wire::{PeerSpec, Secret};
use crate::state::{self, Scope, Transaction};
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
    /// Where it is, in the words of whoever asked: an address, or a name to look up again; `None` where that is left to
    /// the peer.
    pub(super) asked_endpoint: Option<String>,
    /// The address of that, as far as it is known.
    pub(super) endpoint: Option<SocketAddr>,
    /// Seconds between keepalives; 0 is off.
    pub(super) keepalive_secs: u16,
    /// Its prefixes, in the order given.
    pub(super) allowed_ips: Vec<IpNet>,
    /// Its preshared key.
    pub(super) preshared_key: Option<PresharedKey>,
}

/// What peers are to be from now on; `None` for those that go. No peer is named twice.
pub(super) type Changes = Vec<(PublicKey, Option<Peer>)>;

/// All of them.
#[derive(Clone, Debug, Default)]
pub(super) struct PeerBook {
    peers: BTreeMap<PublicKey, Peer>,
    owners: HashMap<IpNet, PublicKey>,
}

impl PeerBook {
    /// The book that a store has for an overlay.
    pub(super) fn restore(records: impl Iterator<Item = state::Peer>) -> Self {
        let mut book = Self::default();
        for record in records {
            let (key, peer) = Peer::restore(record);
            // Prefixes that two have, which a damaged journal may say, belong to the one that is read later.
            let changes = book.putting(key, peer);
            book.make(changes);
        }
        book
    }

    pub(super) fn peer(&self, key: &PublicKey) -> Option<&Peer> {
        self.peers.get(key)
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = (&PublicKey, &Peer)> {
        self.peers.iter()
    }

    /// Whether so many other peers still fit.
    pub(super) fn has_room_for(&self, count: usize) -> bool {
        self.peers.len() + count <= PEERS_MAX
    }

    /// Adding the peer, or replacing what is known of it.
    pub(super) fn putting(&self, key: PublicKey, peer: Peer) -> Changes {
        let mut losers: BTreeMap<PublicKey, Peer> = BTreeMap::new();
        for prefix in &peer.allowed_ips {
            if let Some(owner) = self.owners.get(prefix).filter(|owner| **owner != key)
                && let Some(loser) = self.peers.get(owner)
            {
                losers.entry(*owner).or_insert_with(|| loser.clone()).allowed_ips.retain(|held| held != prefix);
            }
        }
        losers.into_iter().chain([(key, peer)]).map(|(key, peer)| (key, Some(peer))).collect()
    }

    /// The same one after the other: what two are to have is the later one's.
    pub(super) fn putting_all(&self, mut peers: Vec<(PublicKey, Peer)>) -> Changes {
        if peers.len() <= 1 {
            return peers.pop().map(|(key, peer)| self.putting(key, peer)).unwrap_or_default();
        }
        let (mut book, mut changes) = (self.clone(), BTreeMap::new());
        for (key, peer) in peers {
            let put = book.putting(key, peer);
            changes.extend(put.iter().cloned());
            book.make(put);
        }
        changes.into_iter().collect()
    }

    /// Removing the peer.
    pub(super) fn removing(&self, key: &PublicKey) -> Changes {
        self.peers.contains_key(key).then_some((*key, None)).into_iter().collect()
    }

    /// Routing `prefix` to a known peer.
    pub(super) fn giving(&self, key: PublicKey, prefix: IpNet) -> Changes {
        match self.peers.get(&key) {
            Some(peer) if self.owners.get(&prefix) != Some(&key) => {
                let mut peer = peer.clone();
                peer.allowed_ips.push(prefix);
                self.putting(key, peer)
            }
            _ => Changes::new(),
        }
    }

    /// Not routing `prefix` to the peer, if it is routed there.
    pub(super) fn taking(&self, key: &PublicKey, prefix: IpNet) -> Changes {
        match self.peers.get(key) {
            Some(peer) if self.owners.get(&prefix) == Some(key) => {
                let mut peer = peer.clone();
                peer.allowed_ips.retain(|held| *held != prefix);
                vec![(*key, Some(peer))]
            }
            _ => Changes::new(),
        }
    }

    /// Taking over the peers of a device. Their endpoints there may be where they roamed to, so one that was asked for
    /// stays.
    pub(super) fn adopting(&self, peers: Vec<PeerState>) -> Changes {
        let mut gone: BTreeMap<_, _> = self.peers.keys().map(|key| (*key, None)).collect();
        for state in peers {
            let asked = self.peers.get(&state.public_key).filter(|asked| asked.asked_endpoint.is_some());
            let (asked_endpoint, endpoint) = match asked {
                Some(asked) => (asked.asked_endpoint.clone(), asked.endpoint),
                None => (state.endpoint.map(|endpoint| endpoint.to_string()), state.endpoint),
            };
            let peer = Peer {
                asked_endpoint,
                endpoint,
                keepalive_secs: state.persistent_keepalive_secs,
                allowed_ips: state.allowed_ips,
                preshared_key: state.preshared_key,
            };
            gone.insert(state.public_key, Some(peer));
        }
        gone.into_iter().filter(|(key, peer)| self.peers.get(key) != peer.as_ref()).collect()
    }

    /// What undoes `changes` after they were made, told before.
    pub(super) fn undoing(&self, changes: &Changes) -> Changes {
        changes.iter().map(|(key, _)| (*key, self.peers.get(key).cloned())).collect()
    }

    /// Makes `changes`.
    pub(super) fn make(&mut self, changes: Changes) {
        for (key, _) in &changes {
            for prefix in self.peers.remove(key).unwrap_or_default().allowed_ips {
                self.owners.remove(&prefix);
            }
        }
        for (key, peer) in changes {
            let Some(peer) = peer else { continue };
            self.owners.extend(peer.allowed_ips.iter().map(|prefix| (*prefix, key)));
            self.peers.insert(key, peer);
        }
    }

    /// Notes where a peer's name leads to.
    pub(super) fn place(&mut self, key: &PublicKey, endpoint: SocketAddr) {
        if let Some(peer) = self.peers.get_mut(key) {
            peer.endpoint = Some(endpoint);
        }
    }

    /// What a new device has to be told, leaving out `own`, which is no peer of itself.
    pub(super) fn replay(&self, own: &PublicKey) -> Vec<PeerUpdate> {
        self.iter().filter(|(key, _)| *key != own).map(|(key, peer)| peer.update(*key)).collect()
    }
}

/// `changes` as the store has them.
pub(super) fn transaction(scope: &Scope, changes: &Changes) -> Transaction {
    changes.iter().fold(Transaction::new(), |transaction, (key, peer)| match peer {
        Some(peer) => transaction.put(peer.record(scope, key)),
        None => transaction.delete::<state::Peer>(state::Peer::id_of(scope, key)),
    })
}

impl Peer {
    /// Checks everything in `spec` but the endpoint, which was resolved to `endpoint`; `None` where it is not known yet.
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
        let asked_endpoint = endpoint.map(|_| spec.endpoint.clone());
        Ok(Self { asked_endpoint, endpoint, keepalive_secs, allowed_ips, preshared_key: None })
    }

    /// What a store has of a peer. A name as endpoint is not looked up yet.
    fn restore(record: state::Peer) -> (PublicKey, Self) {
        let preshared_key = record.preshared_key.as_ref().map(|key| PresharedKey::from_base64(key.expose()));
        let peer = Self {
            endpoint: record.endpoint.as_deref().and_then(|endpoint| endpoint.parse().ok()),
            asked_endpoint: record.endpoint,
            keepalive_secs: record.keepalive_secs,
            allowed_ips: record.allowed_ips,
            // Only keys are stored.
            preshared_key: preshared_key.and_then(Result::ok).flatten(),
        };
        (record.public_key, peer)
    }

    fn record(&self, scope: &Scope, key: &PublicKey) -> state::Peer {
        state::Peer {
            scope: scope.clone(),
            public_key: *key,
            endpoint: self.asked_endpoint.clone(),
            keepalive_secs: self.keepalive_secs,
            allowed_ips: self.allowed_ips.clone(),
            preshared_key: self.preshared_key.as_ref().map(|key| Secret::new(key.to_base64())),
        }
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

    fn put(book: &mut PeerBook, byte: u8, peer: Peer) {
        let changes = book.putting(key(byte), peer);
        book.make(changes);
    }

    fn prefixes(book: &PeerBook, byte: u8) -> &[IpNet] {
        &book.peer(&key(byte)).unwrap().allowed_ips
    }

    #[test]
    fn a_prefix_has_one_owner() {
        let mut book = PeerBook::default();
        put(&mut book, 1, peer("10.1.0.0/24,10.2.0.0/24").unwrap());
        put(&mut book, 2, peer("10.2.0.0/24").unwrap());
        assert_eq!(prefixes(&book, 1), [net("10.1.0.0/24")]);
        assert_eq!(book.taking(&key(1), net("10.2.0.0/24")), []);
        assert_eq!(prefixes(&book, 2), [net("10.2.0.0/24")]);
        let changes = book.giving(key(1), net("10.2.0.0/24"));
        assert_eq!(changes.len(), 2);
        let back = book.undoing(&changes);
        book.make(changes);
        assert_eq!(book.giving(key(1), net("10.2.0.0/24")), []);
        assert!(prefixes(&book, 2).is_empty());
        assert_eq!(prefixes(&book, 1).len(), 2);
        book.make(back);
        assert_eq!((prefixes(&book, 1), prefixes(&book, 2)), (&[net("10.1.0.0/24")][..], &[net("10.2.0.0/24")][..]));
        let changes = book.removing(&key(2));
        book.make(changes);
        assert_eq!((book.removing(&key(2)), book.giving(key(2), net("10.2.0.0/24"))), (vec![], vec![]));
        put(&mut book, 3, peer("10.2.0.0/24").unwrap());
        assert_eq!(prefixes(&book, 3), [net("10.2.0.0/24")]);
    }

    #[test]
    fn replay_tells_all_but_the_node_itself() {
        let mut book = PeerBook::default();
        put(&mut book, 1, peer("10.1.0.0/24").unwrap());
        put(&mut book, 2, peer("10.2.0.0/24").unwrap());
        let updates = book.replay(&key(2));
        assert_eq!(updates.len(), 1);
        assert_eq!(updates[0].public_key, key(1));
        assert_eq!(updates[0].persistent_keepalive_secs, Some(25));
        assert!(updates[0].replace_allowed_ips && updates[0].allowed_ips.len() == 1);
    }

    #[test]
    fn the_store_has_them_as_they_are() {
        let mut book = PeerBook::default();
        let asked = Peer {
            asked_endpoint: Some("192.0.2.1:7".into()),
            endpoint: "192.0.2.1:7".parse().ok(),
            preshared_key: PresharedKey::new([7; 32]),
            ..peer("10.1.0.0/24,fd00::/64").unwrap()
        };
        put(&mut book, 1, asked.clone());
        put(&mut book, 2, Peer { asked_endpoint: Some("host:7".into()), ..Peer::default() });
        let all: Changes = book.iter().map(|(key, peer)| (*key, Some(peer.clone()))).collect();
        for scope in [Scope::Global, Scope::Service("pay".into())] {
            let records = transaction(&scope, &all).puts.into_iter();
            let records: Vec<_> =
                records.filter_map(|object| <state::Peer as state::Record>::of(&object).cloned()).collect();
            assert!(records.iter().all(|record| record.scope == scope));
            let restored = PeerBook::restore(records.into_iter());
            assert_eq!((&restored.peers, &restored.owners), (&book.peers, &book.owners));
        }
        let gone = transaction(&Scope::Global, &vec![(key(1), None)]);
        assert_eq!((gone.puts.len(), gone.deletions.len()), (0, 1));
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
        put(&mut book, 1, peer("10.1.0.0/24").unwrap());
        let named = Peer { asked_endpoint: Some("host:2".into()), endpoint: asked, ..peer("10.2.0.0/24").unwrap() };
        put(&mut book, 2, named);
        let found = || {
            vec![
                state(2, "198.51.100.2:2", &["10.1.0.0/24"]),
                state(3, "198.51.100.3:3", &[]),
                state(4, "", &["10.4.0.0/24"]),
            ]
        };
        let changes = book.adopting(found());
        assert_eq!(changes.len(), 4);
        book.make(changes);
        assert_eq!(book.adopting(found()), []);
        assert!(book.peer(&key(1)).is_none());
        let two = book.peer(&key(2)).unwrap();
        assert_eq!((two.endpoint, two.keepalive_secs, &two.allowed_ips[..]), (asked, 7, &[net("10.1.0.0/24")][..]));
        assert_eq!(two.asked_endpoint.as_deref(), Some("host:2"));
        assert!(two.preshared_key.is_some() && two.update(key(2)).preshared_key.is_some());
        assert_eq!(book.peer(&key(3)).unwrap().endpoint, "198.51.100.3:3".parse().ok());
        assert_eq!(book.peer(&key(4)).unwrap().endpoint, None);
        let changes = book.giving(key(3), net("10.1.0.0/24"));
        book.make(changes);
        assert!(prefixes(&book, 2).is_empty(), "the owners of prefixes are known");
    }

    #[test]
    fn keys_are_refused_in_the_words_of_the_catalogue() {
        assert!(public_key("base64key").unwrap_err().contains("Invalid symbol"));
        assert_eq!(public_key("AAAA").unwrap_err(), "Invalid key length: expected 32 bytes, got 3");
    }
}
