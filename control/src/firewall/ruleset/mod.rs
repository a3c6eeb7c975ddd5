//! The ruleset: what is constant. Two tables of ours, their chains, rules and sets; all that varies is elements of sets.
//!
//! ```text
//! inet   prerouting  source ─┬► from-guest   only a container's own addresses
//!                    (raw)   ├► from-tunnel  nothing that lives on this node
//!                            └► the rest     no source of the overlay, unless a route leads back there
//!        prerouting  publish ─► dnat         host port → container
//!        output      publish-local ─► dnat
//!        forward     forward ─► fence ─► … ─► pass   isolation, state, admission; then MSS and mark
//!        input       input ─► from-overlay ─► admit
//!        output      output                  members among the host's own addresses
//!        postrouting egress                  masquerade
//! bridge prerouting  ingress ─► from-port    only a container's own addresses, in ARP too
//!        forward     forward                 isolation between ports
//!        postrouting egress ─► to-port       to a container only what is for it
//! ```
//!
//! **What others see.** A packet that touches none of our interfaces passes untouched. Accepting only ends our own chain:
//! every other chain of the hook still has its say. Packets that we admitted carry [`MARK`] from then on, by which a rule in
//! a chain of others can let them pass.
//!
//! **Interfaces by name.** A rule may name an interface before it is there, so a container is fenced first and attached
//! then.
//!
//! **Isolation.** A member reaches members of its network and is reached by them, and by nobody else of the overlay: in the
//! routed path by address, between ports of a bridge by port, whatever the protocol. One look-up finds the network of the
//! source, another whether the destination is of it too; the packet mark carries the network from the one to the other,
//! so a mark that somebody else set is lost between members. (A verdict map would do without the mark, but the kernel
//! walks through all of it each time an element is added.) The node's own addresses are in reach of all. A published port
//! is public: who reaches the host reaches it.
//!
//! **bridge-nf-call-iptables** may be 0 or 1. With 1, packets between ports of a bridge pass the `inet` chains as well, and a
//! translated destination may be switched to instead of routed to; the `bridge` table knows such packets by [`MARK`],
//! since it has no connections to ask.

mod bridge;
mod inet;
mod phrase;
mod sets;
#[cfg(test)]
mod tests;

pub use sets::{SetId, Version};

use super::nft::{Base, Chain, Expression, Family, Hook, Rule, Set, Table};

/// The bit of the packet mark (`skb->mark`) that says: admitted by this program. Of the bits in known use (kube-proxy 14 and
/// 15, CNI port mapping 13, Cilium 8 to 11, Calico and Tailscale 16 and up, wg-quick's 51820) it is none.
pub const MARK: u32 = 0x1000;

/// Comment of our tables: one without it is somebody else's.
pub const TABLE_COMMENT: &str = "ginnel";

/// One of our tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// What is routed, of both versions of IP.
    Inet,
    /// What is switched between ports of bridges.
    Bridge,
}

impl Place {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Inet, Self::Bridge];

    /// Family of the table.
    #[must_use]
    pub fn family(self) -> Family {
        match self {
            Self::Inet => Family::Inet,
            Self::Bridge => Family::Bridge,
        }
    }
}

/// Why a packet was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropReason {
    /// A container sent from an address that is not its own, or spoke for one.
    GuestSource,
    /// A tunnel brought a source that lives on this node.
    TunnelSource,
    /// A source of the overlay came from outside of it.
    ForeignSource,
    /// For a loopback address, from outside.
    Loopback,
    /// Conntrack could not make sense of it.
    Invalid,
    /// For the overlay, but the route leads out of it.
    Unrouted,
    /// Between two networks that are apart.
    Isolated,
    /// From outside, and neither an answer nor for a published port.
    Unasked,
    /// For the node's overlay address, from outside.
    ForeignInput,
    /// For a container that does not have that address.
    Misdelivered,
    /// A frame that is neither IP nor ARP, or a router's word from a container.
    Protocol,
}

impl DropReason {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::GuestSource,
        Self::TunnelSource,
        Self::ForeignSource,
        Self::Loopback,
        Self::Invalid,
        Self::Unrouted,
        Self::Isolated,
        Self::Unasked,
        Self::ForeignInput,
        Self::Misdelivered,
        Self::Protocol,
    ];

    /// Its name, which is the comment of its rules.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::GuestSource => "guest_source",
            Self::TunnelSource => "tunnel_source",
            Self::ForeignSource => "foreign_source",
            Self::Loopback => "loopback",
            Self::Invalid => "invalid",
            Self::Unrouted => "unrouted",
            Self::Isolated => "isolated",
            Self::Unasked => "unasked",
            Self::ForeignInput => "foreign_input",
            Self::Misdelivered => "misdelivered",
            Self::Protocol => "protocol",
        }
    }

    /// The reason whose rules have this comment.
    #[must_use]
    pub fn of_comment(comment: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.name() == comment)
    }
}

/// Everything constant of one table.
#[derive(Clone, Debug)]
pub struct Structure {
    /// The table.
    pub table: Table,
    /// Its sets.
    pub sets: Vec<Set>,
    /// Its chains.
    pub chains: Vec<Chain>,
    /// Its rules, chain by chain.
    pub rules: Vec<Rule>,
}

/// The name of our tables for an instance.
#[must_use]
pub fn table_name(instance: &str) -> String {
    format!("ginnel-{instance}")
}

/// What the table at `place` is made of.
#[must_use]
pub fn structure(place: Place, instance: &str) -> Structure {
    let (family, name) = (place.family(), table_name(instance));
    let outlines = match place {
        Place::Inet => inet::chains(),
        Place::Bridge => bridge::chains(),
    };
    let mut structure = Structure {
        table: Table { family, name: name.clone(), comment: Some(TABLE_COMMENT.into()), owned: false, dormant: false },
        sets: SetId::ALL.into_iter().filter(|id| id.place() == place).map(|id| id.set(&name)).collect(),
        chains: Vec::new(),
        rules: Vec::new(),
    };
    for outline in outlines {
        structure.rules.extend(outline.rules.into_iter().map(|line| Rule {
            family,
            table: name.clone(),
            chain: outline.name.into(),
            handle: None,
            expressions: line.expressions,
            comment: line.comment.map(Into::into),
        }));
        structure.chains.push(Chain { family, table: name.clone(), name: outline.name.into(), base: outline.base });
    }
    structure
}

/// A chain before it has a table.
struct Outline {
    name: &'static str,
    base: Option<Base>,
    rules: Vec<Line>,
}

/// A rule before it has a chain.
struct Line {
    expressions: Vec<Expression>,
    comment: Option<&'static str>,
}

impl Outline {
    fn hooked(name: &'static str, kind: &str, hook: Hook, priority: i32, rules: Vec<Line>) -> Self {
        Self { name, base: Some(Base { kind: kind.into(), hook, priority, drops: false }), rules }
    }

    fn called(name: &'static str, rules: Vec<Line>) -> Self {
        Self { name, base: None, rules }
    }
}
