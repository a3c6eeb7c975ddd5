//! What an attachment is to be, fully decided: every name, address, route and size.
//!
//! [`super::wiring`] makes plans for the topologies of this project; whoever needs another one fills in the fields.

use super::AttachError;
use crate::host::ipv6::has_v6;
use crate::host::{HostError, Mac, Mark, PortFlags, RouteInfo, RuleInfo, TABLE_MAIN, check_name};
use ipnet::IpNet;
use std::collections::HashSet;
use std::net::IpAddr;

/// Most links of one attachment: one for the service and one for the global overlay, and as many again for what is to
/// come.
pub const LINKS_MAX: usize = 4;

/// Most addresses, routes, rules and gateways of a link, each. A batch of requests stays far below the kernel's limits.
pub const ENTRIES_MAX: usize = 64;

/// Smallest MTU of a link with an IPv6 address (RFC 8200, section 5); the kernel takes IPv6 away below it.
pub const MTU_MIN_V6: u32 = 1_280;

/// Smallest MTU of a link with an IPv4 address (RFC 791, section 3.2).
pub const MTU_MIN_V4: u32 = 68;

/// Largest MTU of a link: that of an IPv4 packet.
pub const MTU_MAX: u32 = 65_535;

/// One container on the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Who the attachment belongs to: a container, in a way that no other one shares, also not a later one with the same
    /// process id.
    pub owner: String,
    /// Its links.
    pub links: Vec<LinkPlan>,
}

/// A veth pair, one end in the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkPlan {
    /// Name of the host's end.
    pub host_name: String,
    /// What the host's end leads to.
    pub host: HostEnd,
    /// Name of the container's end.
    pub name: String,
    /// MTU of both ends, in bytes.
    pub mtu: u32,
    /// Link-layer address of the container's end; see [`super::wiring::mac`].
    pub mac: Mac,
    /// Addresses of the container's end, with the prefixes that are directly connected through it.
    pub addresses: Vec<IpNet>,
    /// Routes of the container through it.
    pub routes: Vec<RoutePlan>,
    /// Rules of the container that send packets to tables of `routes`.
    pub rules: Vec<RuleInfo>,
    /// Addresses that the container finds at the host's end without asking.
    pub neighbours: Vec<IpAddr>,
}

/// What the host's end of a veth pair leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostEnd {
    /// It is a port of a bridge of ours.
    Port {
        /// Name of the bridge.
        bridge: String,
        /// How the bridge treats it.
        flags: PortFlags,
    },
    /// The host routes to it.
    Routed {
        /// Routes of the host through it.
        routes: Vec<RoutePlan>,
    },
}

/// A route through a link that has no index yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoutePlan {
    /// Where to.
    pub prefix: IpNet,
    /// The next hop; `None` where the prefix is directly connected.
    pub gateway: Option<IpAddr>,
    /// Preferred source address of packets sent along it.
    pub source: Option<IpAddr>,
    /// Largest packet sent along it, in bytes, where that is less than the link's.
    pub mtu: Option<u32>,
    /// Its table.
    pub table: u32,
}

impl RoutePlan {
    /// A route of the main table to a prefix that is directly connected.
    #[must_use]
    pub fn new(prefix: IpNet) -> Self {
        Self { prefix: prefix.trunc(), gateway: None, source: None, mtu: None, table: TABLE_MAIN }
    }

    /// The same through `gateway`.
    #[must_use]
    pub fn via(self, gateway: IpAddr) -> Self {
        Self { gateway: Some(gateway), ..self }
    }

    /// The route through the link with this index.
    pub(super) fn on(&self, device: u32) -> RouteInfo {
        let Self { prefix, gateway, source, mtu, table } = *self;
        RouteInfo { prefix: prefix.trunc(), device, gateway, source, mtu, table }
    }
}

impl HostEnd {
    /// The bridge it is a port of.
    pub(super) fn bridge(&self) -> Option<&str> {
        match self {
            Self::Port { bridge, .. } => Some(bridge),
            Self::Routed { .. } => None,
        }
    }
}

impl LinkPlan {
    /// What the mark of the link says.
    pub(super) fn object(&self, owner: &str) -> String {
        format!("{owner}/{}", self.name)
    }

