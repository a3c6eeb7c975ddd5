//! The sets: everything that varies. Rules refer to them by name and never change.
//!
//! Most are hashes, so that an element costs the same beside one or ten thousand others. Prefixes need ranges, which the
//! kernel keeps in a tree.

use super::Place;
use crate::firewall::nft::{Kind, Set};

/// A version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Version {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    const fn address(self) -> Kind {
        match self {
            Self::V4 => Kind::IPV4,
            Self::V6 => Kind::IPV6,
        }
    }
}

/// A set of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetId {
    /// Every interface of the overlay on which the host routes: tunnels, bridges, routed veths.
    Ours,
    /// Those of them that lead to containers: bridges, routed veths.
    Guests,
    /// Prefixes of the overlay.
    Prefixes(Version),
    /// Which addresses are behind which of the interfaces that lead to containers.
    Sources(Version),
    /// Addresses of containers here.
    Hosted(Version),
    /// Addresses of members that are no containers here.
    Declared(Version),
    /// The network of each member's address.
    Networks(Version),
    /// The network of each range of members.
    RangeNetworks(Version),
    /// Networks and the addresses of their members.
    Peers(Version),
    /// Networks and the ranges of their members.
    RangePeers(Version),
    /// Published on any address of the host: protocol and port, and the container's address and port.
    Published(Version),
    /// Published on one address of the host.
    PublishedAt(Version),
    /// Protocols and ports of the host for the overlay.
    Services,
    /// Protocols and ports of the host for everybody.
    PublicServices,
    /// Ports of our bridges.
    Ports,
    /// Which addresses are behind which port of a bridge.
    PortSources(Version),
    /// The network of each port with a member behind it.
    PortNetworks,
    /// Networks and the ports of their members.
    PortPeers,
}

const V4: Version = Version::V4;
const V6: Version = Version::V6;

impl SetId {
    /// All of them.
    pub const ALL: [Self; 29] = [
        Self::Ours,
        Self::Guests,
        Self::Prefixes(V4),
        Self::Prefixes(V6),
        Self::Sources(V4),
        Self::Sources(V6),
        Self::Hosted(V4),
        Self::Hosted(V6),
        Self::Declared(V4),
        Self::Declared(V6),
        Self::Networks(V4),
        Self::Networks(V6),
        Self::RangeNetworks(V4),
        Self::RangeNetworks(V6),
        Self::Peers(V4),
        Self::Peers(V6),
        Self::RangePeers(V4),
        Self::RangePeers(V6),
        Self::Published(V4),
        Self::Published(V6),
        Self::PublishedAt(V4),
        Self::PublishedAt(V6),
        Self::Services,
        Self::PublicServices,
        Self::Ports,
        Self::PortSources(V4),
        Self::PortSources(V6),
        Self::PortNetworks,
        Self::PortPeers,
    ];

    /// The table it is in.
    #[must_use]
    pub fn place(self) -> Place {
        match self {
            Self::Ports | Self::PortSources(_) | Self::PortNetworks | Self::PortPeers => Place::Bridge,
            _ => Place::Inet,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Guests => "guests",
            Self::Prefixes(V4) => "prefixes4",
            Self::Prefixes(V6) => "prefixes6",
            Self::Sources(V4) | Self::PortSources(V4) => "sources4",
            Self::Sources(V6) | Self::PortSources(V6) => "sources6",
            Self::Hosted(V4) => "hosted4",
            Self::Hosted(V6) => "hosted6",
            Self::Declared(V4) => "declared4",
            Self::Declared(V6) => "declared6",
            Self::Networks(V4) => "networks4",
            Self::Networks(V6) => "networks6",
            Self::RangeNetworks(V4) => "range-networks4",
            Self::RangeNetworks(V6) => "range-networks6",
            Self::Peers(V4) => "peers4",
            Self::Peers(V6) => "peers6",
            Self::RangePeers(V4) => "range-peers4",
            Self::RangePeers(V6) => "range-peers6",
            Self::Published(V4) => "published4",
            Self::Published(V6) => "published6",
            Self::PublishedAt(V4) => "published-at4",
            Self::PublishedAt(V6) => "published-at6",
            Self::Services => "services",
            Self::PublicServices => "public-services",
            Self::Ports => "ports",
            Self::PortNetworks => "networks",
            Self::PortPeers => "peers",
        }
    }

    /// Whether its elements are the ends of ranges, which mean something only together.
    #[must_use]
    pub fn has_range_ends(self) -> bool {
        matches!(self, Self::Prefixes(_) | Self::RangeNetworks(_))
    }

    /// The set as part of table `table`.
    #[must_use]
    pub fn set(self, table: &str) -> Set {
        const SERVICE: Kind = Kind::PROTOCOL.then(Kind::PORT);
        let (key, value) = match self {
            Self::Ours | Self::Guests | Self::Ports => (Kind::INTERFACE, None),
            Self::Prefixes(version) | Self::Hosted(version) | Self::Declared(version) => (version.address(), None),
            Self::Networks(version) | Self::RangeNetworks(version) => (version.address(), Some(Kind::MARK)),
            Self::Peers(version) | Self::RangePeers(version) => (Kind::MARK.then(version.address()), None),
            Self::PortNetworks => (Kind::INTERFACE, Some(Kind::MARK)),
            Self::PortPeers => (Kind::MARK.then(Kind::INTERFACE), None),
            Self::Sources(version) | Self::PortSources(version) => (Kind::INTERFACE.then(version.address()), None),
            Self::Published(version) => (SERVICE, Some(version.address().then(Kind::PORT))),
            Self::PublishedAt(version) => {
                (version.address().then(Kind::PROTOCOL).then(Kind::PORT), Some(version.address().then(Kind::PORT)))
            }
            Self::Services | Self::PublicServices => (SERVICE, None),
        };
        let parts = match self {
            Self::RangePeers(version) => vec![Kind::MARK.bytes(), version.address().bytes()],
            _ => Vec::new(),
        };
        let ranges = self.has_range_ends() || !parts.is_empty();
        let (family, table) = (self.place().family(), table.into());
        Set { family, table, name: self.name().into(), key, value, ranges, parts }
    }
}
