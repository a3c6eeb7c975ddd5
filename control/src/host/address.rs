//! Addresses of links. IPv6 addresses are added without duplicate address detection (RFC 4862, section 5.4): ours are
//! assigned by the overlay, and a tunnel has no neighbours to ask, so they are usable at once.

use super::{HostError, Netlink};
use futures_util::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use rtnetlink::{AddressAddRequest, AddressMessageBuilder};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

impl Netlink {
    /// Gives `address` with its prefix to a link.
    ///
    /// # Errors
    /// [`HostError::Exists`] where the link has it, [`HostError::NotFound`] where there is no such link.
    pub async fn add_address(&self, index: u32, address: IpNet) -> Result<(), HostError> {
        self.put_address(index, address, false).await
    }

    /// As [`Netlink::add_address`], content where the link has the address already.
    ///
    /// # Errors
    /// [`HostError::NotFound`] where there is no such link.
    pub async fn replace_address(&self, index: u32, address: IpNet) -> Result<(), HostError> {
        self.put_address(index, address, true).await
    }

    /// Takes `address` with its prefix from a link, and tells whether it was there.
    ///
    /// # Errors
    /// [`HostError`] where it is there and cannot be taken.
    pub async fn remove_address(&self, index: u32, address: IpNet) -> Result<bool, HostError> {
        let message = match address.addr() {
            IpAddr::V4(v4) => {
                AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(v4, address.prefix_len()).build()
            }
            IpAddr::V6(v6) => {
                AddressMessageBuilder::<Ipv6Addr>::new().index(index).address(v6, address.prefix_len()).build()
            }
        };
        let outcome = self.handle.address().del(message).execute().await;
        match outcome.map_err(|error| HostError::netlink(format!("remove address {address}"), error)) {
            Ok(()) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The addresses of a link, both families, with their prefixes.
    ///
    /// # Errors
    /// [`HostError`] where the kernel could not be asked.
    pub async fn addresses(&self, index: u32) -> Result<Vec<IpNet>, HostError> {
        let answers = self.handle.address().get().set_link_index_filter(index).execute();
        let messages: Vec<_> =
            answers.try_collect().await.map_err(|error| HostError::netlink("list addresses", error))?;
        Ok(messages.iter().filter_map(read).collect())
    }

    async fn put_address(&self, index: u32, address: IpNet, replace: bool) -> Result<(), HostError> {
        let mut request: AddressAddRequest = self.handle.address().add(index, address.addr(), address.prefix_len());
        if address.addr().is_ipv6() {
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        let request = if replace { request.replace() } else { request };
        request.execute().await.map_err(|error| HostError::netlink(format!("add address {address}"), error))
    }
}

/// `IFA_LOCAL` is the address of the link itself; IPv6 carries only `IFA_ADDRESS`.
fn read(message: &AddressMessage) -> Option<IpNet> {
    let mut found = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => found = Some(*address),
            AddressAttribute::Address(address) if found.is_none() => found = Some(*address),
            _ => {}
        }
    }
    IpNet::new(found?, message.header.prefix_len).ok()
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
