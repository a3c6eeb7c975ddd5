//! What the kernel tells of a link (`rtnetlink(7)`, `if_link.h`).

use super::Mac;
use crate::host::request::{Reply, attributes, number, text};

/// Bytes of `struct ifinfomsg`.
const HEADER_BYTES: usize = 16;

/// Administratively up, in the flags of the header.
const IFF_UP: u32 = 1;

/// A link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkInfo {
    /// Interface index, unique within the namespace.
    pub index: u32,
    /// Name, at most 15 bytes.
    pub name: String,
    /// MTU in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Kind; hardware has none.
    pub kind: Option<LinkKind>,
    /// Alias, if one was set.
    pub alias: Option<String>,
    /// Device group; 0 is that of every link for which none was set.
    pub group: u32,
    /// Link-layer address, where it has one of six bytes.
    pub mac: Option<Mac>,
    /// Index of the other end of a veth pair, in the namespace of that end.
    pub peer: Option<u32>,
    /// Length of the transmit queue, in packets.
    pub tx_queue_len: Option<u32>,
    /// Index of the bridge it is a port of.
    pub controller: Option<u32>,
    /// How it is a port of a bridge.
    pub port: Option<PortFlags>,
    /// How it is a bridge.
    pub bridge: Option<BridgeInfo>,
    /// Largest superpacket given to the link, in bytes.
    pub gso_max_size: Option<u32>,
    /// Most segments of a superpacket given to the link.
    pub gso_max_segs: Option<u32>,
    /// Largest superpacket merged from what the link received, in bytes.
    pub gro_max_size: Option<u32>,
}

/// Kinds of links this project meets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// One end of a virtual cable.
    Veth,
    /// A link that swallows everything.
    Dummy,
    /// An Ethernet bridge.
    Bridge,
    /// A TUN or TAP interface.
    Tun,
    /// The kernel's own WireGuard.
    Wireguard,
    /// Another kind, under its kernel name.
    Other(String),
}

/// How a bridge treats one of its ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortFlags {
    /// Isolated ports reach the bridge itself and ports that are not isolated, but not each other.
    pub isolated: bool,
    /// Frames may leave by the port they came in by.
    pub hairpin: bool,
}

/// How a bridge works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BridgeInfo {
    /// It takes part in the spanning tree protocol, which keeps new ports closed for seconds.
    pub stp: bool,
    /// It sends multicast only where it believes that somebody listens.
    pub multicast_snooping: bool,
}

impl LinkInfo {
    /// Reads a link message (`RTM_NEWLINK`, `RTM_DELLINK`).
    pub(crate) fn read(reply: &Reply) -> Option<Self> {
        let mut link = Self { index: number(reply.body.get(4..)?)?, ..Self::default() };
        link.up = number(reply.body.get(8..)?)? & IFF_UP != 0;
        for attribute in reply.attributes(HEADER_BYTES) {
            let value = attribute.value();
            match attribute.kind() {
                1 => link.mac = value.try_into().ok(),
                3 => link.name = text(value),
                4 => link.mtu = number(value)?,
                // A link that lies under itself, as some tunnels say, has no other end.
                5 => link.peer = number(value).filter(|peer| *peer != 0),
                10 => link.controller = number(value),
                13 => link.tx_queue_len = number(value),
                18 => link.read_kind(value),
                20 => link.alias = Some(text(value)).filter(|alias| !alias.is_empty()),
                27 => link.group = number(value)?,
                40 => link.gso_max_segs = number(value),
                41 => link.gso_max_size = number(value),
                58 => link.gro_max_size = number(value),
                _ => {}
            }
        }
        Some(link)
    }

    /// Reads `IFLA_LINKINFO`: what kind it is, and of what kind the link is that it is a port of.
    fn read_kind(&mut self, value: &[u8]) {
        let (mut data, mut port_kind, mut port_data) = (None, String::new(), None);
        for attribute in attributes(value) {
            match attribute.kind() {
                1 => self.kind = Some(LinkKind::from(text(attribute.value()))),
                2 => data = Some(BridgeInfo::read(attribute.value())),
                4 => port_kind = text(attribute.value()),
                5 => port_data = Some(PortFlags::read(attribute.value())),
                _ => {}
            }
        }
        self.bridge = data.filter(|_| self.kind == Some(LinkKind::Bridge));
        self.port = port_data.filter(|_| port_kind == "bridge");
    }
}

impl PortFlags {
    fn read(value: &[u8]) -> Self {
        let mut flags = Self::default();
        for attribute in attributes(value) {
            match attribute.kind() {
                4 => flags.hairpin = attribute.value().first() == Some(&1),
                33 => flags.isolated = attribute.value().first() == Some(&1),
                _ => {}
            }
        }
        flags
    }
}

impl BridgeInfo {
    fn read(value: &[u8]) -> Self {
        let mut info = Self::default();
        for attribute in attributes(value) {
            match attribute.kind() {
                5 => info.stp = number(attribute.value()).is_some_and(|state| state != 0),
                23 => info.multicast_snooping = attribute.value().first() == Some(&1),
                _ => {}
            }
        }
        info
    }
}

impl From<String> for LinkKind {
    fn from(kind: String) -> Self {
        match kind.as_str() {
            "veth" => Self::Veth,
            "dummy" => Self::Dummy,
            "bridge" => Self::Bridge,
            "tun" => Self::Tun,
            "wireguard" => Self::Wireguard,
            _ => Self::Other(kind),
        }
    }
}
