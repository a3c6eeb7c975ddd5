//! A laboratory: nodes in network namespaces of their own, joined by virtual cables, with a traffic generator and
//! instruments. The demo, the integration tests and the benchmarks run in it.
//!
//! ```text
//! two nodes      node 0 ══ veth ══ node 1
//! more           node 0 ══ veth ══╗
//!                node 1 ══ veth ══╬ bridge, in the transit namespace
//!                node 2 ══ veth ══╝
//! ```
//!
//! Namespaces have no names and links live inside them, so dropping a [`Lab`] removes everything, as does the death of
//! the process by whatever cause. Processes started in a node hold its namespace: they are their starter's to end.

pub mod container;
pub mod orchestrator;
pub mod process;
pub mod ruleset;
pub mod traffic;
pub mod usage;
pub mod user_ns;
pub mod web;

use crate::host::{HostError, LinkChange, Netns};
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;

/// Name of the link to the underlay, in every node.
pub const UNDERLAY_LINK: &str = "under0";

/// Most nodes of a laboratory: what the last byte of an underlay address counts.
pub const NODES_MAX: usize = 250;

/// How to build a [`Lab`].
#[derive(Clone, Copy, Debug)]
pub struct LabOptions {
    /// Nodes, from 2 to [`NODES_MAX`].
    pub nodes: usize,
    /// MTU of the underlay in bytes.
    pub mtu: u32,
}

impl Default for LabOptions {
    fn default() -> Self {
        Self { nodes: 2, mtu: 1500 }
    }
}

/// Why a laboratory could not be built.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// Too few or too many nodes.
    #[error("a laboratory has 2 to {NODES_MAX} nodes, not {0}")]
    Nodes(usize),
    /// The host refused something.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// Nodes joined by an underlay. The order is that of their addresses.
#[derive(Debug)]
pub struct Lab {
    nodes: Vec<Node>,
    /// Holds the bridge where there is one.
    _transit: Option<Netns>,
}

/// One node: a network namespace with an underlay address of each family.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its namespace. Loopback is up.
    pub netns: Netns,
    /// Underlay address, of TEST-NET-1 (RFC 5737), prefix length 24.
    pub underlay_v4: Ipv4Addr,
    /// Underlay address, of the documentation prefix (RFC 3849), prefix length 64.
    pub underlay_v6: Ipv6Addr,
}

impl Lab {
    /// Builds the namespaces, cables and addresses.
    ///
    /// # Errors
    /// [`LabError::Host`] where the rights for namespaces are missing: see [`user_ns::enter`].
    pub fn build(options: LabOptions) -> Result<Self, LabError> {
        if !(2..=NODES_MAX).contains(&options.nodes) {
            return Err(LabError::Nodes(options.nodes));
        }
        let nodes = (1..=options.nodes).map(Node::create).collect::<Result<Vec<_>, _>>()?;
        let transit = match nodes.as_slice() {
            [a, b] => {
                a.netns.configure(async |netlink| {
                    netlink.create_veth(UNDERLAY_LINK, UNDERLAY_LINK, Some(b.netns.as_fd())).await
                })?;
                None
            }
            _ => Some(join_by_bridge(&nodes, options.mtu)?),
        };
        for node in &nodes {
            node.bring_up(options.mtu)?;
        }
        Ok(Self { nodes, _transit: transit })
    }

    /// The nodes, in the order of their addresses.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }
}

impl Node {
    /// The node as an end of traffic on the underlay.
    #[must_use]
    pub fn end(&self, v6: bool) -> traffic::End {
        let ip = if v6 { IpAddr::V6(self.underlay_v6) } else { IpAddr::V4(self.underlay_v4) };
        traffic::End { netns: self.netns.clone(), ip }
    }

    fn create(number: usize) -> Result<Self, HostError> {
        let netns = Netns::create()?;
        netns.bring_lo_up()?;
        // `build` has checked the bound.
        let last = u8::try_from(number).unwrap_or(u8::MAX);
        Ok(Self {
            netns,
            underlay_v4: Ipv4Addr::new(192, 0, 2, last),
            underlay_v6: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()),
        })
    }

    fn bring_up(&self, mtu: u32) -> Result<(), HostError> {
        let prefixes = [IpNet::new_assert(self.underlay_v4.into(), 24), IpNet::new_assert(self.underlay_v6.into(), 64)];
        self.netns.configure(async |netlink| {
            let link = netlink.link(UNDERLAY_LINK).await?;
            let change = LinkChange { up: Some(true), mtu: Some(mtu), ..LinkChange::default() };
            netlink.change_link(link.index, &change).await?;
            for prefix in prefixes {
                netlink.add_address(link.index, prefix).await?;
            }
            Ok(())
        })
    }
}

fn join_by_bridge(nodes: &[Node], mtu: u32) -> Result<Netns, HostError> {
    let transit = Netns::create()?;
    transit.configure(async |netlink| {
        let bridge = netlink.create_bridge("br0").await?;
        for (number, node) in nodes.iter().enumerate() {
            let port = netlink.create_veth(&format!("port{number}"), UNDERLAY_LINK, Some(node.netns.as_fd())).await?;
            let change =
                LinkChange { up: Some(true), mtu: Some(mtu), controller: Some(bridge), ..LinkChange::default() };
            netlink.change_link(port, &change).await?;
        }
        netlink.change_link(bridge, &LinkChange { up: Some(true), mtu: Some(mtu), ..LinkChange::default() }).await
    })?;
    Ok(transit)
}

/// For tests: whether namespaces can be made here. Prints why not.
#[must_use]
pub fn rights_or_skip() -> bool {
    match Netns::create().and_then(|netns| netns.bring_lo_up()) {
        Ok(()) => true,
        Err(error) => {
            println!("skipped: {error}");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn every_node_reaches_every_other_in_both_families() {
        if !rights_or_skip() {
            return;
        }
        for nodes in [2, 4] {
            let lab = match Lab::build(LabOptions { nodes, mtu: 1400 }) {
                Err(LabError::Host(HostError::Unsupported { what })) => {
                    println!("skipped: {what}: not in this kernel");
                    continue;
                }
                other => other.unwrap(),
            };
            for (a, b) in (0..nodes).flat_map(|a| (0..nodes).map(move |b| (a, b))).filter(|(a, b)| a != b) {
                for v6 in [false, true] {
                    let (a, b) = (lab.nodes()[a].end(v6), lab.nodes()[b].end(v6));
                    traffic::wait_reachable(&a, &b, Duration::from_secs(5)).unwrap();
                }
            }
            let link = lab.nodes()[0].netns.configure(async |netlink| netlink.link(UNDERLAY_LINK).await).unwrap();
            assert_eq!(link.mtu, 1400);
        }
    }

    #[test]
    fn the_number_of_nodes_is_bounded() {
        for nodes in [0, 1, NODES_MAX + 1] {
            assert!(matches!(Lab::build(LabOptions { nodes, mtu: 1500 }), Err(LabError::Nodes(_))));
        }
    }
}
