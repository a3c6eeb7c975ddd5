//! Links: finding, making, changing and deleting them.

use super::{HostError, Netlink};
use futures_util::TryStreamExt;
use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo as Info, LinkMessage,
};
use rtnetlink::{LinkBridge, LinkDummy, LinkMessageBuilder, LinkUnspec, LinkVeth};
use std::os::fd::{AsRawFd, BorrowedFd};

/// The alias (`ip link set … alias`) that marks a link as made by us. A link without it is somebody else's.
pub const OWNED_ALIAS: &str = "ginnel";

/// What the kernel tells of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// Length of the transmit queue, in packets.
    pub tx_queue_len: Option<u32>,
    /// Index of the bridge it is a port of.
    pub controller: Option<u32>,
    /// Largest superpacket given to the link, in bytes.
    pub gso_max_size: Option<u32>,
    /// Most segments of a superpacket given to the link.
    pub gso_max_segs: Option<u32>,
    /// Largest superpacket merged from what the link received, in bytes.
    pub gro_max_size: Option<u32>,
}

impl LinkInfo {
    /// Whether the link carries our mark.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.alias.as_deref() == Some(OWNED_ALIAS)
    }
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
    /// Index of the bridge to become a port of; 0 leaves it.
    pub controller: Option<u32>,
    /// `IFLA_GSO_MAX_SIZE`: largest superpacket the stack gives to the link, in bytes. Up to 65,536 it holds for both
    /// families.
    pub gso_max_size: Option<u32>,
    /// `IFLA_GSO_MAX_SEGS`: most segments of such a superpacket.
    pub gso_max_segs: Option<u32>,
    /// `IFLA_GRO_MAX_SIZE`: largest superpacket merged from received packets, in bytes.
    pub gro_max_size: Option<u32>,
    /// Namespace to move to. Addresses and routes of the link are lost by it.
    pub netns: Option<BorrowedFd<'a>>,
}

/// Whether `name` can name an interface: what the kernel takes (`dev_valid_name`) without what would surprise, a `%`,
/// which is a template, and control characters.
///
/// # Errors
/// [`HostError::Name`] with the rule.
pub fn check_name(name: &str) -> Result<(), HostError> {
    let usable = (1..=15).contains(&name.len())
        && name != "."
        && name != ".."
        && !name.contains(|c: char| "/:%".contains(c) || c.is_whitespace() || c.is_control());
    if usable { Ok(()) } else { Err(HostError::Name(name.into())) }
}

impl Netlink {
    /// The link called `name`.
    ///
    /// # Errors
    /// [`HostError::NotFound`] where there is none.
    pub async fn link(&self, name: &str) -> Result<LinkInfo, HostError> {
        check_name(name)?;
        let what = format!("find link {name}");
        let mut answers = std::pin::pin!(self.handle.link().get().match_name(name).execute());
        let message = answers.try_next().await.map_err(|error| HostError::netlink(&what, error))?;
        message.map(|message| read(&message)).ok_or(HostError::NotFound { what })
    }

    /// The link called `name`, or `None`.
    ///
    /// # Errors
    /// [`HostError`] where the kernel could not be asked.
    pub async fn find_link(&self, name: &str) -> Result<Option<LinkInfo>, HostError> {
        match self.link(name).await {
            Err(error) if error.is_not_found() => Ok(None),
            other => other.map(Some),
        }
    }

    /// Every link of the namespace.
    ///
    /// # Errors
    /// [`HostError`] where the kernel could not be asked.
    pub async fn links(&self) -> Result<Vec<LinkInfo>, HostError> {
        let answers = self.handle.link().get().execute();
        let messages: Vec<_> = answers.try_collect().await.map_err(|error| HostError::netlink("list links", error))?;
        Ok(messages.iter().map(read).collect())
    }

    /// Makes a veth pair, the ends down. `peer` is created in `peer_netns` where given, else beside `name`. Returns the
    /// index of `name`.
    ///
    /// # Errors
    /// [`HostError::Exists`] where either name is taken in its namespace.
    pub async fn create_veth(
        &self,
        name: &str,
        peer: &str,
        peer_netns: Option<BorrowedFd<'_>>,
    ) -> Result<u32, HostError> {
        check_name(peer)?;
        let mut far = LinkMessageBuilder::<LinkUnspec>::new().name(peer);
        if let Some(netns) = peer_netns {
            far = far.setns_by_fd(netns.as_raw_fd());
        }
        let message = LinkVeth::new(name, peer).set_info_data(InfoData::Veth(InfoVeth::Peer(far.build()))).build();
        self.create(name, message).await
    }

    /// Makes a dummy link, down. Returns its index.
    ///
    /// # Errors
    /// [`HostError::Exists`] where the name is taken.
    pub async fn create_dummy(&self, name: &str) -> Result<u32, HostError> {
        self.create(name, LinkDummy::new(name).build()).await
    }

