//! Who is answered: clients in the networks of the overlay. Everybody else is refused, and not often, so that the server is
//! of no use to whoever sends queries in the name of others (RFC 5358).

use super::config::REFUSALS_MAX;
use arc_swap::ArcSwap;
use ipnet::IpNet;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

pub(super) struct Clients {
    networks: ArcSwap<Vec<IpNet>>,
    refusals: Mutex<Refusals>,
}

struct Refusals {
    second: Instant,
    left: u32,
}

impl Default for Clients {
    fn default() -> Self {
        let refusals = Mutex::new(Refusals { second: Instant::now(), left: REFUSALS_MAX });
        Self { networks: ArcSwap::default(), refusals }
    }
}

impl Clients {
    pub(super) fn set(&self, networks: &[IpNet]) {
        self.networks.store(IpNet::aggregate(&networks.to_vec()).into());
    }

    /// The host asks itself by its own addresses, which are of these networks, or over the loopback.
    pub(super) fn allow(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        client.is_loopback() || self.are_ours(&IpNet::from(client))
    }

    /// Whether all of these addresses are in the networks.
    pub(super) fn are_ours(&self, addresses: &IpNet) -> bool {
        self.networks.load().iter().any(|network| network.contains(addresses))
    }

    /// The network these addresses are in.
    pub(super) fn network_of(&self, ip: IpAddr) -> Option<IpNet> {
        self.networks.load().iter().find(|network| network.contains(&ip)).copied()
    }

    /// Whether one more stranger may be told so.
    pub(super) fn may_refuse(&self, now: Instant) -> bool {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(refusals.second) >= Duration::from_secs(1) {
            *refusals = Refusals { second: now, left: REFUSALS_MAX };
        }
        let may = refusals.left > 0;
        refusals.left = refusals.left.saturating_sub(1);
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_of_the_networks_and_the_host_are_answered() {
        let clients = Clients::default();
        clients.set(&["10.200.0.0/17", "10.200.128.0/17", "fd00::/64"].map(|network| network.parse().unwrap()));
        let allowed = |ip: &str| clients.allow(ip.parse().unwrap());
        assert!(["10.200.0.1", "10.200.255.1", "fd00::9", "127.0.0.1", "::ffff:10.200.0.1"].into_iter().all(allowed));
        assert!(!["10.201.0.1", "fd01::9", "::ffff:8.8.8.8", "192.168.0.1"].into_iter().any(allowed));
        assert!(clients.are_ours(&"10.200.0.0/16".parse().unwrap()));
        assert_eq!(clients.network_of("10.200.1.1".parse().unwrap()), Some("10.200.0.0/16".parse().unwrap()));
        clients.set(&[]);
        assert!(!allowed("10.200.0.1"));
    }

    #[test]
    fn strangers_are_told_so_many_times_a_second() {
        let (clients, start) = (Clients::default(), Instant::now());
        let told = |at| (0..1_000).filter(|_| clients.may_refuse(at)).count();
        assert_eq!(told(start), REFUSALS_MAX as usize);
        assert_eq!(told(start + Duration::from_millis(900)), 0);
        assert_eq!(told(start + Duration::from_millis(2_100)), REFUSALS_MAX as usize);
    }
}
