//! The sets: everything that varies. Rules refer to them by name and never change.
//!
//! Most are hashes, so that an element costs the same beside one or ten thousand others. Prefixes need ranges, which the
//! kernel keeps in a tree.

use super::Place;
use crate::firewall::desired::NetworkId;
use crate::firewall::nft::{Kind, Set};
use std::borrow::Cow;

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

    /// Suffix of names.
    pub(super) const fn digit(self) -> char {
        match self {
            Self::V4 => '4',
            Self::V6 => '6',
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
    /// Addresses of members of any network.
    Members(Version),
    /// The chain of the network of each of them.
    Networks(Version),
    /// Ranges of members of any network.
    Ranges(Version),
    /// The chain of the network of each of them.
    RangeNetworks(Version),
    /// Addresses of the members of one network.
    MembersOf(NetworkId, Version),
    /// Ranges of members of one network.
    RangesOf(NetworkId, Version),
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
    /// Ports of members of any network.
    PortMembers,
    /// The chain of the network of each of them.
    PortNetworks,
    /// Ports of the members of one network.
    PortsOf(NetworkId),
}

const V4: Version = Version::V4;
const V6: Version = Version::V6;

impl SetId {
    /// All that are always there.
    pub const CONSTANT: [Self; 27] = [
        Self::Ours,
        Self::Guests,
        Self::Prefixes(V4),
        Self::Prefixes(V6),
        Self::Sources(V4),
        Self::Sources(V6),
        Self::Hosted(V4),
        Self::Hosted(V6),
        Self::Members(V4),
        Self::Members(V6),
        Self::Networks(V4),
        Self::Networks(V6),
        Self::Ranges(V4),
        Self::Ranges(V6),
        Self::RangeNetworks(V4),
        Self::RangeNetworks(V6),
        Self::Published(V4),
        Self::Published(V6),
        Self::PublishedAt(V4),
        Self::PublishedAt(V6),
        Self::Services,
        Self::PublicServices,
        Self::Ports,
        Self::PortSources(V4),
        Self::PortSources(V6),
        Self::PortMembers,
        Self::PortNetworks,
    ];

    /// Those of one network.
    #[must_use]
    pub fn of_network(network: NetworkId) -> [Self; 5] {
        [
            Self::MembersOf(network, V4),
            Self::MembersOf(network, V6),
            Self::RangesOf(network, V4),
            Self::RangesOf(network, V6),
            Self::PortsOf(network),
        ]
    }

    /// The table it is in.
    #[must_use]
    pub fn place(self) -> Place {
        match self {
            Self::Ports | Self::PortSources(_) | Self::PortMembers | Self::PortNetworks | Self::PortsOf(_) => {
                Place::Bridge
            }
            _ => Place::Inet,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> Cow<'static, str> {
        let name = match self {
            Self::Ours => "ours",
            Self::Guests => "guests",
            Self::Prefixes(V4) => "prefixes4",
            Self::Prefixes(V6) => "prefixes6",
            Self::Sources(V4) | Self::PortSources(V4) => "sources4",
            Self::Sources(V6) | Self::PortSources(V6) => "sources6",
            Self::Hosted(V4) => "hosted4",
            Self::Hosted(V6) => "hosted6",
            Self::Members(V4) => "members4",
            Self::Members(V6) => "members6",
            Self::Networks(V4) => "networks4",
            Self::Networks(V6) => "networks6",
            Self::Ranges(V4) => "ranges4",
            Self::Ranges(V6) => "ranges6",
            Self::RangeNetworks(V4) => "range-networks4",
            Self::RangeNetworks(V6) => "range-networks6",
            Self::Published(V4) => "published4",
            Self::Published(V6) => "published6",
            Self::PublishedAt(V4) => "published-at4",
            Self::PublishedAt(V6) => "published-at6",
            Self::Services => "services",
            Self::PublicServices => "public-services",
            Self::Ports => "ports",
            Self::PortMembers => "members",
            Self::PortNetworks => "networks",
            Self::MembersOf(network, version) => {
                return format!("net-{}-members{}", network.number(), version.digit()).into();
            }
            Self::RangesOf(network, version) => {
                return format!("net-{}-ranges{}", network.number(), version.digit()).into();
            }
            Self::PortsOf(network) => return format!("net-{}-ports", network.number()).into(),
        };
        name.into()
    }

    /// Whether its elements are the ends of ranges.
    #[must_use]
    pub fn has_ranges(self) -> bool {
        matches!(self, Self::Prefixes(_) | Self::Ranges(_) | Self::RangeNetworks(_) | Self::RangesOf(..))
    }

    /// The set as part of table `table`.
    #[must_use]
    pub fn set(self, table: &str) -> Set {
        const SERVICE: Kind = Kind::PROTOCOL.then(Kind::PORT);
        let (key, value) = match self {
            Self::Ours | Self::Guests | Self::Ports | Self::PortMembers | Self::PortsOf(_) => (Kind::INTERFACE, None),
            Self::PortNetworks => (Kind::INTERFACE, Some(Kind::VERDICT)),
            Self::Prefixes(version)
            | Self::Hosted(version)
            | Self::Members(version)
            | Self::Ranges(version)
            | Self::MembersOf(_, version)
            | Self::RangesOf(_, version) => (version.address(), None),
            Self::Networks(version) | Self::RangeNetworks(version) => (version.address(), Some(Kind::VERDICT)),
            Self::Sources(version) | Self::PortSources(version) => (Kind::INTERFACE.then(version.address()), None),
            Self::Published(version) => (SERVICE, Some(version.address().then(Kind::PORT))),
            Self::PublishedAt(version) => {
                (version.address().then(Kind::PROTOCOL).then(Kind::PORT), Some(version.address().then(Kind::PORT)))
            }
            Self::Services | Self::PublicServices => (SERVICE, None),
        };
        let (family, table) = (self.place().family(), table.into());
        Set { family, table, name: self.name().into_owned(), key, value, ranges: self.has_ranges() }
    }
}
