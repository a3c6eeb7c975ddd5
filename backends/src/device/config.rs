//! The configuration of a device, and how an update becomes operations for its workers.
//!
//! Here lives what a worker need not know: which keys and prefixes exist, in which order they came, who held a prefix
//! before. Planning an update changes only this copy; it is kept once the workers have the operations.

use super::{DeviceError, PeerState};
use crate::linux::Clock;
use ginnel_engine::command::{DeviceUpdate, Operation, PeerUpdate, PrivateKeyUpdate};
use ginnel_engine::key::{PresharedKey, PrivateKey, PublicKey};
use ginnel_engine::limits::PEERS_MAX;
use ginnel_engine::peer::PeerRef;
use ginnel_engine::stats::PeerStats;
use ginnel_engine::tick::Tick;
use ipnet::IpNet;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Keys, peers and prefixes.
#[derive(Debug, Default)]
pub struct Config {
    pub private_key: Option<PrivateKey>,
    pub fwmark: u32,
    /// By age.
    peers: BTreeMap<Age, ConfigPeer>,
    by_key: HashMap<PublicKey, Age>,
    holders: HashMap<IpNet, Age>,
    next: Age,
    /// Numbers of peers that are gone, to be given out again: the tables of the workers are as long as the largest.
    free: Vec<PeerRef>,
}

/// Counts peers as they are added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Age(u64);

#[derive(Debug)]
struct ConfigPeer {
    id: PeerRef,
    key: PublicKey,
    preshared: Option<PresharedKey>,
    keepalive_secs: u16,
    allowed_ips: Vec<IpNet>,
    stats: Arc<PeerStats>,
}

impl Config {
    /// Whether there is room for all that `update` may add.
    ///
    /// # Errors
    /// [`DeviceError::TooManyPeers`].
    pub fn check(&self, update: &DeviceUpdate) -> Result<(), DeviceError> {
        let kept = if update.replace_peers { 0 } else { self.peers.len() };
        let fits = kept.saturating_add(update.peers.len()) <= PEERS_MAX;
        // An update may name peers that exist; only where the sum is too large is it worth looking.
        let added = || update.peers.iter().filter(|peer| !self.by_key.contains_key(&peer.public_key)).count();
        if fits || kept + added() <= PEERS_MAX { Ok(()) } else { Err(DeviceError::TooManyPeers(PEERS_MAX)) }
    }

    /// Takes an update in that [`Self::check`] found to fit, and returns what the workers have to do.
    pub fn plan(&mut self, update: &DeviceUpdate) -> Vec<Operation> {
        let mut operations = Vec::new();
        if let Some(change) = &update.private_key {
            let key = match change {
                PrivateKeyUpdate::Set(key) => Some(key.clone()),
                PrivateKeyUpdate::Clear => None,
            };
            if self.private_key != key {
                self.private_key.clone_from(&key);
                operations.push(Operation::SetIdentity(key));
            }
            // A device is not its own peer.
            if let Some(own) = self.private_key.as_ref().map(PrivateKey::public) {
                self.remove(&own, &mut operations);
            }
        }
        if let Some(mark) = update.fwmark {
            self.fwmark = mark;
        }
        if update.replace_peers {
            for key in self.peers.values().map(|peer| peer.key).collect::<Vec<_>>() {
                self.remove(&key, &mut operations);
            }
        }
        let own = self.private_key.as_ref().map(PrivateKey::public);
        for peer in &update.peers {
            if Some(peer.public_key) != own {
                self.plan_peer(peer, &mut operations);
            }
        }
        operations
    }

    fn plan_peer(&mut self, update: &PeerUpdate, operations: &mut Vec<Operation>) {
        if update.remove {
            return self.remove(&update.public_key, operations);
        }
        let age = match self.by_key.get(&update.public_key) {
            Some(&age) => age,
            None if update.update_only => return,
            None => self.add(update.public_key, operations),
        };
        let Some(peer) = self.peers.get_mut(&age) else { return };
        let id = peer.id;
        if let Some(preshared) = &update.preshared_key
            && peer.preshared != *preshared
        {
            peer.preshared.clone_from(preshared);
            operations.push(Operation::SetPresharedKey(id, preshared.clone()));
        }
        if let Some(endpoint) = update.endpoint {
            operations.push(Operation::SetEndpoint(id, endpoint));
        }
        if update.replace_allowed_ips {
            for prefix in std::mem::take(&mut peer.allowed_ips) {
                self.holders.remove(&prefix);
                operations.push(Operation::Unroute(prefix));
            }
        }
        for change in &update.allowed_ips {
            let prefix = change.prefix.trunc();
            if change.remove { self.release(prefix, age, operations) } else { self.claim(prefix, age, operations) }
        }
        // Last, so that the first keepalive finds everything else in place.
        if let (Some(secs), Some(peer)) = (update.persistent_keepalive_secs, self.peers.get_mut(&age))
            && peer.keepalive_secs != secs
        {
            peer.keepalive_secs = secs;
            operations.push(Operation::SetKeepalive(id, secs));
        }
    }

