//! What is there, and what it weighs.

use super::node::{Caller, Node};
use super::{Broken, Run};
use ginnel_control::host::Netns;
use ginnel_control::ipc::wire::{LeaseState, ObjectKind, Objects};
use ginnel_control::lab::ruleset::{self, Count};
use ginnel_control::lab::{UNDERLAY_LINK, usage};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::Duration;

/// What is on its way when changes stop gets to arrive: the ends of containers, and connections that are closed.
const SETTLES_WITHIN: Duration = Duration::from_secs(20);

/// Between two looks at descriptors.
const MOMENT: Duration = Duration::from_millis(300);

/// What there is on a node. Two that are equal are of nodes in the same state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Census {
    /// Names of all links.
    pub links: Vec<String>,
    /// Routes of the main table.
    pub routes: Vec<IpNet>,
    /// Routing rules.
    pub policies: usize,
    /// What nftables has.
    pub rules: Count,
    /// What the daemon lists: attachments, services, names and addresses in use.
    pub attachments: Vec<String>,
    /// Services.
    pub services: Vec<String>,
    /// Names.
    pub names: Vec<String>,
    /// Addresses that are in use.
    pub leases: Vec<String>,
}

impl Census {
    /// Counts all of it.
    pub fn take(node: &Node) -> Result<Self, Broken> {
        let mut caller = node.caller();
        let (links, routes, policies) = kernel(&node.netns)?;
        let rules = ruleset::count(&node.netns)?;
        let mut census = Self { links, routes, policies, rules, ..Self::empty() };
        for kind in [ObjectKind::Attachments, ObjectKind::Services, ObjectKind::Dns, ObjectKind::Leases] {
            match caller.list(kind)? {
                Objects::Attachments(items) => census.attachments.extend(items.into_iter().map(|item| item.attachment)),
                Objects::Services(items) => census.services.extend(items.into_iter().map(|item| item.service)),
                Objects::Dns(items) => census.names.extend(items.into_iter().map(|item| item.name)),
                Objects::Leases(items) => census.leases.extend(
                    items.iter().filter(|item| item.state != LeaseState::Quarantined).map(|item| item.ip.to_string()),
                ),
                _ => {}
            }
        }
        Ok(census)
    }

    fn empty() -> Self {
        Self {
            links: Vec::new(),
            routes: Vec::new(),
            policies: 0,
            rules: Count::default(),
            attachments: Vec::new(),
            services: Vec::new(),
            names: Vec::new(),
            leases: Vec::new(),
        }
    }

    /// In what `self` is different from `wanted`; `None` where it is not.
    fn differs(&self, wanted: &Self) -> Option<String> {
        (self != wanted).then(|| format!("there is {self:?} in place of {wanted:?}"))
    }
}

/// What a process holds, when nothing is asked of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weight {
    /// Resident memory in bytes.
    pub rss: u64,
    /// Threads.
    pub threads: usize,
    /// Threads for netlink among them: as many as were needed at once since the start.
    pub helpers: usize,
    /// Descriptors, by what they are of.
    pub descriptors: BTreeMap<String, usize>,
}

/// Most threads for netlink (`attach::HELPERS_MAX`).
const HELPERS_MAX: usize = 128;

/// What each of them opens and keeps, beside a socket: the namespace it comes back to, and what the kernel's settings are
/// changed by.
const OF_HELPERS: [&str; 2] = ["net", "/proc/sys/net/ipv6/conf"];

impl Weight {
    /// Weighs a process.
    pub fn of(pid: u32) -> Result<Self, Broken> {
        let failed = |error: std::io::Error| Broken(format!("look at process {pid}: {error}"));
        let mut descriptors = BTreeMap::<_, usize>::new();
        for entry in fs::read_dir(format!("/proc/{pid}/fd")).map_err(failed)? {
            let Ok(target) = fs::read_link(entry.map_err(failed)?.path()) else { continue };
            let target = target.to_string_lossy();
            // `socket:[4711]` and its like by kind, files by name.
            let kind = target.split_once(":[").map_or(&*target, |(kind, _)| kind);
            *descriptors.entry(kind.to_owned()).or_default() += 1;
        }
        let (mut threads, mut helpers) = (0, 0);
        for entry in fs::read_dir(format!("/proc/{pid}/task")).map_err(failed)? {
            let name = fs::read_to_string(entry.map_err(failed)?.path().join("comm")).unwrap_or_default();
            threads += 1;
            helpers += usize::from(name.trim_end() == "netlink");
        }
        if helpers > HELPERS_MAX {
            return Err(Broken(format!("process {pid} has {helpers} threads for netlink")));
        }
        Ok(Self { rss: usage::process_rss(pid).map_err(failed)?, threads, helpers, descriptors })
    }

