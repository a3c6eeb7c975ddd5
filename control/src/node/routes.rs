//! Routes to what is behind the peers of an overlay.
//!
//! The address of the global overlay carries the prefix of the cluster, so the kernel routes all of it there. A dedicated
//! overlay has an address without a network: the subnet of its service is on a bridge, where the local workloads are. What
//! goes to its peers takes routes of their prefixes, which go before that of the cluster because they are longer.
//!
//! Only prefixes inside the cluster are routed, and none that holds the subnet on the bridge: a peer gets the traffic it
//! is there for and cannot take the host's.

use super::host::Host;
use super::overlay::{DevicePlan, Live};
use super::peers::{Changes, PeerBook};
use crate::host::HostError;
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

/// Which prefixes of peers get routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RoutePlan {
    /// None: that of the address is enough.
    Address,
    /// Those inside `cluster` that do not hold `own`.
    Peers {
        /// Prefix of the cluster.
        cluster: IpNet,
        /// The subnet of the service on this node.
        own: IpNet,
    },
}

impl RoutePlan {
    fn wants(&self, prefix: &IpNet) -> bool {
        match self {
            RoutePlan::Address => false,
            RoutePlan::Peers { cluster, own } => cluster.contains(prefix) && !prefix.contains(own),
        }
    }
}

/// The routes that the device of `plan` is to have with the peers of `book` after `changes`.
pub(super) fn wanted(plan: &DevicePlan, book: &PeerBook, changes: &Changes) -> BTreeSet<IpNet> {
    if plan.routes == RoutePlan::Address {
        return BTreeSet::new();
    }
    let same = book.iter().filter(|(key, _)| !changes.iter().any(|(changed, _)| changed == *key)).map(|(_, peer)| peer);
    let peers = same.chain(changes.iter().filter_map(|(_, peer)| peer.as_ref()));
    peers.flat_map(|peer| &peer.allowed_ips).filter(|prefix| plan.routes.wants(prefix)).copied().collect()
}

/// Makes the routes that are missing, then removes those too many. Where one cannot be made, those made before it go. One
/// that cannot be removed is noted, and removed the next time.
pub(super) async fn bring_about<H: Host>(host: &H, live: &Live, wanted: &BTreeSet<IpNet>) -> Result<(), HostError> {
    let present = live.routes.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut made = Vec::new();
    for prefix in wanted.difference(&present) {
        // It may be there all the same, where the answer got lost.
        made.push(*prefix);
        if let Err(error) = host.add_route(&live.interface, *prefix, live.plan.address.addr()).await {
            for prefix in made {
                let _ = host.remove_route(&live.interface, prefix).await;
            }
            return Err(error);
        }
    }
    let mut left = BTreeSet::new();
    for prefix in present.difference(wanted) {
        if let Err(error) = host.remove_route(&live.interface, *prefix).await {
            tracing::warn!(%error, %prefix, "a route to a peer that is gone cannot be removed yet");
            left.insert(*prefix);
        }
    }
    if !left.is_empty() {
        live.needs_mending.store(true, Ordering::Release);
    }
    *live.routes.lock().unwrap_or_else(PoisonError::into_inner) = wanted | &left;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_get_what_is_theirs_and_no_more() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let plan = RoutePlan::Peers { cluster: net("10.200.0.0/16"), own: net("10.200.141.128/26") };
        for (prefix, routed) in [
            ("10.200.7.0/26", true),
            ("10.200.141.130/32", true),
            ("10.200.141.128/26", false),
            ("10.200.141.0/24", false),
            ("10.200.0.0/16", false),
            ("0.0.0.0/0", false),
            ("10.201.0.0/26", false),
            ("fd00::/64", false),
        ] {
            assert_eq!(plan.wants(&net(prefix)), routed, "{prefix}");
        }
        assert!(!RoutePlan::Address.wants(&net("10.200.7.0/26")));
    }
}
