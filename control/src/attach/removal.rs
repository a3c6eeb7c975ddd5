//! Detaching, and sweeping up what nobody wants: links are deleted by their host's end, whatever became of the other.
//!
//! A link is deleted by the index under which its mark was just read, so what carries the same name by then, or nearly the
//! same, stays. Removals run beside each other: the kernel takes its lock for a fraction of a millisecond of each and
//! spends the rest waiting (see [`crate::host::removals`]).

use super::plan::owner_of;
use super::steps::{all, link_or_none};
use super::verify::carry_out;
use crate::host::link::{delete, find, list};
use crate::host::removals::Removals;
use crate::host::socket::{Exchange, Socket};
use crate::host::{Helper, HostError, LinkInfo, LinkKind, Mark, Netlink, Netns, Ownership, address, rule};
use std::collections::HashSet;
use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinSet};

/// Removals on their way at once: enough for every helper, and room in the queue for the work of others.
const REMOVALS_MAX: usize = 512;

/// What a detach found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Detached {
    /// Names of the links that were removed.
    pub removed: Vec<String>,
    /// Names that others have: another program's, another instance's, or those of a later container with the same process
    /// id. They were left alone.
    pub others: Vec<String>,
}

/// What a sweep found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Names of the links that were removed.
    pub removed: Vec<String>,
    /// Names of bridges that nobody wants and that have ports that are not ours.
    pub in_use: Vec<String>,
}

/// A link with our mark, as a sweep shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marked<'a> {
    /// Its name.
    pub name: &'a str,
    /// What it is for; `None` where it was left half made.
    pub object: Option<&'a str>,
    /// Whether it is a bridge; else it is the host's end of a veth pair.
    pub is_bridge: bool,
}

impl<'a> Marked<'a> {
    /// Whose attachment it belongs to.
    #[must_use]
    pub fn owner(&self) -> Option<&'a str> {
        self.object.filter(|_| !self.is_bridge).map(owner_of)
    }
}

/// Removes the links called `names` that belong to `owner`.
pub(super) async fn detach(
    netlink: &Netlink,
    removals: &Removals,
    mark: &Mark,
    owner: &str,
    names: &[String],
) -> Result<Detached, HostError> {
    let (mark, owner, names) = (mark.clone(), owner.to_owned(), names.to_vec());
    let look = move |helper: &mut Helper| look(helper.socket(), &mark, &owner, &names);
    let (links, others) = netlink.run("find the links of an attachment", look).await??;
    let removed = links.iter().map(|link| link.name.clone()).collect();
    remove(netlink, removals, links).await?;
    Ok(Detached { removed, others })
}

/// Which of `names` are links of `owner`, and which are others'.
fn look(
    host: &mut impl Exchange,
    mark: &Mark,
    owner: &str,
    names: &[String],
) -> Result<(Vec<LinkInfo>, Vec<String>), HostError> {
    let requests = names.iter().map(|name| find(name)).collect::<Result<Vec<_>, _>>()?;
    let (mut links, mut others) = (Vec::new(), Vec::new());
    for outcome in host.exchange(&requests) {
        let Some(link) = link_or_none(outcome)? else { continue };
        match mark.ownership(&link) {
            Ownership::Ours(object) if owner_of(object) == owner => links.push(link),
            // Nothing was ever attached by it.
            Ownership::HalfMade => links.push(link),
            Ownership::Ours(_) | Ownership::Foreign => others.push(link.name),
        }
    }
    Ok((links, others))
}

