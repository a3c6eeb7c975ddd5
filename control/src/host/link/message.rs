//! Requests about links.

use super::{BridgeInfo, Mac, PortFlags, check_name};
use crate::host::HostError;
use crate::host::request::Request;
use ginnel_engine::limits::train_packets;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, BridgeStpState, In6AddrGenMode, InetDevConf, InfoBridge, InfoBridgePort,
    InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo,
    LinkMessage,
};
use std::os::fd::{AsRawFd, BorrowedFd};

/// `rp_filter`: a source is accepted where there is any route back, by whichever link.
const REVERSE_PATH_LOOSE: i32 = 2;

/// A change of a link. Fields that are `None` stay as they are; all others are applied in one request.
#[derive(Clone, Debug, Default)]
pub struct LinkChange<'a> {
    /// Up or down.
    pub up: Option<bool>,
    /// MTU in bytes.
    pub mtu: Option<u32>,
    /// Length of the transmit queue, in packets.
    pub tx_queue_len: Option<u32>,
    /// Alias; the empty text removes it.
    pub alias: Option<&'a str>,
    /// Device group.
    pub group: Option<u32>,
    /// Index of the bridge to become a port of; 0 leaves it.
    pub controller: Option<u32>,
    /// How the bridge is to treat the port, which it has to be by then.
    pub port: Option<PortFlags>,
    /// How the link, a bridge, is to work.
    pub bridge: Option<BridgeInfo>,
    /// `false`: an IPv6 link-local address is not made when the link comes up, so nothing is sent about one either.
    pub link_local: Option<bool>,
    /// `true`: replies may leave by another link than the one their question came in by (RFC 3704, section 2.4).
    pub loose_reverse_path: Option<bool>,
    /// `IFLA_GSO_MAX_SIZE`: largest superpacket the stack gives to the link, in bytes. Up to 65,536 it holds for both
    /// families.
    pub gso_max_size: Option<u32>,
    /// `IFLA_GSO_MAX_SEGS`: most segments of such a superpacket.
    pub gso_max_segs: Option<u32>,
    /// `IFLA_GRO_MAX_SIZE`: largest superpacket merged from received packets, in bytes.
    pub gro_max_size: Option<u32>,
    /// Namespace to move to. Addresses and routes of the link are lost by it.
    pub netns: Option<BorrowedFd<'a>>,
    /// Name; together with a namespace, the name there.
    pub name: Option<&'a str>,
}

/// One end of a veth pair to be made.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct VethEnd<'a> {
    pub(crate) name: &'a str,
    /// The kernel's 1500 where `None`. Superpackets are bounded by it, too, so that a tunnel need not cut them.
    pub(crate) mtu: Option<u32>,
    /// Random where `None`.
    pub(crate) mac: Option<Mac>,
}

/// A veth pair to be made, its ends down.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NewVeth<'a> {
    pub(crate) near: VethEnd<'a>,
    pub(crate) far: VethEnd<'a>,
    /// Where the far end is made; beside the near one where `None`.
    pub(crate) far_netns: Option<BorrowedFd<'a>>,
    /// Group of the near end.
    pub(crate) group: u32,
    /// Bridge the near end becomes a port of.
    pub(crate) controller: Option<u32>,
}

/// A bridge to be made, down, without spanning tree and multicast snooping: there are no loops among our links, a port
/// has to serve at once, and neighbour discovery must not depend on reports that sleeping listeners do not send. Its MTU
/// has to be changed afterwards: one that a bridge is made with lasts only until its ports change.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NewBridge<'a> {
    pub(crate) name: &'a str,
    /// Without one it takes the lowest of its ports', and changes it with them.
    pub(crate) mac: Option<Mac>,
    pub(crate) group: u32,
}

/// Asks for the link called `name`.
pub(crate) fn find(name: &str) -> Result<Request, HostError> {
    check_name(name)?;
    Ok(get(format!("find link {name}"), 0, Some(LinkAttribute::IfName(name.into()))))
}

/// Asks for the link with this index.
pub(crate) fn look_up(index: u32) -> Request {
    get(format!("find link {index}"), index, None)
}

/// Asks for all links.
pub(crate) fn list() -> Request {
    let message = link(0, [LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])]);
    Request::dump("list links", RouteNetlinkMessage::GetLink(message))
}

/// Makes a veth pair in one request, the far end in its namespace under its final name.
pub(crate) fn create_veth(new: &NewVeth<'_>) -> Result<Request, HostError> {
    let mut far = end(&new.far)?;
    far.extend(new.far_netns.map(|netns| LinkAttribute::NetNsFd(netns.as_raw_fd())));
    let mut near = end(&new.near)?;
    near.extend(new.controller.map(LinkAttribute::Controller));
    near.push(LinkAttribute::Group(new.group));
    let far = InfoData::Veth(InfoVeth::Peer(link(0, far)));
    near.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(far)]));
    let what = format!("create link {} with {} at its other end", new.near.name, new.far.name);
    Ok(Request::create(what, RouteNetlinkMessage::NewLink(link(0, near))))
}

