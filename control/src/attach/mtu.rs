//! How large the packets of a network may be, from the paths to its peers.
//!
//! A packet of the network travels in a datagram to a peer. What the path takes, less the headers around it, is what the
//! smallest path leaves for all: one size for the tunnel, its bridges, and both ends of every link, so that no packet that
//! fits the first fails at a later one.

use super::plan::{MTU_MAX, MTU_MIN_V4, MTU_MIN_V6};
use crate::host::{HostError, LinkInfo, Netlink};
use std::net::IpAddr;

/// Bytes around a packet besides the outer IP header: UDP 8, WireGuard's type and index 8, counter 8, tag 16 (WireGuard
/// paper, section 5.4.6).
const OVERHEAD: u32 = 8 + 32;

/// Outer IP header (RFC 791, without options; RFC 8200).
const IPV4_HEADER: u32 = 20;
const IPV6_HEADER: u32 = 40;

/// A packet is padded to a multiple of this (WireGuard paper, section 5.4.6).
const PADDING: u32 = 16;

/// MTU before any path is known: what an Ethernet path leaves in either family, as wg-quick(8) has it.
pub const DEFAULT: u32 = 1500 - IPV6_HEADER - OVERHEAD;

/// A path to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// Largest IP packet it takes, in bytes.
    pub mtu: u32,
    /// Its datagrams are IPv6.
    pub v6: bool,
    /// Whether the peer pads also packets of full size, so that the padding has to fit as well. Ours does not, as the paper
    /// has it.
    pub pads_beyond_mtu: bool,
}

impl Path {
    /// A path to a peer that pads as we do.
    #[must_use]
    pub fn new(mtu: u32, v6: bool) -> Self {
        Self { mtu, v6, pads_beyond_mtu: false }
    }

    /// What it leaves for a packet of the network.
    #[must_use]
    pub fn room(&self) -> u32 {
        let header = if self.v6 { IPV6_HEADER } else { IPV4_HEADER };
        let room = self.mtu.saturating_sub(header + OVERHEAD);
        if self.pads_beyond_mtu { room / PADDING * PADDING } else { room }
    }
}

/// The MTU of a network with these paths to its peers. `carries_v6`: it has IPv6 addresses, for which the kernel wants at
/// least 1280 bytes (RFC 8200, section 5); a smaller path then has to fragment the datagrams.
#[must_use]
pub fn network(paths: impl IntoIterator<Item = Path>, carries_v6: bool) -> u32 {
    let room = paths.into_iter().map(|path| path.room()).min().unwrap_or(DEFAULT);
    let least = if carries_v6 { MTU_MIN_V6 } else { MTU_MIN_V4 };
    room.clamp(least, MTU_MAX)
}

impl Netlink {
    /// The path to `address` as the kernel knows it: the MTU of the route, which it may have learnt from `ICMP too big`,
    /// and at most that of the device. Also returns the index of the device: a path through a tunnel of ours is none.
    ///
    /// # Errors
    /// [`HostError`] where there is no route.
    pub async fn path_mtu(&self, address: IpAddr) -> Result<(Path, u32), HostError> {
        let route = self.path_to(address).await?;
        let device: LinkInfo = self.link_by_index(route.device).await?;
        let mtu = route.mtu.map_or(device.mtu, |mtu| mtu.min(device.mtu));
        Ok((Path::new(mtu, address.is_ipv6()), route.device))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_path_decides() {
        let v4 = |mtu| Path::new(mtu, false);
        let v6 = |mtu| Path::new(mtu, true);
        for (paths, expected) in [
            (vec![], 1420),
            (vec![v4(1500)], 1440),
            (vec![v6(1500)], 1420),
            (vec![v4(1500), v6(1500)], 1420),
            (vec![v4(1400), v6(1500)], 1340),
            (vec![v4(9000)], 8940),
            (vec![v6(9000), v4(9000)], 8920),
            (vec![v6(9000), v4(1492), v4(9000)], 1432),
            // The loopback of a test.
            (vec![v4(65_536)], 65_476),
            (vec![v6(1280)], 1280),
            (vec![v4(60)], 1280),
        ] {
            assert_eq!(network(paths.clone(), true), expected, "{paths:?}");
        }
        assert_eq!((network([v6(1280)], false), network([v4(60)], false)), (1200, 68));
        assert_eq!(network([v4(u32::MAX)], true), 65_535);
    }

    #[test]
    fn padding_fits_where_the_peer_adds_it_to_full_packets() {
        for (mtu, v6, expected) in [(1500, false, 1440), (1500, true, 1408), (1400, false, 1328), (9000, true, 8912)] {
            let path = Path { pads_beyond_mtu: true, ..Path::new(mtu, v6) };
            assert_eq!(path.room(), expected);
            // With it the datagram fits the path, and one step more would not.
            let datagram = |packet: u32| if v6 { 40 } else { 20 } + 8 + 32 + packet.next_multiple_of(16);
            assert!(datagram(path.room()) <= mtu && datagram(path.room() + 1) > mtu);
        }
    }
}
