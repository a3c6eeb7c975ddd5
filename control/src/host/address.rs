//! Addresses of links. IPv6 addresses are added without duplicate address detection (RFC 4862, section 5.4): ours are
//! assigned by the overlay, and a tunnel has no neighbours to ask, so they are usable at once.

use super::mark::PROTOCOL;
use super::request::{Reply, Request, number};
use super::{HostError, Netlink};
use ipnet::IpNet;
use netlink_packet_core::Parseable;
use netlink_packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressProtocol, AddressScope,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::net::IpAddr;

/// An address of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AddressInfo {
    /// With its prefix.
    pub(crate) address: IpNet,
    /// It carries our mark. Kernels before 5.18 keep none.
    pub(crate) ours: bool,
}

/// Gives `address` to a link; `replace` is content where it has it.
pub(crate) fn add(index: u32, address: IpNet, replace: bool) -> Request {
    let what = format!("add address {address}");
    let mut message = write(index, address);
    message.attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(PROTOCOL)));
    if address.addr().is_ipv6() {
        message.header.flags |= AddressHeaderFlags::Nodad;
    }
    let message = RouteNetlinkMessage::NewAddress(message);
    if replace { Request::replace(what, message) } else { Request::create(what, message) }
}

/// Takes `address` from a link.
pub(crate) fn remove(index: u32, address: IpNet) -> Request {
    Request::new(format!("remove address {address}"), RouteNetlinkMessage::DelAddress(write(index, address)))
}

/// Asks for the addresses of a link, both families.
pub(crate) fn list(index: u32) -> Request {
    let mut message = AddressMessage::default();
    message.header.index = index;
    Request::dump("list addresses", RouteNetlinkMessage::GetAddress(message))
}

/// Asks for the addresses of all links, both families.
pub(crate) fn list_all() -> Request {
    list(0)
}

/// Reads the answer to [`list_all`]: what the namespace answers to.
pub(crate) fn held(replies: &[Reply]) -> impl Iterator<Item = IpAddr> {
    replies.iter().filter_map(|reply| Some(read(reply, index(reply)?)?.address.addr()))
}

/// Reads the answer to [`list`].
pub(crate) fn read_all(replies: &[Reply], index: u32) -> Vec<AddressInfo> {
    // A kernel before 4.20 sends those of all links.
    replies.iter().filter_map(|reply| read(reply, index)).collect()
}

/// The index of the link that an address message is about.
pub(super) fn index(reply: &Reply) -> Option<u32> {
    number(reply.body.get(4..)?)
}

/// Reads an address message of the link with this index.
fn read(reply: &Reply, index: u32) -> Option<AddressInfo> {
    let message = AddressMessage::parse(&*reply.body).ok()?;
    let (mut local, mut far, mut ours) = (None, None, false);
    for attribute in &message.attributes {
        match attribute {
            // The address of the link itself; IPv6 carries only the other one.
            AddressAttribute::Local(address) => local = Some(*address),
            AddressAttribute::Address(address) => far = Some(*address),
            AddressAttribute::Protocol(protocol) => ours = u8::from(*protocol) == PROTOCOL,
            _ => {}
        }
    }
    let address = IpNet::new(local.or(far)?, message.header.prefix_len).ok()?;
    (message.header.index == index).then_some(AddressInfo { address, ours })
}

fn write(index: u32, address: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.prefix_len = address.prefix_len();
    message.header.scope = AddressScope::Universe;
    message.header.family = family(address.addr());
    if address.addr().is_ipv4() {
        message.attributes.push(AddressAttribute::Local(address.addr()));
    }
    message.attributes.push(AddressAttribute::Address(address.addr()));
    message
}

/// The family of `address`, as netlink has it.
pub(super) fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

impl Netlink {
    /// Gives `address` with its prefix to a link.
    ///
    /// # Errors
    /// [`HostError::Exists`] where the link has it, [`HostError::NotFound`] where there is no such link.
    pub async fn add_address(&self, index: u32, address: IpNet) -> Result<(), HostError> {
        self.ask(add(index, address, false)).await.map(drop)
    }

    /// As [`Netlink::add_address`], content where the link has the address already.
    ///
    /// # Errors
    /// [`HostError::NotFound`] where there is no such link.
    pub async fn replace_address(&self, index: u32, address: IpNet) -> Result<(), HostError> {
        self.ask(add(index, address, true)).await.map(drop)
    }

    /// Takes `address` with its prefix from a link, and tells whether it was there.
    ///
    /// # Errors
    /// [`HostError`] where it is there and cannot be taken.
    pub async fn remove_address(&self, index: u32, address: IpNet) -> Result<bool, HostError> {
        match self.ask(remove(index, address)).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The addresses of a link, both families, with their prefixes.
    ///
    /// # Errors
    /// [`HostError`] where the kernel could not be asked.
    pub async fn addresses(&self, index: u32) -> Result<Vec<IpNet>, HostError> {
        let replies = self.ask(list(index)).await?;
        Ok(read_all(&replies, index).into_iter().map(|info| info.address).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Netns;
    use crate::lab::rights_or_skip;
    use std::net::UdpSocket;

    #[test]
    fn addresses_of_both_families_come_and_go() {
        if !rights_or_skip() {
            return;
        }
        let netns = Netns::create().unwrap();
        let v4: IpNet = "10.200.5.1/24".parse().unwrap();
        let v6: IpNet = "fd00:5::1/64".parse().unwrap();
        let work = netns.configure(async |netlink| {
            let index = netlink.create_veth("d0", "e0", None).await?;
            netlink.set_up(index, true).await?;
            for address in [v4, v6] {
                netlink.add_address(index, address).await?;
                assert!(netlink.add_address(index, address).await.unwrap_err().is_exists());
                netlink.replace_address(index, address).await?;
                assert!(netlink.addresses(index).await?.contains(&address), "{address}");
                // Usable at once: an address still under detection could not be bound.
                UdpSocket::bind((address.addr(), 0)).unwrap();
            }
            assert!(netlink.remove_address(index, v4).await?);
            assert!(!netlink.remove_address(index, v4).await?);
            assert!(netlink.remove_address(index, v6).await?);
            let left = netlink.addresses(index).await?;
            assert!(!left.contains(&v4) && !left.contains(&v6), "{left:?}");
            assert!(netlink.add_address(9_999, v4).await.unwrap_err().is_not_found());
            Ok(())
        });
        work.unwrap();
    }
}
