//! The peers of one worker, found by number, by session or by key.
//!
//! A peer's number ([`PeerRef`]) is the same on every worker of the device; only its owner holds the sessions. The number
//! is what the allowed-IPs table leads to, and what a session base leads to.

use super::noise::{Noise, SessionBase};
use crate::frame::Endpoint;
use crate::key::{PresharedKey, PublicKey};
use crate::noise::random::Random;
use crate::stats::PeerStats;
use crate::tick::Tick;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// The number of a peer within its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerRef(pub u32);

impl PeerRef {
    /// The worker that owns the peer, of `workers`.
    #[must_use]
    pub fn owner(self, workers: u32) -> u32 {
        self.0 % workers.max(1)
    }
}

/// A peer and its sessions.
pub struct Peer<N> {
    /// Its number.
    pub id: PeerRef,
    /// Who it is.
    pub key: PublicKey,
    /// Mixed into its next handshake.
    pub preshared: Option<PresharedKey>,
    /// Its sessions; `None` before they are first needed, and while the device has no identity. Boxed, because most peers
    /// of a large overlay are silent.
    pub sessions: Option<Box<Sessions<N>>>,
    /// Where its datagrams go.
    pub endpoint: Option<Endpoint>,
    /// Between persistent keepalives.
    pub keepalive: Option<Duration>,
    /// Shared with whoever asks for status.
    pub stats: Arc<PeerStats>,
    /// When an authenticated datagram last went either way.
    pub traversed: Tick,
    /// The entry of this peer in the timer queue that counts.
    pub due: Option<Tick>,
    /// Its path refuses trains until then.
    pub singly_until: Tick,
}

/// Noise state with the session base it was made for.
pub struct Sessions<N> {
    /// Upper bits of every session index it uses.
    pub base: SessionBase,
    /// The handshake and the ciphers.
    pub noise: N,
}

/// All peers of a worker.
pub struct PeerTable<N> {
    slots: Vec<Option<Peer<N>>>,
    by_base: HashMap<SessionBase, PeerRef>,
    by_key: HashMap<PublicKey, PeerRef>,
    random: Random,
    worker: u32,
    workers: u32,
    worker_mask: u32,
}

impl<N: Noise> PeerTable<N> {
    /// An empty table for worker number `worker` of `workers`. `random` makes session indices hard to
    /// guess.
    #[must_use]
    pub fn new(worker: u32, workers: u32, random: Random) -> Self {
        Self {
            slots: Vec::new(),
            by_base: HashMap::new(),
            by_key: HashMap::new(),
            random,
            worker,
            workers: workers.max(1),
            worker_mask: workers.next_power_of_two() - 1,
        }
    }

    /// The peer with number `id`.
    pub fn peer_mut(&mut self, id: PeerRef) -> Option<&mut Peer<N>> {
        self.slots.get_mut(usize::try_from(id.0).ok()?)?.as_mut()
    }

    /// The number of the peer with sessions under `base`.
    #[must_use]
    pub fn of_base(&self, base: SessionBase) -> Option<PeerRef> {
        self.by_base.get(&base).copied()
    }

    /// The number of the peer with this key.
    #[must_use]
    pub fn of_key(&self, key: &PublicKey) -> Option<PeerRef> {
        self.by_key.get(key).copied()
    }

    /// Notes that this key belongs to peer `id`, whoever owns it.
    pub fn note(&mut self, id: PeerRef, key: PublicKey) {
        self.by_key.insert(key, id);
    }

    /// The worker that owns peer `id`.
    #[must_use]
    pub fn owner(&self, id: PeerRef) -> u32 {
        id.owner(self.workers)
    }

    /// The worker whose peers use session bases like `base`; no such worker may exist.
    #[must_use]
    pub fn base_owner(&self, base: SessionBase) -> u32 {
        base.0 & self.worker_mask
    }

    /// Adds a peer of this worker, without sessions.
    pub fn add(&mut self, id: PeerRef, key: PublicKey, stats: Arc<PeerStats>) {
        self.remove(id, &key);
        let Ok(at) = usize::try_from(id.0) else { return };
        if at >= self.slots.len() {
            self.slots.resize_with(at + 1, || None);
        }
        self.note(id, key);
        self.slots[at] = Some(Peer {
            id,
            key,
            preshared: None,
            sessions: None,
            endpoint: None,
            keepalive: None,
            stats,
            traversed: Tick::default(),
            due: None,
            singly_until: Tick::default(),
        });
    }

    /// Removes a peer and its sessions.
    pub fn remove(&mut self, id: PeerRef, key: &PublicKey) {
        if self.by_key.get(key) == Some(&id) {
            self.by_key.remove(key);
        }
        let Some(peer) = usize::try_from(id.0).ok().and_then(|at| self.slots.get_mut(at)).and_then(Option::take) else {
            return;
        };
        if let Some(sessions) = peer.sessions {
            self.by_base.remove(&sessions.base);
        }
    }

    /// Gives the peer sessions under a new base if it has none.
    pub fn prepare(&mut self, id: PeerRef, identity: &mut N::Identity) {
        if self.peer_mut(id).is_none_or(|peer| peer.sessions.is_some()) {
            return;
        }
        let base = self.draw_base();
        let Some(peer) = self.peer_mut(id) else { return };
        let noise = N::new(identity, &peer.key, peer.preshared.as_ref(), base);
        peer.sessions = Some(Box::new(Sessions { base, noise }));
        self.by_base.insert(base, id);
    }

    /// Ends all sessions of a peer.
    pub fn end_sessions(&mut self, id: PeerRef) {
        if let Some(ended) = self.peer_mut(id).and_then(|peer| peer.sessions.take()) {
            self.by_base.remove(&ended.base);
        }
    }

    /// The numbers of all peers.
    #[must_use]
    pub fn ids(&self) -> Vec<PeerRef> {
        self.slots.iter().flatten().map(|peer| peer.id).collect()
    }

    /// A free random base whose low bits name this worker.
    fn draw_base(&mut self) -> SessionBase {
        loop {
            let base = SessionBase(self.random.number() as u32 >> 8 & !self.worker_mask | self.worker);
            if !self.by_base.contains_key(&base) {
                return base;
            }
        }
    }
}
