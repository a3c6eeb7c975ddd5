//! Neighbours that are known without asking: which link-layer address an address has. Ours are permanent and carry
//! [`PROTOCOL`].

use super::address::family;
use super::mark::PROTOCOL;
use super::request::{Reply, Request};
use super::{HostError, Mac, Netlink};
use netlink_packet_core::Parseable;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::RouteProtocol;
use std::net::IpAddr;

/// One of our neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighbourInfo {
    /// Its address.
    pub address: IpAddr,
    /// Its link-layer address.
    pub mac: Mac,
    /// Index of the device behind which it is.
    pub device: u32,
}

/// Makes a neighbour known, also where another link-layer address was known.
pub(crate) fn replace(neighbour: &NeighbourInfo) -> Request {
    let mut message = write(neighbour);
    message.header.state = NeighbourState::Permanent;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(neighbour.mac.to_vec()));
    message.attributes.push(NeighbourAttribute::Protocol(RouteProtocol::Other(PROTOCOL)));
    Request::replace(format!("add neighbour {}", neighbour.address), RouteNetlinkMessage::NewNeighbour(message))
}

/// Forgets a neighbour.
pub(crate) fn remove(neighbour: &NeighbourInfo) -> Request {
    let message = RouteNetlinkMessage::DelNeighbour(write(neighbour));
    Request::new(format!("remove neighbour {}", neighbour.address), message)
}

/// Asks for the neighbours behind a device, both families.
pub(crate) fn list(device: u32) -> Request {
    let mut message = NeighbourMessage::default();
    message.attributes.push(NeighbourAttribute::IfIndex(device));
    Request::dump("list neighbours", RouteNetlinkMessage::GetNeighbour(message))
}

/// Reads the answer to [`list`]: our neighbours.
pub(crate) fn read_all(replies: &[Reply], device: u32) -> impl Iterator<Item = NeighbourInfo> {
    let read = move |reply: &Reply| {
        let message = NeighbourMessage::parse(&reply.body).ok()?;
        (message.header.ifindex == device).then(|| read(&message))?
    };
    replies.iter().filter_map(read)
}

fn write(neighbour: &NeighbourInfo) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(neighbour.address);
    message.header.ifindex = neighbour.device;
    message.attributes.push(NeighbourAttribute::Destination(neighbour.address.into()));
    message
}

fn read(message: &NeighbourMessage) -> Option<NeighbourInfo> {
    let (mut address, mut mac, mut ours) = (None, None, false);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => address = Some(IpAddr::V4(*v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => address = Some(IpAddr::V6(*v6)),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = Mac::try_from(&**bytes).ok(),
            NeighbourAttribute::Protocol(protocol) => ours = *protocol == RouteProtocol::Other(PROTOCOL),
            _ => {}
        }
    }
    let known = ours && message.header.state == NeighbourState::Permanent;
    known.then_some(NeighbourInfo { address: address?, mac: mac?, device: message.header.ifindex })
}

impl Netlink {
    /// Our neighbours, both families.
    ///
    /// # Errors
    /// [`HostError`] where the kernel could not be asked.
    pub async fn neighbours(&self) -> Result<Vec<NeighbourInfo>, HostError> {
        let request = Request::dump("list neighbours", RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()));
        let replies = self.ask(request).await?;
        Ok(replies.iter().filter_map(|reply| read(&NeighbourMessage::parse(&reply.body).ok()?)).collect())
    }
}
