//! Containers on the network of the host: a plan in, links out, whole or not at all.
//!
//! Owns the host side of attaching and detaching containers, and the bridges they meet at. Leaves out what a plan should
//! say (modes, addresses, leases), firewall, names, and any record: the links say themselves whose they are, and whoever
//! calls knows what should be there.
//!
//! ```text
//! wiring  ── pure ──► Plan ─► Attacher ─► steps ── fresh links: a few batches, undone whole
//!                                │          └───── standing links: verify, repair
//!                                ├──────► bridge   made, verified, removed, if ours
//!                                └──────► removal  detach and sweep, by mark, never by name alone
//! mtu     ── pure: from the paths to the peers to the size of a network
//! ```
//!
//! Everything runs on the helper threads of a [`Netlink`]; a job is carried to its end even if its caller is gone, and an
//! attachment that nobody waits for any more is taken back.

mod bridge;
mod error;
pub mod mtu;
mod plan;
mod removal;
mod site;
mod steps;
mod verify;
pub mod wiring;

#[cfg(test)]
mod tests;

pub use bridge::Bridge;
pub use error::AttachError;
pub use plan::{
    BridgePlan, ENTRIES_MAX, HostEnd, LINKS_MAX, LinkPlan, MTU_MAX, MTU_MIN_V4, MTU_MIN_V6, Plan, RoutePlan,
};
pub use removal::{Detached, Marked, Swept};
pub use verify::{Difference, Side};

use crate::host::removals::Removals;
use crate::host::{Helper, HostError, LinkInfo, Mac, Mark, Netlink, Netns};
use steps::Pair;
use tokio::sync::oneshot;

/// Helper threads of an [`Attacher`] at most. The kernel removes up to 2,000 links a second, and keeps the thread that asked
/// for up to 40 ms of each, nearly all of it waiting. With fewer threads than that makes, removals wait for each other.
const HELPERS_MAX: usize = 128;

/// Attaches containers in one network namespace, that of the host. Clones share its threads.
#[derive(Clone, Debug)]
pub struct Attacher {
    netlink: Netlink,
    removals: Removals,
    mark: Mark,
}

/// A container that is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Whose attachment it is.
    pub owner: String,
    /// Its links, in the order of the plan.
    pub links: Vec<AttachedLink>,
}

/// A veth pair that stands as planned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachedLink {
    /// Name of the host's end.
    pub host_name: String,
    /// Index of the host's end.
    pub host_index: u32,
    /// Link-layer address of the host's end.
    pub host_mac: Mac,
    /// Index of the container's end, in the container.
    pub index: u32,
    /// It was not there before.
    pub created: bool,
    /// It was there, and this had to be mended.
    pub repaired: Vec<Difference>,
}

impl Attacher {
    /// An attacher in the network namespace of the current thread, marking what it makes with `mark`.
    ///
    /// # Errors
    /// [`HostError::System`] where the kernel gives no sockets or threads.
    pub fn open(mark: Mark) -> Result<Self, HostError> {
        Ok(Self { netlink: Netlink::open_pool(HELPERS_MAX)?, removals: Removals::open()?, mark })
    }

    /// An attacher in `netns`.
    ///
    /// # Errors
    /// As [`Attacher::open`], and [`HostError::Denied`] where the namespace may not be entered.
    pub fn open_in(netns: &Netns, mark: Mark) -> Result<Self, HostError> {
        netns.run_in(|| Self::open(mark))?
    }

    /// Its connection, for other requests in the same namespace.
    #[must_use]
    pub fn netlink(&self) -> &Netlink {
        &self.netlink
    }

    /// The mark on what it makes.
    #[must_use]
    pub fn mark(&self) -> &Mark {
        &self.mark
    }

    /// Attaches the container whose namespace is `netns`, or verifies and repairs what stands of the plan already. Links
    /// of the same owner that the plan does not have stay; they are detached by name.
    ///
    /// # Errors
    /// [`AttachError`]; nothing that was not there before is left then, unless it is [`AttachError::Left`].
    pub async fn attach(&self, plan: &Plan, netns: &Netns) -> Result<Attached, AttachError> {
        let (mark, plan, netns) = (self.mark.clone(), plan.clone(), netns.clone());
        let (tell, told) = oneshot::channel();
        self.netlink.submit("attach a container", move |helper| {
            let attached = attach_with(helper, &mark, &plan, &netns);
            if let Err(Ok(attached)) = tell.send(attached) {
                take_back_with(helper, &mark, &plan, &netns, &attached);
            }
        })?;
        told.await.unwrap_or_else(|_| Err(HostError::Closed { what: "attach a container".into() }.into()))
    }