    fn add(&mut self, key: PublicKey, operations: &mut Vec<Operation>) -> Age {
        // With no number free, there are as many peers as numbers.
        let fresh = PeerRef(u32::try_from(self.peers.len()).unwrap_or(u32::MAX));
        let id = self.free.pop().unwrap_or(fresh);
        let age = self.next;
        self.next.0 += 1;
        let stats = Arc::new(PeerStats::default());
        operations.push(Operation::AddPeer { peer: id, key, stats: Arc::clone(&stats) });
        self.by_key.insert(key, age);
        let peer = ConfigPeer { id, key, preshared: None, keepalive_secs: 0, allowed_ips: Vec::new(), stats };
        self.peers.insert(age, peer);
        age
    }

    fn remove(&mut self, key: &PublicKey, operations: &mut Vec<Operation>) {
        let Some(peer) = self.by_key.remove(key).and_then(|age| self.peers.remove(&age)) else { return };
        for prefix in peer.allowed_ips {
            self.holders.remove(&prefix);
            operations.push(Operation::Unroute(prefix));
        }
        operations.push(Operation::RemovePeer(peer.id, *key));
        self.free.push(peer.id);
    }

    fn claim(&mut self, prefix: IpNet, age: Age, operations: &mut Vec<Operation>) {
        let before = self.holders.insert(prefix, age);
        if before == Some(age) {
            return;
        }
        if let Some(other) = before.and_then(|before| self.peers.get_mut(&before)) {
            other.allowed_ips.retain(|held| *held != prefix);
        }
        if let Some(peer) = self.peers.get_mut(&age) {
            peer.allowed_ips.push(prefix);
            operations.push(Operation::Route(prefix, peer.id));
        }
    }

    fn release(&mut self, prefix: IpNet, age: Age, operations: &mut Vec<Operation>) {
        if self.holders.get(&prefix) != Some(&age) {
            return;
        }
        self.holders.remove(&prefix);
        if let Some(peer) = self.peers.get_mut(&age) {
            peer.allowed_ips.retain(|held| *held != prefix);
        }
        operations.push(Operation::Unroute(prefix));
    }