    /// Makes a bridge, down. Returns its index.
    ///
    /// # Errors
    /// [`HostError::Exists`] where the name is taken.
    pub async fn create_bridge(&self, name: &str) -> Result<u32, HostError> {
        self.create(name, LinkBridge::new(name).build()).await
    }

    /// Deletes the link with this index.
    ///
    /// # Errors
    /// [`HostError::NotFound`] where there is none.
    pub async fn delete_link(&self, index: u32) -> Result<(), HostError> {
        let request = self.handle.link().del(index).execute();
        request.await.map_err(|error| HostError::netlink(format!("delete link {index}"), error))
    }

    /// Deletes the link called `name` if it is there, and tells whether it was.
    ///
    /// # Errors
    /// [`HostError`] where it is there and cannot be deleted.
    pub async fn delete_link_named(&self, name: &str) -> Result<bool, HostError> {
        let Some(link) = self.find_link(name).await? else { return Ok(false) };
        match self.delete_link(link.index).await {
            Ok(()) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Changes a link in one request.
    ///
    /// # Errors
    /// [`HostError::NotFound`] where there is no such link. Where the kernel refuses one value it may have applied
    /// others.
    pub async fn change_link(&self, index: u32, change: &LinkChange<'_>) -> Result<(), HostError> {
        let mut message = LinkUnspec::new_with_index(index);
        message = match change.up {
            Some(true) => message.up(),
            Some(false) => message.down(),
            None => message,
        };
        let attributes = [
            change.mtu.map(LinkAttribute::Mtu),
            change.tx_queue_len.map(LinkAttribute::TxQueueLen),
            change.alias.map(|alias| LinkAttribute::IfAlias(alias.into())),
            change.controller.map(LinkAttribute::Controller),
            change.gso_max_size.map(LinkAttribute::GsoMaxSize),
            change.gso_max_segs.map(LinkAttribute::GsoMaxSegs),
            change.gro_max_size.map(LinkAttribute::GroMaxSize),
            change.netns.map(|netns| LinkAttribute::NetNsFd(netns.as_raw_fd())),
        ];
        for attribute in attributes.into_iter().flatten() {
            message = message.append_extra_attribute(attribute);
        }
        let request = self.handle.link().change(message.build()).execute();
        request.await.map_err(|error| HostError::netlink(format!("change link {index}"), error))
    }

    /// Sets a link up or down.
    ///
    /// # Errors
    /// As [`Netlink::change_link`].
    pub async fn set_up(&self, index: u32, up: bool) -> Result<(), HostError> {
        self.change_link(index, &LinkChange { up: Some(up), ..LinkChange::default() }).await
    }

    /// Sets the MTU of a link, in bytes.
    ///
    /// # Errors
    /// As [`Netlink::change_link`].
    pub async fn set_mtu(&self, index: u32, mtu: u32) -> Result<(), HostError> {
        self.change_link(index, &LinkChange { mtu: Some(mtu), ..LinkChange::default() }).await
    }

    /// Marks a link as ours ([`OWNED_ALIAS`]).
    ///
    /// # Errors
    /// As [`Netlink::change_link`].
    pub async fn mark_ours(&self, index: u32) -> Result<(), HostError> {
        self.change_link(index, &LinkChange { alias: Some(OWNED_ALIAS), ..LinkChange::default() }).await
    }

    /// Moves a link to another namespace, under its name.
    ///
    /// # Errors
    /// [`HostError::Exists`] where the name is taken there, and as [`Netlink::change_link`].
    pub async fn move_link(&self, index: u32, netns: BorrowedFd<'_>) -> Result<(), HostError> {
        self.change_link(index, &LinkChange { netns: Some(netns), ..LinkChange::default() }).await
    }

    async fn create(&self, name: &str, message: LinkMessage) -> Result<u32, HostError> {
        check_name(name)?;
        let request = self.handle.link().add(message).execute();
        request.await.map_err(|error| HostError::netlink(format!("create link {name}"), error))?;
        Ok(self.link(name).await?.index)
    }
}

fn read(message: &LinkMessage) -> LinkInfo {
    let mut link = LinkInfo {
        index: message.header.index,
        name: String::new(),
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        kind: None,
        alias: None,
        tx_queue_len: None,
        controller: None,
        gso_max_size: None,
        gso_max_segs: None,
        gro_max_size: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
            LinkAttribute::TxQueueLen(len) => link.tx_queue_len = Some(*len),
            LinkAttribute::Controller(index) => link.controller = Some(*index),
            LinkAttribute::GsoMaxSize(bytes) => link.gso_max_size = Some(*bytes),
            LinkAttribute::GsoMaxSegs(segments) => link.gso_max_segs = Some(*segments),
            LinkAttribute::GroMaxSize(bytes) => link.gro_max_size = Some(*bytes),
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.iter().find_map(|info| match info {
                    Info::Kind(kind) => Some(kind.into()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    link
}

impl From<&InfoKind> for LinkKind {
    fn from(kind: &InfoKind) -> Self {
        match kind {
            InfoKind::Veth => Self::Veth,
            InfoKind::Dummy => Self::Dummy,
            InfoKind::Bridge => Self::Bridge,
            InfoKind::Tun => Self::Tun,
            InfoKind::Wireguard => Self::Wireguard,
            other => Self::Other(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Netns;
    use crate::lab::rights_or_skip;
    use std::os::fd::AsFd;

    #[test]
    fn names_follow_the_kernel_rule() {
        for good in ["a", "gnl-prod-0-g", "fifteen-bytes-x"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "sixteen-bytes-xy", "a/b", "a b", "a:b", "a%d", "a\tb", ".", "..", "a\0"] {
            assert!(matches!(check_name(bad), Err(HostError::Name(_))), "{bad:?}");
        }
    }

    #[test]
    fn a_link_lives_a_whole_life() {
        if !rights_or_skip() {
            return;
        }
        let netns = Netns::create().unwrap();
        let work = netns.configure(async |netlink| {
            assert_eq!(netlink.find_link("d0").await?, None);
            let index = netlink.create_veth("d0", "e0", None).await?;
            assert!(netlink.create_veth("d0", "e1", None).await.unwrap_err().is_exists());
            let change = LinkChange {
                up: Some(true),
                mtu: Some(1380),
                tx_queue_len: Some(77),
                gso_max_size: Some(60_000),
                gso_max_segs: Some(44),
                gro_max_size: Some(50_000),
                ..LinkChange::default()
            };
            netlink.change_link(index, &change).await?;
            netlink.mark_ours(index).await?;
            let link = netlink.link("d0").await?;
            assert_eq!((link.index, link.up, link.mtu, link.kind.clone()), (index, true, 1380, Some(LinkKind::Veth)));
            assert_eq!(
                (link.gso_max_size, link.gso_max_segs, link.gro_max_size),
                (Some(60_000), Some(44), Some(50_000))
            );
            assert_eq!(link.tx_queue_len, Some(77));
            assert!(link.is_ours());
            netlink.set_up(index, false).await?;
            netlink.set_mtu(index, 1400).await?;
            let link = netlink.link("d0").await?;
            assert_eq!((link.up, link.mtu), (false, 1400));
            assert_eq!(netlink.links().await?.len(), 3);
            assert!(netlink.delete_link_named("d0").await?);
            assert!(!netlink.delete_link_named("d0").await?);
            assert!(netlink.delete_link(index).await.unwrap_err().is_not_found());
            assert!(netlink.set_up(index, true).await.unwrap_err().is_not_found());
            Ok(())
        });
        work.unwrap();
    }

    #[test]
    fn a_veth_pair_spans_namespaces_and_moves() {
        if !rights_or_skip() {
            return;
        }
        let (near, far) = (Netns::create().unwrap(), Netns::create().unwrap());
        let work = near.configure(async |netlink| {
            netlink.create_veth("v0", "v1", Some(far.as_fd())).await?;
            assert!(netlink.find_link("v1").await?.is_none());
            let index = netlink.create_veth("w0", "w1", None).await?;
            assert_eq!(netlink.link("w1").await?.kind, Some(LinkKind::Veth));
            netlink.move_link(index, far.as_fd()).await?;
            assert!(netlink.find_link("w0").await?.is_none());
            Ok(())
        });
        work.unwrap();
        let names = far.configure(async |netlink| netlink.links().await).unwrap();
        assert!(["v1", "w0"].iter().all(|name| names.iter().any(|link| link.name == *name)), "{names:?}");
    }

    #[test]
    fn a_bridge_takes_ports() {
        if !rights_or_skip() {
            return;
        }
        let netns = Netns::create().unwrap();
        let work = netns.configure(async |netlink| {
            let bridge = netlink.create_bridge("br0").await?;
            let port = netlink.create_veth("p0", "q0", None).await?;
            let change = LinkChange { controller: Some(bridge), ..LinkChange::default() };
            netlink.change_link(port, &change).await?;
            assert_eq!(netlink.link("p0").await?.controller, Some(bridge));
            Ok(())
        });
        work.unwrap();
    }

    #[tokio::test]
    async fn a_connection_opens_in_a_namespace_from_outside() {
        if !rights_or_skip() {
            return;
        }
        let netns = Netns::create().unwrap();
        let netlink = Netlink::open_in(&netns).unwrap();
        netlink.create_veth("inside", "peer", None).await.unwrap();
        let names = netns.configure(async |netlink| netlink.links().await).unwrap();
        assert!(names.iter().any(|link| link.name == "inside"));
    }

    #[test]
    fn a_dummy_is_made_or_named_as_missing() {
        if !rights_or_skip() {
            return;
        }
        let netns = Netns::create().unwrap();
        let work = netns.configure(async |netlink| {
            netlink.create_dummy("d0").await?;
            Ok(netlink.link("d0").await?.kind)
        });
        match work {
            Ok(kind) => assert_eq!(kind, Some(LinkKind::Dummy)),
            Err(HostError::Unsupported { what }) => println!("skipped: {what}: not in this kernel"),
            Err(error) => panic!("{error}"),
        }
    }
}
