//! A small overlay on virtual wires: numbered nodes with keys and addresses that follow from their number, made each
//! other's peers on request.
//!
//! ```text
//! node n   outside  192.0.2.(n+1):51820   [2001:db8::(n+1)]:51820
//!          inside   10.9.0.(n+1)/32       fd09::(n+1)/128
//! ```
//! Every test says which drops it permits; when the overlay ends, any other is a failure.

use super::packet::{self, Flow};
use super::world::{Host, HostId, HostOptions, World};
use crate::conformance::Family;
use ginnel_engine::command::Operation;
use ginnel_engine::drops::DropReason;
use ginnel_engine::event::Event;
use ginnel_engine::key::{PresharedKey, PrivateKey, PublicKey};
use ginnel_engine::peer::PeerRef;
use ginnel_engine::peer::noise::Noise;
use ginnel_engine::port::Offloads;
use ginnel_engine::stats::{PeerStats, WorkerStats};
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Nodes on one network.
pub struct Overlay<N: Noise> {
    /// Their world.
    pub world: World<N>,
    nodes: Vec<Node>,
    permitted: Vec<DropReason>,
    /// Counters of hosts that were restarted.
    past: Vec<Arc<WorkerStats>>,
}

struct Node {
    options: HostOptions,
    /// Who it knows, by node: number, counters.
    peers: Vec<Option<(PeerRef, Arc<PeerStats>)>>,
    peers_made: u32,
}

/// The UDP port of every node.
pub const PORT: u16 = 51_820;

/// MTU of every node's TUN interface.
pub const MTU: u16 = 1_420;

impl<N: Noise> Overlay<N> {
    /// `count` nodes that do not know each other.
    #[must_use]
    pub fn new(seed: u64, count: u8) -> Self {
        let mut world = World::new(seed);
        let mut node = |n: u8| {
            let options = HostOptions {
                key: key(n.into()),
                addresses: Family::BOTH.map(|family| outside(n.into(), family).ip()).to_vec(),
                port: PORT,
                mtu: MTU,
                seed: seed ^ u64::from(n) << 32,
                offloads: Arc::new(Offloads::default()),
            };
            world.add(&options);
            Node { options, peers: (0..count).map(|_| None).collect(), peers_made: 0 }
        };
        let nodes = (0..count).map(&mut node).collect();
        Self { world, nodes, permitted: Vec::new(), past: Vec::new() }
    }

    /// Two nodes that know each other's IPv4 address.
    #[must_use]
    pub fn pair(seed: u64) -> Self {
        let mut overlay = Self::new(seed, 2);
        overlay.meet(0, 1);
        overlay
    }

    /// Makes two nodes peers of each other, with endpoints.
    pub fn meet(&mut self, a: usize, b: usize) {
        self.introduce(a, b, Some(outside(b, Family::V4)));
        self.introduce(b, a, Some(outside(a, Family::V4)));
    }

    /// Makes node `about` a peer of node `of`, with its inside addresses.
    pub fn introduce(&mut self, of: usize, about: usize, endpoint: Option<SocketAddr>) {
        let node = &mut self.nodes[of];
        let peer = PeerRef(node.peers_made);
        node.peers_made += 1;
        let stats = Arc::new(PeerStats::default());
        node.peers[about] = Some((peer, Arc::clone(&stats)));
        let mut operations = vec![Operation::AddPeer { peer, key: key(about).public(), stats }];
        operations.extend(endpoint.map(|endpoint| Operation::SetEndpoint(peer, endpoint)));
        operations.extend(prefixes(about).map(|prefix| Operation::Route(prefix, peer)));
        self.host(of).apply(operations);
    }

    /// Makes node `of` forget node `about`.
    pub fn forget(&mut self, of: usize, about: usize) {
        let Some((peer, _)) = self.nodes[of].peers[about].take() else { return };
        let mut operations: Vec<_> = prefixes(about).map(Operation::Unroute).to_vec();
        operations.push(Operation::RemovePeer(peer, key(about).public()));
        self.host(of).apply(operations);
    }

    /// Whether node `of` has node `about` as a peer.
    #[must_use]
    pub fn knows(&self, of: usize, about: usize) -> bool {
        self.nodes[of].peers[about].is_some()
    }

    /// Tells node `of` something about its peer, node `about`.
    ///
    /// # Panics
    /// Where they are not peers.
    pub fn tell(&mut self, of: usize, about: usize, operation: impl FnOnce(PeerRef) -> Operation) {
        let peer = self.nodes[of].peers[about].as_ref().expect("the nodes are peers").0;
        self.host(of).apply(vec![operation(peer)]);
    }

    /// Gives node `of` another preshared key with node `about`.
    pub fn set_preshared_key(&mut self, of: usize, about: usize, psk: Option<u8>) {
        let psk = psk.and_then(|byte| PresharedKey::new([byte; 32]));
        self.tell(of, about, |peer| Operation::SetPresharedKey(peer, psk));
    }