    /// Descriptors in all.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        self.descriptors.values().sum()
    }

    /// Descriptors but those of threads for netlink.
    #[must_use]
    pub fn lasting(&self) -> usize {
        let of_helpers = OF_HELPERS.iter().filter_map(|what| self.descriptors.get(*what)).sum::<usize>();
        self.descriptors().saturating_sub(of_helpers + self.helpers)
    }
}

/// Waits until the node has exactly what it is to have, and its daemon no descriptors but `descriptors`, where that is
/// known. Returns what the daemon weighs then.
pub fn settle(run: &Run, node: &Node, wanted: &Census, descriptors: Option<usize>) -> Result<Weight, Broken> {
    let what = format!("node {} has what it is to have and no more", node.name);
    run.within(SETTLES_WITHIN, &what, || Ok(Census::take(node)?.differs(wanted)))?;
    weigh(run, node, descriptors)
}

/// Waits until the daemon holds no more descriptors than `descriptors`, or without that, until it holds as many as a moment
/// before: connections that were closed are noticed a little later. Returns what it weighs then.
pub fn weigh(run: &Run, node: &Node, descriptors: Option<usize>) -> Result<Weight, Broken> {
    let mut before = None;
    let mut weight = None;
    run.within(SETTLES_WITHIN, &format!("daemon {} holds no more descriptors than before", node.name), || {
        thread::sleep(MOMENT);
        let found = weight.insert(Weight::of(node.life().0)?);
        let wanted = descriptors.or(before.replace(found.lasting()));
        let right = wanted.is_some_and(|wanted| found.lasting() <= wanted);
        Ok((!right).then(|| format!("{}, not {wanted:?}: {:?}", found.lasting(), found.descriptors)))
    })?;
    weight.ok_or_else(|| Broken("nothing was weighed".into()))
}

/// Addresses that rest.
pub fn resting(caller: &mut Caller<'_>) -> Result<usize, Broken> {
    match caller.list(ObjectKind::Leases)? {
        Objects::Leases(items) => Ok(items.iter().filter(|item| item.state == LeaseState::Quarantined).count()),
        _ => Ok(0),
    }
}

/// Nothing of ours is left in the kernel, but for rules about nothing where `rules_stay`: they go with the daemon.
pub fn check_bare(netns: &Netns, name: &str, rules_stay: bool) -> Result<(), Broken> {
    let (links, routes, policies) = kernel(netns)?;
    let rules = ruleset::count(netns)?;
    let ruled = if rules_stay { rules.elements } else { rules.all() };
    if links == ["lo", UNDERLAY_LINK] && routes.len() <= 1 && policies == 0 && ruled == 0 {
        return Ok(());
    }
    Err(Broken(format!("{name} is not bare: links {links:?}, routes {routes:?}, {policies} routing rules, {rules:?}")))
}

/// Sockets that are open in the network, by their addresses; those of netlink and Unix are not counted.
pub fn sockets(netns: &Netns) -> Result<Vec<String>, Broken> {
    let read = || {
        let mut sockets = Vec::new();
        for protocol in ["tcp", "tcp6", "udp", "udp6", "raw", "raw6"] {
            let text = fs::read_to_string(format!("/proc/thread-self/net/{protocol}"))?;
            // Without connections that the kernel alone remembers (TIME_WAIT).
            let lines = text.lines().skip(1).map(|line| line.split_whitespace().skip(1));
            let lines =
                lines.map(|words| words.take(3).collect::<Vec<_>>()).filter(|words| words.get(2) != Some(&"06"));
            sockets.extend(lines.map(|words| format!("{protocol} {}", words.join(" "))));
        }
        Ok(sockets)
    };
    netns.run_in(read)?.map_err(|error: std::io::Error| Broken(format!("list sockets: {error}")))
}

fn kernel(netns: &Netns) -> Result<(Vec<String>, Vec<IpNet>, usize), Broken> {
    let (links, routes, policies) = netns.configure(async |netlink| {
        let (links, routes) = (netlink.links().await?, netlink.routes().await?);
        Ok((links, routes, netlink.rules().await?.len()))
    })?;
    let mut links: Vec<_> = links.into_iter().map(|link| link.name).collect();
    links.sort();
    // Those of IPv6 come and go with the addresses the kernel gives by itself.
    let mut routes: Vec<_> = routes.into_iter().map(|route| route.prefix).filter(|it| it.addr().is_ipv4()).collect();
    routes.sort();
    Ok((links, routes, policies))
}