    /// Removes the links called `host_names` that belong to `owner`; links of others under these names stay, and what is
    /// gone is no error. Nothing is asked of the container, which may be gone as well. Returns when the links are.
    ///
    /// # Errors
    /// [`HostError`] where a link is there and cannot be removed.
    pub async fn detach(&self, owner: &str, host_names: &[String]) -> Result<Detached, HostError> {
        removal::detach(&self.netlink, &self.removals, &self.mark, owner, host_names).await
    }

    /// Removes what a container that lives on keeps of links that are gone: the rules for addresses it has no more.
    ///
    /// # Errors
    /// [`HostError`] where the container cannot be entered or refuses.
    pub async fn forget_rules(&self, netns: &Netns) -> Result<(), HostError> {
        let netns = netns.clone();
        self.netlink.run("forget rules", move |helper| removal::forget_rules(helper, &netns)).await?
    }

    /// Brings about a bridge.
    ///
    /// # Errors
    /// [`HostError::Foreign`] where there is a link of its name that is not ours, or no bridge;
    /// [`AttachError::OtherBridge`] where it is ours for something else.
    pub async fn ensure_bridge(&self, plan: &BridgePlan) -> Result<Bridge, AttachError> {
        let (mark, plan) = (self.mark.clone(), plan.clone());
        self.netlink.run("set up a bridge", move |helper| bridge::ensure(helper.socket(), &mark, &plan)).await?
    }

    /// Removes the bridge called `name` for `object`, and tells whether it was there.
    ///
    /// # Errors
    /// [`AttachError::BridgeInUse`] where it has ports, and as [`Attacher::ensure_bridge`].
    pub async fn remove_bridge(&self, name: &str, object: &str) -> Result<bool, AttachError> {
        let (mark, name, object) = (self.mark.clone(), name.to_owned(), object.to_owned());
        let remove = move |helper: &mut Helper| bridge::remove(helper.socket(), &mark, &name, &object);
        self.netlink.run("remove a bridge", remove).await?
    }

    /// The ports of a bridge, whosever they are.
    ///
    /// # Errors
    /// [`HostError::NotFound`] where there is no such bridge.
    pub async fn ports(&self, bridge: &str) -> Result<Vec<LinkInfo>, HostError> {
        let name = bridge.to_owned();
        self.netlink.run("list ports", move |helper| bridge::ports(helper.socket(), &name)).await?
    }

    /// Removes every link and bridge with our mark that `wanted` does not want. It is asked after the links were listed. A
    /// link that is being made at the moment has a name and nothing else to know it by.
    ///
    /// # Errors
    /// [`HostError`] of the first that could not be removed; the others are.
    pub async fn sweep(&self, wanted: impl Fn(&Marked<'_>) -> bool) -> Result<Swept, HostError> {
        removal::sweep(&self.netlink, &self.removals, &self.mark, wanted).await
    }
}

impl AttachedLink {
    fn new(plan: &LinkPlan, pair: Pair, created: bool, repaired: Vec<Difference>) -> Self {
        let Pair { host_index, host_mac, index } = pair;
        Self { host_name: plan.host_name.clone(), host_index, host_mac, index, created, repaired }
    }

    fn pair(&self) -> Pair {
        Pair { host_index: self.host_index, host_mac: self.host_mac, index: self.index }
    }
}

fn attach_with(helper: &mut Helper, mark: &Mark, plan: &Plan, netns: &Netns) -> Result<Attached, AttachError> {
    if netns.id()? == helper.home()?.id()? {
        return Err(AttachError::HostNamespace);
    }
    steps::attach(&mut site::Kernel::open(helper, netns)?, mark, plan)
}

fn take_back_with(helper: &mut Helper, mark: &Mark, plan: &Plan, netns: &Netns, attached: &Attached) {
    let back = site::Kernel::open(helper, netns).and_then(|mut site| steps::take_back(&mut site, mark, plan, attached));
    if let Err(error) = back {
        tracing::warn!(%error, owner = %plan.owner, "an attachment nobody waits for could not be taken back; a sweep will find it");
    }
}