/// Removes every link with our mark that `wanted` does not want. It is asked after the links were listed, so what is
/// written down before it is made is never taken for an orphan.
pub(super) async fn sweep(
    netlink: &Netlink,
    removals: &Removals,
    mark: &Mark,
    wanted: impl Fn(&Marked<'_>) -> bool,
) -> Result<Swept, HostError> {
    let links = netlink.run("list links", |helper| helper.socket().ask(list())).await??;
    let links: Vec<_> = links.iter().filter_map(LinkInfo::read).collect();
    let unwanted = |link: &LinkInfo| {
        let object = match mark.ownership(link) {
            Ownership::Ours(object) => Some(object),
            Ownership::HalfMade => None,
            Ownership::Foreign => return false,
        };
        // A tunnel ends with its process; nothing else is ours to find.
        let is_bridge = match link.kind {
            Some(LinkKind::Bridge) => true,
            Some(LinkKind::Veth) => false,
            _ => return false,
        };
        !wanted(&Marked { name: &link.name, object, is_bridge })
    };
    let orphans: Vec<_> = links.iter().filter(|link| unwanted(link)).cloned().collect();
    let going: HashSet<_> = orphans.iter().map(|link| link.index).collect();
    // A bridge goes with its ports, unless one stays that needs it.
    let staying = links.iter().filter(|link| !going.contains(&link.index)).filter_map(|link| link.controller);
    let staying: HashSet<_> = staying.collect();
    let (in_use, orphans): (Vec<_>, Vec<_>) = orphans.into_iter().partition(|link| staying.contains(&link.index));
    let removed = orphans.iter().map(|link| link.name.clone()).collect();
    remove(netlink, removals, orphans).await?;
    Ok(Swept { removed, in_use: in_use.into_iter().map(|link| link.name).collect() })
}

/// Removes the rules of the container for sources that it no longer is: those of its links, which the rules outlive. What
/// another instance has attached keeps its rules with its addresses.
pub(super) fn forget_rules(helper: &mut Helper, netns: &Netns) -> Result<(), HostError> {
    let mut inside = helper.inside(netns, Socket::open)??;
    let mut rules = Vec::new();
    for v6 in [false, true] {
        rules.extend(rule::read_all(&inside.ask(rule::list(v6))?));
    }
    if rules.is_empty() {
        return Ok(());
    }
    // After the rules: an address that comes meanwhile is seen.
    let held: HashSet<_> = address::held(&inside.ask(address::list_all())?).collect();
    let gone = rules.iter().filter(|rule| !held.contains(&rule.source));
    carry_out(gone.map(rule::remove).collect(), |requests| inside.exchange(requests))
}

/// Removes links, and returns when all are gone.
async fn remove(netlink: &Netlink, removals: &Removals, links: Vec<LinkInfo>) -> Result<(), HostError> {
    let mut going = JoinSet::new();
    let mut failure = None;
    for link in links {
        if going.len() >= REMOVALS_MAX {
            failure = failure.or(settle(going.join_next().await));
        }
        match start_removal(netlink, removals, link.index) {
            Ok(removal) => drop(going.spawn(removal)),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    while let Some(removed) = going.join_next().await {
        failure = failure.or(settle(Some(removed)));
    }
    failure.map_or(Ok(()), Err)
}

/// How a removal failed, if it did.
fn settle(removed: Option<Result<Result<(), HostError>, JoinError>>) -> Option<HostError> {
    match removed? {
        Ok(outcome) => outcome.err(),
        Err(_) => Some(HostError::Closed { what: "remove links".into() }),
    }
}

/// Has a link removed, and waits for it to be gone or for the kernel's answer, whichever comes first.
fn start_removal(
    netlink: &Netlink,
    removals: &Removals,
    index: u32,
) -> Result<impl Future<Output = Result<(), HostError>> + Send + 'static, HostError> {
    let (tell, answered) = oneshot::channel();
    let gone = removals.await_removal(index);
    let awaiting = removals.clone();
    let submitted = netlink.submit("remove a link", move |helper| {
        let outcome = helper.socket().ask(delete(index));
        awaiting.forget(index);
        // Nobody waits where the notice came first.
        let _ = tell.send(all(vec![outcome], &HostError::is_not_found));
    });
    submitted.inspect_err(|_| removals.forget(index))?;
    Ok(async move {
        let mut answered = answered;
        tokio::select! {
            Ok(()) = gone => Ok(()),
            answer = &mut answered => answer.unwrap_or(Err(HostError::Closed { what: "remove a link".into() })),
        }
    })
}
