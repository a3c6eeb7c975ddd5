//! Links, asked and changed through a [`Netlink`].

use super::message::{
    NewBridge, NewVeth, VethEnd, change, create_bridge, create_dummy, create_veth, delete, find, list, look_up,
};
use super::{LinkChange, LinkInfo};
use crate::host::request::{Reply, Request};
use crate::host::socket::Exchange;
use crate::host::{HostError, Netlink};
use std::os::fd::{AsFd, BorrowedFd};

impl Netlink {
    /// The link called `name`.
    ///
    /// # Errors
    /// [`HostError::NotFound`] where there is none.
    pub async fn link(&self, name: &str) -> Result<LinkInfo, HostError> {
        let replies = self.ask(find(name)?).await?;
        let link = replies.first().and_then(LinkInfo::read);
        link.ok_or_else(|| HostError::answer(format!("find link {name}"), "it is no link"))
    }

    /// The link with this index.
    ///
    /// # Errors
    /// [`HostError::NotFound`] where there is none.
    pub async fn link_by_index(&self, index: u32) -> Result<LinkInfo, HostError> {
        let replies = self.ask(look_up(index)).await?;
        let link = replies.first().and_then(LinkInfo::read);
        link.ok_or_else(|| HostError::answer(format!("find link {index}"), "it is no link"))
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
        Ok(self.ask(list()).await?.iter().filter_map(LinkInfo::read).collect())
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
        let end = |name| VethEnd { name, ..VethEnd::default() };
        let new = |far_netns| NewVeth { near: end(name), far: end(peer), far_netns, ..NewVeth::default() };
        // The request holds the number of a descriptor, which has to mean the same when the request is sent.
        let netns = peer_netns.map(|netns| netns.try_clone_to_owned()).transpose();
        let netns = netns.map_err(|error| HostError::io("keep a namespace open", error))?;
        let request = create_veth(&new(netns.as_ref().map(AsFd::as_fd)))?;
        let what = request.what().to_owned();
        let made = self.run(&what, move |helper| {
            let made = helper.socket().ask(request);
            drop(netns);
            made
        });
        made.await??;
        Ok(self.link(name).await?.index)
    }

    /// Makes a dummy link, down. Returns its index.
    ///
    /// # Errors
    /// [`HostError::Exists`] where the name is taken.
    pub async fn create_dummy(&self, name: &str) -> Result<u32, HostError> {
        self.create(name, create_dummy(name)?).await
    }

    /// Makes a bridge, down, without spanning tree and multicast snooping. Returns its index.
    ///
    /// # Errors
    /// [`HostError::Exists`] where the name is taken.
    pub async fn create_bridge(&self, name: &str) -> Result<u32, HostError> {
        self.create(name, create_bridge(&NewBridge { name, ..NewBridge::default() })?).await
    }

    /// Deletes the link with this index.
    ///
    /// # Errors
    /// [`HostError::NotFound`] where there is none.
    pub async fn delete_link(&self, index: u32) -> Result<(), HostError> {
        self.ask(delete(index)).await.map(done)
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
    pub async fn change_link(&self, index: u32, what: &LinkChange<'_>) -> Result<(), HostError> {
        let netns = what.netns.map(|netns| netns.try_clone_to_owned()).transpose();
        let netns = netns.map_err(|error| HostError::io("keep a namespace open", error))?;
        let request = change(index, &LinkChange { netns: netns.as_ref().map(AsFd::as_fd), ..what.clone() })?;
        let what = request.what().to_owned();
        let changed = self.run(&what, move |helper| {
            let changed = helper.socket().ask(request);
            drop(netns);
            changed
        });
        changed.await?.map(done)
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

    /// Moves a link to another namespace, under its name.
    ///
    /// # Errors
    /// [`HostError::Exists`] where the name is taken there, and as [`Netlink::change_link`].
    pub async fn move_link(&self, index: u32, netns: BorrowedFd<'_>) -> Result<(), HostError> {
        self.change_link(index, &LinkChange { netns: Some(netns), ..LinkChange::default() }).await
    }

    async fn create(&self, name: &str, request: Request) -> Result<u32, HostError> {
        self.ask(request).await?;
        Ok(self.link(name).await?.index)
    }
}

/// A change is answered with nothing.
fn done(_: Vec<Reply>) {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{BridgeInfo, LinkKind, Mark, Netns, Ownership, PortFlags};
    use crate::lab::rights_or_skip;

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
            let mark = Mark::new("a").unwrap();
            assert_eq!(mark.ownership(&netlink.link("d0").await?), Ownership::Foreign);
            let change = LinkChange { group: Some(mark.group()), ..LinkChange::default() };
            netlink.change_link(index, &change).await?;
            assert_eq!(mark.ownership(&netlink.link("d0").await?), Ownership::HalfMade);
            let alias = mark.alias("x/eth0")?;
            netlink.change_link(index, &LinkChange { alias: Some(&alias), ..LinkChange::default() }).await?;
            let link = netlink.link("d0").await?;
            assert_eq!((link.index, link.up, link.mtu, link.kind.clone()), (index, true, 1380, Some(LinkKind::Veth)));
            assert_eq!(
                (link.gso_max_size, link.gso_max_segs, link.gro_max_size),
                (Some(60_000), Some(44), Some(50_000))
            );
            assert_eq!(link.tx_queue_len, Some(77));
            assert_eq!(mark.ownership(&link), Ownership::Ours("x/eth0"));
            assert_eq!(link.peer, Some(netlink.link("e0").await?.index));
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
            let index = netlink.link("w1").await?.index;
            let change = LinkChange { netns: Some(far.as_fd()), name: Some("x1"), ..LinkChange::default() };
            netlink.change_link(index, &change).await
        });
        work.unwrap();
        let names = far.configure(async |netlink| netlink.links().await).unwrap();
        assert!(["v1", "w0", "x1"].iter().all(|name| names.iter().any(|link| link.name == *name)), "{names:?}");
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
            let made = netlink.link("br0").await?;
            assert_eq!((made.kind, made.bridge), (Some(LinkKind::Bridge), Some(BridgeInfo::default())));
            for (isolated, hairpin) in [(true, false), (false, true), (true, true), (false, false)] {
                let flags = PortFlags { isolated, hairpin };
                netlink.change_link(port, &LinkChange { port: Some(flags), ..LinkChange::default() }).await?;
                let port = netlink.link("p0").await?;
                assert_eq!((port.controller, port.port, port.bridge), (Some(bridge), Some(flags), None));
            }
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
        let netlink = Netlink::open_in(&netns, 4).unwrap();
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
