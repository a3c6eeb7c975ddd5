//! Commands, between two batches.

use super::Core;
use super::departure::{Departure, NOBODY};
use crate::command::{Command, Operation};
use crate::frame::Endpoint;
use crate::key::PrivateKey;
use crate::limits::TRAIN_BYTES_MAX;
use crate::peer::PeerRef;
use crate::peer::noise::{Departure as _, Noise};
use crate::port::{Link, Tun};
use crate::tick::Tick;
use std::time::Duration;

/// Commands per turn: packets are not kept waiting for more.
const COMMANDS_PER_TURN: usize = 8;

impl<N: Noise, T: Tun, L: Link> Core<N, T, L> {
    /// Applies waiting commands. True where there was one.
    pub(super) fn apply_commands(&mut self) -> bool {
        for done in 0..COMMANDS_PER_TURN {
            let Ok(command) = self.wiring.commands.try_recv() else { return done > 0 };
            match command {
                Command::Apply { operations, done } => {
                    for operation in operations.iter() {
                        self.apply(operation);
                    }
                    // Whoever asked may have stopped waiting.
                    let _ = done.try_send(());
                }
                Command::SendDatagram { to, datagram } => self.send_datagram(to, &datagram),
            }
        }
        true
    }

    fn send_datagram(&mut self, to: std::net::SocketAddr, datagram: &[u8]) {
        if datagram.is_empty() || datagram.len() > TRAIN_BYTES_MAX {
            return self.drop_packets(crate::drops::DropReason::OutboundOversize, 1);
        }
        let endpoint = Endpoint { to, source: None };
        let mut departure = Departure::new(&mut self.outbox, &mut self.link, &self.wiring.stats, NOBODY, endpoint);
        departure.slot(datagram.len())[..datagram.len()].copy_from_slice(datagram);
        departure.push(datagram.len());
    }

    fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::SetIdentity(key) => self.set_identity(key.as_ref()),
            Operation::AddPeer { peer, key, stats } => {
                if self.peers.owner(*peer) != self.wiring.worker {
                    return self.peers.note(*peer, *key);
                }
                self.peers.add(*peer, *key, std::sync::Arc::clone(stats));
            }
            Operation::RemovePeer(peer, key) => self.peers.remove(*peer, key),
            Operation::SetPresharedKey(id, key) => {
                let Some(peer) = self.peers.peer_mut(*id).filter(|peer| peer.preshared != *key) else { return };
                peer.preshared.clone_from(key);
                let Some(sessions) = &mut peer.sessions else { return };
                if sessions.noise.set_preshared(key.as_ref()) {
                    self.initiate(*id);
                }
            }
            Operation::SetEndpoint(id, to) => {
                let Some(peer) = self.peers.peer_mut(*id) else { return };
                if peer.endpoint.is_none_or(|known| known.to != *to) {
                    peer.endpoint = Some(Endpoint { to: *to, source: None });
                    peer.singly_until = Tick::default();
                    peer.stats.set_endpoint(Some(*to));
                }
                self.wake(*id);
            }
            Operation::SetKeepalive(id, secs) => {
                let Some(peer) = self.peers.peer_mut(*id) else { return };
                let every = (*secs > 0).then(|| Duration::from_secs(u64::from(*secs)));
                // Going from none to some sends one at once, as in the Linux module.
                if peer.keepalive.is_none() && every.is_some() {
                    peer.traversed = Tick::default();
                }
                peer.keepalive = every;
                self.wake(*id);
            }
            Operation::Route(prefix, peer) => drop(self.routes.insert(*prefix, *peer)),
            Operation::Unroute(prefix) => drop(self.routes.remove(*prefix)),
        }
    }

    fn set_identity(&mut self, key: Option<&PrivateKey>) {
        let random = self.random.fork();
        self.identity = key.map(|key| N::identity(key, &self.wiring.seed, random, &self.wiring.stamps));
        for id in self.peers.ids() {
            self.peers.end_sessions(id);
            self.wake(id);
        }
    }

    /// Begins a handshake with a peer that has sessions and an endpoint.
    fn initiate(&mut self, id: PeerRef) {
        let now = self.now;
        let Some(peer) = self.peers.peer_mut(id) else { return };
        let (Some(endpoint), Some(sessions)) = (peer.endpoint, &mut peer.sessions) else { return };
        let mut departure = Departure::new(&mut self.outbox, &mut self.link, &self.wiring.stats, NOBODY, endpoint);
        sessions.noise.initiate(now, &mut departure);
        peer.traversed = now;
        self.arm(id);
    }
}
