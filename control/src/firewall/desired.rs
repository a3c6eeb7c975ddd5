//! What the firewall is to bring about, in the terms of its caller.

use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;

/// An isolation network. Numbers mean something on this node only; they are what the caller's store has for the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkId(NonZeroU32);

impl NetworkId {
    /// Network number `number`; there is none with number 0.
    #[must_use]
    pub fn new(number: u32) -> Option<Self> {
        NonZeroU32::new(number).map(Self)
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0.get()
    }
}

/// What an interface of the overlay is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Leads to other nodes, global or of one service.
    Tunnel,
    /// Containers are at its ports, and it is their gateway.
    Bridge,
}

/// How a container is connected to the host. Names are those of the host's side.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ContainerLink {
    /// By a port of a bridge, which is an interface of [`Role::Bridge`].
    Port {
        /// The veth.
        veth: String,
        /// The bridge.
        bridge: String,
    },
    /// By an interface of its own, to which host routes lead.
    Routed {
        /// The veth.
        veth: String,
    },
}

/// A container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Its links.
    pub links: Vec<ContainerLink>,
    /// Its addresses, of both families: what it may send from, by any of its links, and what may be sent to it.
    pub addresses: Vec<IpAddr>,
    /// The network it is isolated in; `None` where it is in none.
    pub network: Option<NetworkId>,
}

/// A transport protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// Its IANA number.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

/// Where a port is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Listen {
    /// The protocol.
    pub protocol: Protocol,
    /// Address and port of the host. The unspecified address stands for all of its family.
    pub socket: SocketAddr,
}

/// Who may use a service of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Clients {
    /// Who comes by an interface of the overlay.
    Overlay,
    /// Everybody.
    All,
}

/// A service of the host itself that is to be reached where others close its ports: the name server for containers, the
/// UDP port of a tunnel for everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Service {
    /// The protocol.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
    /// Who may use it.
    pub clients: Clients,
}

/// Everything the firewall is to bring about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Prefixes of the overlay; they must not overlap.
    pub prefixes: BTreeSet<IpNet>,
    /// Tunnels and bridges by name.
    pub interfaces: BTreeMap<String, Role>,
    /// Containers of this node by a name of the caller's.
    pub containers: BTreeMap<String, Container>,
    /// Members of networks that are no containers here: on other nodes, guests at the end of a tunnel, addresses of this
    /// host. A prefix and an address in it must not be in different networks.
    pub members: BTreeMap<IpNet, NetworkId>,
    /// Published ports and the address and port of the container, of the same family.
    pub publications: BTreeMap<Listen, SocketAddr>,
    /// Services of the host.
    pub services: BTreeSet<Service>,
}

/// A change of what is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A prefix is of the overlay.
    AddPrefix(IpNet),
    /// A prefix is no longer.
    RemovePrefix(IpNet),
    /// There is, or will be, an interface.
    AddInterface(String, Role),
    /// An interface is no longer.
    RemoveInterface(String),
    /// There is, or will be, a container. In the place of one with this name.
    AddContainer(String, Container),
    /// A container is no longer; its connections end.
    RemoveContainer(String),
    /// An address or a range of them that is no container here is in a network. In the place of another network.
    AddMember(IpNet, NetworkId),
    /// It is no longer.
    RemoveMember(IpNet),
    /// A port is published.
    Publish(Listen, SocketAddr),
    /// It is no longer; its connections end.
    Unpublish(Listen),
    /// The host has a service.
    AddService(Service),
    /// It has not.
    RemoveService(Service),
}