    /// The peers with their counters.
    pub fn peer_states(&self, clock: &Clock) -> Vec<PeerState> {
        let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        self.peers
            .values()
            .map(|peer| PeerState {
                public_key: peer.key,
                preshared_key: peer.preshared.clone(),
                endpoint: peer.stats.endpoint(),
                persistent_keepalive_secs: peer.keepalive_secs,
                allowed_ips: peer.allowed_ips.clone(),
                last_handshake: read(&peer.stats.handshake_tick).checked_sub(1).map(|tick| clock.wall(Tick(tick))),
                rx_bytes: read(&peer.stats.rx_bytes),
                tx_bytes: read(&peer.stats.tx_bytes),
                rx_packets: read(&peer.stats.rx_packets),
                tx_packets: read(&peer.stats.tx_packets),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ginnel_engine::command::AllowedIpUpdate;

    fn key(n: u8) -> PublicKey {
        PublicKey([n; 32])
    }

    fn prefixes(texts: &[&str], remove: bool) -> Vec<AllowedIpUpdate> {
        texts.iter().map(|text| AllowedIpUpdate { prefix: text.parse().unwrap(), remove }).collect()
    }

    fn update(peers: Vec<PeerUpdate>) -> DeviceUpdate {
        DeviceUpdate { peers, ..DeviceUpdate::default() }
    }

    fn peer(n: u8, allowed: &[&str]) -> PeerUpdate {
        PeerUpdate { allowed_ips: prefixes(allowed, false), ..PeerUpdate::new(key(n)) }
    }

    fn held(config: &Config) -> Vec<Vec<String>> {
        let texts = |peer: &ConfigPeer| peer.allowed_ips.iter().map(ToString::to_string).collect();
        config.peers.values().map(texts).collect()
    }

    #[test]
    fn a_prefix_belongs_to_who_claimed_it_last() {
        let mut config = Config::default();
        config.plan(&update(vec![peer(1, &["10.0.0.0/8", "10.1.0.7/16"]), peer(2, &["10.1.0.0/16"])]));
        assert_eq!(held(&config), [vec!["10.0.0.0/8"], vec!["10.1.0.0/16"]]);
        // Taking away what another holds changes nothing.
        let mut take = PeerUpdate::new(key(1));
        take.allowed_ips = prefixes(&["10.1.0.0/16"], true);
        assert!(config.plan(&update(vec![take])).is_empty());
        assert_eq!(held(&config)[1], ["10.1.0.0/16"]);
    }

    #[test]
    fn repeating_an_update_does_nothing_but_set_the_endpoint() {
        let mut config = Config::default();
        let mut change = peer(1, &["10.0.0.0/8"]);
        change.endpoint = Some("192.0.2.1:1".parse().unwrap());
        change.persistent_keepalive_secs = Some(25);
        change.preshared_key = Some(PresharedKey::new([3; 32]));
        assert_eq!(config.plan(&update(vec![change.clone()])).len(), 5);
        let again = config.plan(&update(vec![change]));
        assert!(matches!(again[..], [Operation::SetEndpoint(..)]), "{again:?}");
    }

    #[test]
    fn update_only_and_own_key_make_no_peer() {
        let mut config = Config::default();
        let own = PrivateKey::new([9; 32]);
        let mut only = peer(1, &["10.0.0.0/8"]);
        only.update_only = true;
        let mut change = update(vec![only, PeerUpdate::new(own.public())]);
        change.private_key = Some(PrivateKeyUpdate::Set(own.clone()));
        config.plan(&change);
        assert!(config.peers.is_empty());
        // A peer that turns out to be ourselves goes when the key comes.
        let mut config = Config::default();
        config.plan(&update(vec![PeerUpdate::new(own.public())]));
        assert_eq!(config.peers.len(), 1);
        config.plan(&DeviceUpdate { private_key: Some(PrivateKeyUpdate::Set(own)), ..DeviceUpdate::default() });
        assert!(config.peers.is_empty());
    }

    #[test]
    fn numbers_of_peers_that_are_gone_are_given_out_again() {
        let mut config = Config::default();
        for round in 0..100 {
            config.plan(&update(vec![peer(round, &[]), peer(round + 100, &["10.0.0.0/8"])]));
            config.plan(&update(vec![PeerUpdate { remove: true, ..PeerUpdate::new(key(round)) }]));
            config.plan(&update(vec![PeerUpdate { remove: true, ..PeerUpdate::new(key(round + 100)) }]));
        }
        config.plan(&update((0..5).map(|n| peer(n, &[])).collect()));
        let mut numbers: Vec<_> = config.peers.values().map(|peer| peer.id.0).collect();
        let keys: Vec<_> = config.peers.values().map(|peer| peer.key).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [0, 1, 2, 3, 4]);
        assert_eq!(keys, (0..5).map(key).collect::<Vec<_>>(), "the oldest comes first");
    }

    #[test]
    fn replacing_leaves_no_route_behind() {
        let mut config = Config::default();
        config.plan(&update(vec![peer(1, &["10.0.0.0/8", "fd00::/64"]), peer(2, &["0.0.0.0/0"])]));
        let mut change = update(vec![peer(3, &["10.0.0.0/8"])]);
        change.replace_peers = true;
        let operations = config.plan(&change);
        let unrouted = operations.iter().filter(|operation| matches!(operation, Operation::Unroute(_))).count();
        let removed = operations.iter().filter(|operation| matches!(operation, Operation::RemovePeer(..))).count();
        assert_eq!((unrouted, removed), (3, 2));
        assert_eq!(held(&config), [vec!["10.0.0.0/8"]]);
        let mut replace = peer(3, &["10.9.0.0/16"]);
        replace.replace_allowed_ips = true;
        config.plan(&update(vec![replace]));
        assert_eq!(held(&config), [vec!["10.9.0.0/16"]]);
        assert_eq!(config.holders.len(), 1);
    }
}