    /// Whether it carries IPv6.
    pub(super) fn has_v6(&self) -> bool {
        self.addresses.iter().any(|address| address.addr().is_ipv6())
    }

    fn check(&self) -> Result<(), String> {
        let names = [Some(&*self.host_name), Some(&*self.name), self.host.bridge()];
        for name in names.into_iter().flatten() {
            check_name(name).map_err(|error| error.to_string())?;
        }
        let host_routes = match &self.host {
            HostEnd::Port { .. } => 0,
            HostEnd::Routed { routes } => routes.len(),
        };
        let counts = [self.addresses.len(), self.routes.len(), self.rules.len(), self.neighbours.len(), host_routes];
        let name = &self.name;
        if counts.iter().any(|count| *count > ENTRIES_MAX) {
            return Err(format!("{name} has more than {ENTRIES_MAX} addresses, routes, rules or neighbours"));
        }
        if self.addresses.is_empty() {
            return Err(format!("{name} has no address"));
        }
        check_link(name, self.mtu, self.has_v6(), self.mac)
    }
}

impl Plan {
    /// Checks what the kernel would not, or in words that help less.
    ///
    /// # Errors
    /// [`AttachError::Plan`] with the reason.
    pub(super) fn check(&self, mark: &Mark) -> Result<(), AttachError> {
        let bad = |reason: String| AttachError::Plan { owner: self.owner.clone(), reason };
        if !(1..=LINKS_MAX).contains(&self.links.len()) {
            return Err(bad(format!("it has {} links, not 1 to {LINKS_MAX}", self.links.len())));
        }
        for link in &self.links {
            mark.alias(&link.object(&self.owner)).map_err(|error| bad(error.to_string()))?;
            link.check().map_err(bad)?;
        }
        let distinct = |names: HashSet<&str>| names.len() == self.links.len();
        let outside = self.links.iter().map(|link| &*link.host_name).collect();
        let inside = self.links.iter().map(|link| &*link.name).collect();
        if !distinct(outside) || !distinct(inside) {
            return Err(bad("two of its links have one name".into()));
        }
        Ok(())
    }
}

fn check_link(name: &str, mtu: u32, has_v6: bool, mac: Mac) -> Result<(), String> {
    let mtu_min = if has_v6 { MTU_MIN_V6 } else { MTU_MIN_V4 };
    if !(mtu_min..=MTU_MAX).contains(&mtu) {
        return Err(format!("{name} has MTU {mtu}, which is not between {mtu_min} and {MTU_MAX}"));
    }
    // The first bit of a link-layer address is that of groups.
    if mac[0] & 1 != 0 || mac == Mac::default() {
        return Err(format!("{name} has the link-layer address {mac:02x?}, which is none of a single link"));
    }
    Ok(())
}

/// Whether the kernel can be told anything about IPv6 on a link of this size: whether it has any, and makes room for it.
pub(super) fn has_room_for_v6(mtu: u32) -> bool {
    mtu >= MTU_MIN_V6 && has_v6()
}

/// The owner that the mark of a link names.
pub(super) fn owner_of(object: &str) -> &str {
    object.rsplit_once('/').map_or(object, |(owner, _)| owner)
}

/// A bridge of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgePlan {
    /// Its name.
    pub name: String,
    /// What it is for, for its mark: `service:web`, say. It must not be what a link of an attachment is for, and must stay
    /// the same, because only the bridge that is for it is taken up again.
    pub object: String,
    /// MTU in bytes.
    pub mtu: u32,
    /// Its link-layer address.
    pub mac: Mac,
    /// Its addresses, the gateways of its containers, with their prefixes.
    pub addresses: Vec<IpNet>,
}

impl BridgePlan {
    pub(super) fn check(&self, mark: &Mark) -> Result<(), AttachError> {
        let words = |error: HostError| error.to_string();
        let checked = check_name(&self.name).map_err(words);
        let checked = checked.and_then(|()| mark.alias(&self.object).map(drop).map_err(words));
        let checked = checked.and_then(|()| check_link(&self.name, self.mtu, self.has_v6(), self.mac));
        checked.map_err(|reason| AttachError::Plan { owner: self.object.clone(), reason })
    }

    pub(super) fn has_v6(&self) -> bool {
        self.addresses.iter().any(|address| address.addr().is_ipv6())
    }
}
