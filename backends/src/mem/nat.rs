//! A virtual NAT: some addresses hide behind one, each of their ports behind a port of that one.
//!
//! Mappings do not depend on the destination (RFC 4787, REQ-1). What may come in is either anything (endpoint-independent
//! filtering) or only what an address answers that was spoken to (REQ-8).

use super::link::Way;
use std::net::{IpAddr, SocketAddr};

/// A NAT between some hosts and the rest of the network.
#[derive(Clone, Debug)]
pub struct Nat {
    public: IpAddr,
    inside: Vec<IpAddr>,
    /// Only addresses that were spoken to may answer.
    pub filtering: bool,
    mappings: Vec<Mapping>,
    next_port: u16,
}

#[derive(Clone, Debug)]
struct Mapping {
    inside: SocketAddr,
    port: u16,
    spoken_to: Vec<IpAddr>,
}

/// First port handed out: far from what hosts listen on.
const PORT_FIRST: u16 = 40_000;

impl Nat {
    /// A NAT without mappings, filtering nothing.
    #[must_use]
    pub fn new(public: IpAddr, inside: Vec<IpAddr>) -> Self {
        Self { public, inside, filtering: false, mappings: Vec::new(), next_port: PORT_FIRST }
    }

    /// The address everything inside is seen with.
    #[must_use]
    pub fn public(&self) -> IpAddr {
        self.public
    }

    /// Forgets all mappings, as a router does that restarts: what is sent next gets other ports, and what comes to the
    /// old ones is lost.
    pub fn rebind(&mut self) {
        self.mappings.clear();
    }

    /// Forgets all mappings and has another public address from now on.
    pub fn move_to(&mut self, public: IpAddr) {
        self.public = public;
        self.rebind();
    }

    /// Rewrites the sender of a datagram that leaves.
    pub(super) fn leave(&mut self, way: &mut Way) {
        if !self.inside.contains(&way.from.ip()) || self.inside.contains(&way.to.ip()) {
            return;
        }
        let known = self.mappings.iter().position(|mapping| mapping.inside == way.from);
        let index = known.unwrap_or_else(|| {
            let port = self.next_port;
            self.next_port = self.next_port.checked_add(1).unwrap_or(PORT_FIRST);
            self.mappings.push(Mapping { inside: way.from, port, spoken_to: Vec::new() });
            self.mappings.len() - 1
        });
        let mapping = &mut self.mappings[index];
        if !mapping.spoken_to.contains(&way.to.ip()) {
            mapping.spoken_to.push(way.to.ip());
        }
        way.from = SocketAddr::new(self.public, mapping.port);
    }

    /// Rewrites the receiver of a datagram that enters. False where it is not let in.
    pub(super) fn enter(&self, way: &mut Way) -> bool {
        if way.to.ip() != self.public {
            // Nothing outside can address the inside.
            return !self.inside.contains(&way.to.ip()) || self.inside.contains(&way.from.ip());
        }
        let mapping = self.mappings.iter().find(|mapping| mapping.port == way.to.port());
        let open = |mapping: &&Mapping| !self.filtering || mapping.spoken_to.contains(&way.from.ip());
        match mapping.filter(open) {
            Some(mapping) => {
                way.to = mapping.inside;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ginnel_engine::frame::Ecn;

    fn way(from: &str, to: &str) -> Way {
        Way { from: from.parse().unwrap(), to: to.parse().unwrap(), ecn: Ecn::NOT_ECT }
    }

    #[test]
    fn answers_find_back_until_the_mapping_is_gone() {
        let mut nat = Nat::new("198.51.100.1".parse().unwrap(), vec!["10.0.0.2".parse().unwrap()]);
        let mut out = way("10.0.0.2:51820", "203.0.113.1:7");
        nat.leave(&mut out);
        assert_eq!(out.from, "198.51.100.1:40000".parse().unwrap());
        let mut again = way("10.0.0.2:51820", "203.0.113.9:7");
        nat.leave(&mut again);
        assert_eq!(again.from, out.from);
        let mut back = way("203.0.113.1:7", "198.51.100.1:40000");
        assert!(nat.enter(&mut back));
        assert_eq!(back.to, "10.0.0.2:51820".parse().unwrap());
        assert!(nat.enter(&mut way("192.0.2.55:1", "198.51.100.1:40000")));
        nat.filtering = true;
        assert!(!nat.enter(&mut way("192.0.2.55:1", "198.51.100.1:40000")));
        assert!(!nat.enter(&mut way("203.0.113.1:7", "10.0.0.2:51820")));
        nat.rebind();
        assert!(!nat.enter(&mut way("203.0.113.1:7", "198.51.100.1:40000")));
        let mut new = way("10.0.0.2:51820", "203.0.113.1:7");
        nat.leave(&mut new);
        assert_eq!(new.from.port(), 40_001);
    }

    #[test]
    fn neighbours_and_strangers_pass_untouched() {
        let inside = vec!["10.0.0.2".parse().unwrap(), "10.0.0.3".parse().unwrap()];
        let mut nat = Nat::new("198.51.100.1".parse().unwrap(), inside);
        for (from, to) in [("10.0.0.2:1", "10.0.0.3:1"), ("203.0.113.1:1", "203.0.113.2:1")] {
            let mut passing = way(from, to);
            nat.leave(&mut passing);
            assert_eq!(passing, way(from, to));
            assert!(nat.enter(&mut passing));
            assert_eq!(passing, way(from, to));
        }
    }
}