    /// Puts a machine without memory in the place of node `n`: same key and addresses, no peers.
    pub fn restart(&mut self, n: usize) {
        self.past.push(Arc::clone(&self.world.host(HostId(n)).stats));
        let node = &mut self.nodes[n];
        node.options.seed = node.options.seed.wrapping_add(1);
        node.options.offloads = Arc::new(Offloads::default());
        node.peers.fill_with(|| None);
        self.world.replace(HostId(n), &node.options);
    }

    /// The counters node `of` keeps of node `about`.
    ///
    /// # Panics
    /// Where they are not peers.
    #[must_use]
    pub fn stats(&self, of: usize, about: usize) -> Arc<PeerStats> {
        Arc::clone(&self.nodes[of].peers[about].as_ref().expect("the nodes are peers").1)
    }

    /// The host of node `n`.
    pub fn host(&mut self, n: usize) -> &mut Host<N> {
        self.world.host(HostId(n))
    }

    /// Everything node `n` told since the last call.
    pub fn events(&mut self, n: usize) -> Vec<Event> {
        self.host(n).events()
    }

    /// Node `from` sends a datagram with `payload` to node `to`.
    pub fn send(&mut self, from: usize, to: usize, family: Family, payload: &[u8]) {
        self.host(from).inject(&packet::udp(inside_flow(from, to, family), payload));
    }

    /// The payloads node `n` received since the last call, with the node they are from.
    ///
    /// # Panics
    /// Where a packet is not sound, or from nobody.
    pub fn received(&mut self, n: usize) -> Vec<(usize, Vec<u8>)> {
        let count = self.nodes.len();
        let mut payloads = Vec::new();
        for packet in self.host(n).received() {
            assert!(packet::is_sound(&packet), "a packet was delivered that is not sound");
            let (flow, payload) = packet::open(&packet).expect("only datagrams are sent");
            let is_source = |from: &usize| Family::BOTH.iter().any(|&family| inside(*from, family) == flow.from.ip());
            let from = (0..count).find(is_source).expect("a packet from nobody was delivered");
            payloads.push((from, payload.to_vec()));
        }
        payloads
    }

    /// Lets some virtual time pass.
    pub fn advance(&mut self, span: Duration) {
        self.world.advance(span);
    }

    /// Does everything that can be done in this moment.
    pub fn settle(&mut self) {
        self.world.settle();
    }

    /// Drops that are no failure of this test, of any node.
    pub fn permit(&mut self, reasons: &[DropReason]) {
        self.permitted.extend(reasons);
    }

    /// Packets that all nodes dropped for `reason`, also before they were restarted.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        let current = self.world.ids().map(|id| &self.world.peek(id).stats);
        self.past.iter().chain(current).map(|stats| stats.drops.packets(reason)).sum()
    }
}

impl<N: Noise> Drop for Overlay<N> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let counted = DropReason::ALL.iter().map(|&reason| (reason, self.dropped(reason)));
        let others: Vec<_> =
            counted.filter(|(reason, packets)| *packets > 0 && !self.permitted.contains(reason)).collect();
        assert!(others.is_empty(), "drops that this test does not permit: {others:?}");
    }
}

/// The key of node `n`.
#[must_use]
pub fn key(n: usize) -> PrivateKey {
    let mut bytes = [0x51; 32];
    // Clear of the ends, where the curve has bits of its own.
    bytes[8..16].copy_from_slice(&(n as u64 + 1).to_le_bytes());
    PrivateKey::new(bytes)
}

/// The identity of node `n`.
#[must_use]
pub fn public_key(n: usize) -> PublicKey {
    key(n).public()
}

/// The address of node `n` on the network.
#[must_use]
pub fn outside(n: usize, family: Family) -> SocketAddr {
    let last = u8::try_from(n + 1).unwrap_or(u8::MAX);
    match family {
        Family::V4 => SocketAddr::from(([192, 0, 2, last], PORT)),
        Family::V6 => SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()], PORT)),
    }
}

/// The address of node `n` in the overlay.
#[must_use]
pub fn inside(n: usize, family: Family) -> IpAddr {
    let last = u8::try_from(n + 1).unwrap_or(u8::MAX);
    match family {
        Family::V4 => IpAddr::from([10, 9, 0, last]),
        Family::V6 => IpAddr::from([0xfd09, 0, 0, 0, 0, 0, 0, last.into()]),
    }
}

/// From node to node in the overlay.
#[must_use]
pub fn inside_flow(from: usize, to: usize, family: Family) -> Flow {
    Flow { from: SocketAddr::new(inside(from, family), 4_000), to: SocketAddr::new(inside(to, family), 5_000) }
}

/// The allowed IPs of node `n`.
#[must_use]
pub fn prefixes(n: usize) -> [IpNet; 2] {
    Family::BOTH.map(|family| IpNet::from(inside(n, family)))
}