/// Makes a bridge.
pub(crate) fn create_bridge(new: &NewBridge<'_>) -> Result<Request, HostError> {
    let mut attributes = vec![LinkAttribute::Group(new.group)];
    attributes.extend(new.mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
    attributes.push(bridge(BridgeInfo::default()));
    create(new.name, attributes)
}

/// Makes a dummy link.
pub(super) fn create_dummy(name: &str) -> Result<Request, HostError> {
    create(name, vec![LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Dummy)])])
}

/// Changes the link with this index. The descriptor of a namespace has to stay open until the request is answered.
pub(crate) fn change(index: u32, change: &LinkChange<'_>) -> Result<Request, HostError> {
    if let Some(name) = change.name {
        check_name(name)?;
    }
    let attributes = [
        change.mtu.map(LinkAttribute::Mtu),
        change.tx_queue_len.map(LinkAttribute::TxQueueLen),
        change.alias.map(|alias| LinkAttribute::IfAlias(alias.into())),
        change.group.map(LinkAttribute::Group),
        change.controller.map(LinkAttribute::Controller),
        change.port.map(port).or(change.bridge.map(bridge)),
        families(change),
        change.gso_max_size.map(LinkAttribute::GsoMaxSize),
        change.gso_max_segs.map(LinkAttribute::GsoMaxSegs),
        change.gro_max_size.map(LinkAttribute::GroMaxSize),
        change.netns.map(|netns| LinkAttribute::NetNsFd(netns.as_raw_fd())),
        change.name.map(|name| LinkAttribute::IfName(name.into())),
    ];
    let mut message = link(index, attributes.into_iter().flatten());
    if let Some(up) = change.up {
        message.header.change_mask = LinkFlags::Up;
        message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
    }
    Ok(Request::new(format!("change link {index}"), RouteNetlinkMessage::NewLink(message)))
}

/// Deletes the link with this index.
pub(crate) fn delete(index: u32) -> Request {
    Request::new(format!("delete link {index}"), RouteNetlinkMessage::DelLink(link(index, [])))
}

fn get(what: String, index: u32, selector: Option<LinkAttribute>) -> Request {
    let message = link(index, selector.into_iter().chain([LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])]));
    Request::new(what, RouteNetlinkMessage::GetLink(message))
}

fn create(name: &str, mut attributes: Vec<LinkAttribute>) -> Result<Request, HostError> {
    check_name(name)?;
    attributes.push(LinkAttribute::IfName(name.into()));
    Ok(Request::create(format!("create link {name}"), RouteNetlinkMessage::NewLink(link(0, attributes))))
}

fn end(end: &VethEnd<'_>) -> Result<Vec<LinkAttribute>, HostError> {
    check_name(end.name)?;
    // The kernel would prepare queues for every processor of the machine and use one of them.
    let mut attributes =
        vec![LinkAttribute::IfName(end.name.into()), LinkAttribute::NumTxQueues(1), LinkAttribute::NumRxQueues(1)];
    if let Some(mtu) = end.mtu {
        let (segs, size) = superpacket(mtu);
        attributes.extend([LinkAttribute::Mtu(mtu), LinkAttribute::GsoMaxSegs(segs), LinkAttribute::GsoMaxSize(size)]);
    }
    attributes.extend(end.mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
    Ok(attributes)
}

/// Most segments and bytes of a superpacket that leaves by a link of this MTU towards a tunnel.
pub(crate) fn superpacket(mtu: u32) -> (u32, u32) {
    let segs = u32::try_from(train_packets(mtu as usize)).unwrap_or(1);
    (segs, segs * mtu)
}

fn port(flags: PortFlags) -> LinkAttribute {
    let data = vec![InfoBridgePort::Isolated(flags.isolated), InfoBridgePort::HairpinMode(flags.hairpin)];
    let data = InfoPortData::BridgePort(data);
    LinkAttribute::LinkInfo(vec![LinkInfo::PortKind(InfoPortKind::Bridge), LinkInfo::PortData(data)])
}

fn bridge(info: BridgeInfo) -> LinkAttribute {
    let stp = if info.stp { BridgeStpState::KernelStp } else { BridgeStpState::Disabled };
    let data = vec![InfoBridge::StpState(stp), InfoBridge::MulticastSnooping(info.multicast_snooping)];
    LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge), LinkInfo::Data(InfoData::Bridge(data))])
}

/// Settings that the address families keep for each link.
fn families(change: &LinkChange<'_>) -> Option<LinkAttribute> {
    let mut families = Vec::new();
    if let Some(loose) = change.loose_reverse_path {
        let mut conf = InetDevConf::default();
        conf.rp_filter = if loose { REVERSE_PATH_LOOSE } else { 1 };
        families.push(AfSpecUnspec::Inet(vec![AfSpecInet::DevConfRequest(conf)]));
    }
    if let Some(link_local) = change.link_local {
        let mode = if link_local { In6AddrGenMode::Eui64 } else { In6AddrGenMode::None };
        families.push(AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(mode)]));
    }
    (!families.is_empty()).then_some(LinkAttribute::AfSpecUnspec(families))
}

fn link(index: u32, attributes: impl IntoIterator<Item = LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes.extend(attributes);
    message
}
