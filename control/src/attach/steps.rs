//! Carrying out a plan: a few batches of requests, and the way back from each of them.
//!
//! ```text
//! 1 look    host    the bridges, and whether the links stand already
//! 2 create  host    veth pairs: both ends named, sized, grouped; ours a port of its bridge, and down
//! 3 inside  there   mark, settings, up, addresses, routes, rules, neighbours
//! 4 open    host    mark, settings, up, routes: from here on packets flow
//! 5 check   both    what came of it
//! ```
//!
//! Nothing flows before everything inside is in its place, and the settings of a port hold before its first frame. What
//! fails is undone by deleting the pairs that were made, with which all else goes but the rules of the container, which are
//! removed by name. Links that stood already are verified and repaired (see [`super::verify`]), and stay.
//!
//! Two calls for one container must not run at once; they would not harm each other, but one of them would fail.

use super::plan::{HostEnd, LinkPlan, Plan, has_room_for_v6, owner_of};
use super::site::Site;
use super::verify::verify;
use super::{AttachError, Attached, AttachedLink};
use crate::host::link::{NewVeth, VethEnd, change, create_veth, delete, find, look_up};
use crate::host::request::Outcome;
use crate::host::{
    HostError, LinkChange, LinkInfo, LinkKind, Mac, Mark, NeighbourInfo, Ownership, address, neighbour, route, rule,
};
use ipnet::IpNet;
use std::collections::HashMap;
use std::os::fd::AsFd;

/// Index of the loopback link in every namespace (`LOOPBACK_IFINDEX`).
const LOOPBACK: u32 = 1;

/// A veth pair on the way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair {
    pub(super) host_index: u32,
    pub(super) host_mac: Mac,
    pub(super) index: u32,
}

/// What has been made so far.
#[derive(Default)]
struct Made<'a> {
    pairs: Vec<(&'a LinkPlan, Pair)>,
    /// Made, but under an index that did not become known.
    lost: Vec<&'a LinkPlan>,
}

/// What was found under the name of a link.
enum Standing {
    /// Nothing, or what nobody needs: these links are to be deleted first.
    Absent { stale: Option<u32> },
    /// The link of this very plan.
    Ours(Pair),
}

/// Carries out `plan`, whole or not at all.
pub(super) fn attach(site: &mut impl Site, mark: &Mark, plan: &Plan) -> Result<Attached, AttachError> {
    plan.check(mark)?;
    let (standing, bridges) = look(site, mark, plan)?;
    let mut made = Made::default();
    match build(site, mark, plan, &standing, &bridges, &mut made) {
        Ok(links) => Ok(Attached { owner: plan.owner.clone(), links }),
        Err(source) => match undo(site, mark, &made) {
            Ok(()) => Err(source.into()),
            Err(left) => Err(AttachError::Left { source, left }),
        },
    }
}

/// Takes back what [`attach`] made, and leaves what stood before it.
pub(super) fn take_back(site: &mut impl Site, mark: &Mark, plan: &Plan, attached: &Attached) -> Result<(), HostError> {
    let links = plan.links.iter().zip(&attached.links);
    let pairs = links.filter(|(_, link)| link.created).map(|(plan, link)| (plan, link.pair())).collect();
    undo(site, mark, &Made { pairs, lost: Vec::new() })
}

fn look(site: &mut impl Site, mark: &Mark, plan: &Plan) -> Result<(Vec<Standing>, HashMap<String, u32>), AttachError> {
    let names = plan.links.iter().map(|link| &*link.host_name).chain(plan.links.iter().filter_map(|l| l.host.bridge()));
    let requests = names.map(find).collect::<Result<Vec<_>, _>>()?;
    let mut found = site.host(&requests).into_iter().map(link_or_none);
    let links: Vec<_> = found.by_ref().take(plan.links.len()).collect();
    let mut bridges = HashMap::new();
    for (name, bridge) in plan.links.iter().filter_map(|link| link.host.bridge()).zip(found) {
        let bridge = bridge?.ok_or_else(|| AttachError::NoBridge { name: name.into() })?;
        expect_bridge(mark, &bridge)?;
        bridges.insert(name.to_owned(), bridge.index);
    }
    let judge = |(plan_of_link, link)| judge(site, mark, &plan.owner, plan_of_link, link);
    let standing = plan.links.iter().zip(links).map(judge).collect::<Result<_, _>>()?;
    Ok((standing, bridges))
}

/// What a link under the name of a planned one is to us.
fn judge(
    site: &mut impl Site,
    mark: &Mark,
    owner: &str,
    plan: &LinkPlan,
    link: Result<Option<LinkInfo>, HostError>,
) -> Result<Standing, AttachError> {
    let Some(link) = link? else { return Ok(Standing::Absent { stale: None }) };
    let object = match mark.ownership(&link) {
        Ownership::Foreign => return Err(foreign(&link).into()),
        Ownership::HalfMade => None,
        Ownership::Ours(object) => Some(object),
    };
    let far = far_end(site, &link)?;
    match (object, far) {
        (Some(object), Some(pair)) if object == plan.object(owner) => Ok(Standing::Ours(pair)),
        // Its other end is in this very container, and the container is not the one it was made for.
        (Some(object), Some(_)) if owner_of(object) != owner => {
            Err(AttachError::OtherOwner { link: plan.name.clone(), owner: owner_of(object).into() })
        }
        // Left half made; or in another container, which had the same process id and is gone.
        _ => Ok(Standing::Absent { stale: Some(link.index) }),
    }
}

/// The other end of `link`, if that is in the container: each then names the other.
fn far_end(site: &mut impl Site, link: &LinkInfo) -> Result<Option<Pair>, HostError> {
    let (Some(index), Some(host_mac), Some(LinkKind::Veth)) = (link.peer, link.mac, &link.kind) else {
        return Ok(None);
    };
    let far = link_or_none(site.inside(&[look_up(index)]).pop().unwrap_or(Ok(Vec::new())))?;
    let far = far.filter(|far| far.kind == Some(LinkKind::Veth) && far.peer == Some(link.index));
    Ok(far.map(|_| Pair { host_index: link.index, host_mac, index }))
}

fn build<'a>(
    site: &mut impl Site,
    mark: &Mark,
    plan: &'a Plan,
    standing: &[Standing],
    bridges: &HashMap<String, u32>,
    made: &mut Made<'a>,
) -> Result<Vec<AttachedLink>, HostError> {
    let bridge = |link: &LinkPlan| link.host.bridge().and_then(|name| bridges.get(name)).copied();
    let stale = standing.iter().filter_map(|standing| match standing {
        Standing::Absent { stale } => *stale,
        Standing::Ours(_) => None,
    });
    all(site.host(&stale.map(delete).collect::<Vec<_>>()), &HostError::is_not_found)?;
    let absent = plan.links.iter().zip(standing).filter(|(_, standing)| matches!(standing, Standing::Absent { .. }));
    let absent: Vec<_> = absent.map(|(link, _)| (link, bridge(link))).collect();
    create(site, mark, &absent, made)?;
    if !made.pairs.is_empty() {
        inside(site, mark, &plan.owner, &made.pairs)?;
        open(site, mark, &plan.owner, &made.pairs, &bridge)?;
    }
    let mut fresh = made.pairs.iter();
    let links = plan.links.iter().zip(standing).map(|(link, standing)| {
        let (pair, repaired) = match standing {
            Standing::Ours(pair) => (Some(*pair), verify(site, mark, &plan.owner, link, *pair, bridge(link))?),
            Standing::Absent { .. } => (fresh.next().map(|(_, pair)| *pair), Vec::new()),
        };
        let created = matches!(standing, Standing::Absent { .. });
        let pair = pair.ok_or_else(|| HostError::answer("create links", "one is missing"))?;
        Ok(AttachedLink::new(link, pair, created, repaired))
    });
    links.collect()
}

fn create<'a>(
    site: &mut impl Site,
    mark: &Mark,
    absent: &[(&'a LinkPlan, Option<u32>)],
    made: &mut Made<'a>,
) -> Result<(), HostError> {
    let netns = site.netns().clone();
    let mut requests = Vec::with_capacity(2 * absent.len());
    for (link, bridge) in absent {
        requests.push(create_veth(&NewVeth {
            near: VethEnd { name: &link.host_name, mtu: Some(link.mtu), mac: None },
            far: VethEnd { name: &link.name, mtu: Some(link.mtu), mac: Some(link.mac) },
            far_netns: Some(netns.as_fd()),
            group: mark.group(),
            controller: *bridge,
        })?);
        requests.push(find(&link.host_name)?);
    }
    let mut outcomes = site.host(&requests).into_iter();
    let mut failure = None;
    for (link, _) in absent {
        let (created, found) = (outcomes.next(), outcomes.next());
        // What is found under the name is the new link only if there is one.
        let outcome = created.unwrap_or(Ok(Vec::new())).and_then(|_| {
            let pair = pair(link, found.unwrap_or(Ok(Vec::new()))).inspect_err(|_| made.lost.push(link))?;
            made.pairs.push((link, pair));
            Ok(())
        });
        failure = failure.or(outcome.err());
    }
    failure.map_or(Ok(()), Err)
}

fn pair(link: &LinkPlan, found: Outcome) -> Result<Pair, HostError> {
    let what = || format!("find link {}", link.host_name);
    let found = link_or_none(found)?.ok_or_else(|| HostError::NotFound { what: what() })?;
    match (found.mac, found.peer) {
        (Some(host_mac), Some(index)) => Ok(Pair { host_index: found.index, host_mac, index }),
        _ => Err(HostError::answer(what(), "a veth pair without another end")),
    }
}

fn inside(site: &mut impl Site, mark: &Mark, owner: &str, made: &[(&LinkPlan, Pair)]) -> Result<(), HostError> {
    let links: Vec<_> = made.iter().map(|(link, _)| (&*link.name, link.has_v6())).collect();
    site.prepare_v6_inside(&links)?;
    let up = LinkChange { up: Some(true), ..LinkChange::default() };
    // It stays up whatever comes: every container wants it so.
    let mut requests = vec![change(LOOPBACK, &up)?];
    for (link, pair) in made {
        let alias = mark.alias(&link.object(owner))?;
        requests.push(change(pair.index, &inside_settings(link, &alias))?);
        requests.push(change(pair.index, &up)?);
        requests.extend(link.addresses.iter().map(|address| address::add(pair.index, *address, false)));
        requests.extend(link.routes.iter().map(|plan| route::add(&plan.on(pair.index))));
        requests.extend(link.rules.iter().map(rule::add));
        requests.extend(neighbours(link, pair).map(|known| neighbour::replace(&known)));
    }
    all(site.inside(&requests), &|_| false)
}

/// What the container's end is set to before it is up.
pub(super) fn inside_settings<'a>(link: &LinkPlan, alias: &'a str) -> LinkChange<'a> {
    LinkChange {
        alias: Some(alias),
        link_local: has_room_for_v6(link.mtu).then_some(link.has_v6()),
        // With two links a question may come in by one whose answer would leave by the other.
        loose_reverse_path: Some(true),
        ..LinkChange::default()
    }
}

/// Whom the container knows at the host's end.
pub(super) fn neighbours<'a>(link: &'a LinkPlan, pair: &'a Pair) -> impl Iterator<Item = NeighbourInfo> + 'a {
    let known = |address: &_| NeighbourInfo { address: *address, mac: pair.host_mac, device: pair.index };
    link.neighbours.iter().map(known)
}

/// Whom the host knows at the container's end, where it routes there: it could not ask, without an address on the link.
pub(super) fn host_neighbours<'a>(link: &'a LinkPlan, pair: &'a Pair) -> impl Iterator<Item = NeighbourInfo> + 'a {
    let known = |address: &IpNet| NeighbourInfo { address: address.addr(), mac: link.mac, device: pair.host_index };
    link.addresses.iter().map(known)
}

fn open(
    site: &mut impl Site,
    mark: &Mark,
    owner: &str,
    made: &[(&LinkPlan, Pair)],
    bridge: &impl Fn(&LinkPlan) -> Option<u32>,
) -> Result<(), HostError> {
    let up = LinkChange { up: Some(true), ..LinkChange::default() };
    let mut requests = Vec::new();
    for (link, pair) in made {
        let alias = mark.alias(&link.object(owner))?;
        requests.push(change(pair.host_index, &host_settings(link, &alias))?);
        requests.push(change(pair.host_index, &up)?);
        if let HostEnd::Routed { routes } = &link.host {
            site.prepare_v6(&link.host_name, link.has_v6())?;
            requests.extend(routes.iter().map(|plan| route::add(&plan.on(pair.host_index))));
            requests.extend(host_neighbours(link, pair).map(|known| neighbour::replace(&known)));
        }
        requests.push(look_up(pair.host_index));
    }
    let outcomes = site.host(&requests);
    let links: Vec<_> = outcomes.iter().flatten().filter_map(|replies| LinkInfo::read(replies.first()?)).collect();
    all(outcomes, &|_| false)?;
    // A bridge that was deleted meanwhile has let its ports go without a word.
    for ((link, pair), found) in made.iter().zip(links) {
        if found.controller != bridge(link) || !found.up {
            let what = format!("set up link {} ({})", link.host_name, pair.host_index);
            return Err(HostError::Foreign { what, reason: "somebody changed it meanwhile".into() });
        }
    }
    // Asking for a link also makes the kernel notice at once that its other end is up.
    let requests: Vec<_> = made.iter().map(|(_, pair)| look_up(pair.index)).collect();
    all(site.inside(&requests), &|_| false)
}

/// What the host's end is set to before it is up.
pub(super) fn host_settings<'a>(link: &LinkPlan, alias: &'a str) -> LinkChange<'a> {
    let port = match &link.host {
        HostEnd::Port { flags, .. } => Some(*flags),
        HostEnd::Routed { .. } => None,
    };
    // The host needs no address of its own there: a port has none, and the container knows its next hop.
    let link_local = has_room_for_v6(link.mtu).then_some(false);
    LinkChange { alias: Some(alias), port, link_local, ..LinkChange::default() }
}

fn undo(site: &mut impl Site, mark: &Mark, made: &Made<'_>) -> Result<(), HostError> {
    let mut links: Vec<_> = made.pairs.iter().rev().map(|(_, pair)| delete(pair.host_index)).collect();
    let mut outcome = Ok(());
    for link in &made.lost {
        let found = link_or_none(site.host(&[find(&link.host_name)?]).pop().unwrap_or(Ok(Vec::new())));
        match found {
            Ok(found) => {
                let ours = found.filter(|link| mark.ownership(link) == Ownership::HalfMade);
                links.extend(ours.map(|link| delete(link.index)));
            }
            Err(error) => outcome = Err(error),
        }
    }
    // The links first: they are what others see. What is gone already needs no undoing.
    let links = all(site.host(&links), &HostError::is_not_found);
    let rules: Vec<_> = made.pairs.iter().flat_map(|(link, _)| &link.rules).map(rule::remove).collect();
    let rules = all(site.inside(&rules), &HostError::is_not_found);
    outcome.and(links).and(rules)
}

/// The first failure among `outcomes` that is not `fine`.
pub(super) fn all(outcomes: Vec<Outcome>, fine: &dyn Fn(&HostError) -> bool) -> Result<(), HostError> {
    let failed = outcomes.into_iter().filter_map(Result::err).find(|error| !fine(error));
    failed.map_or(Ok(()), Err)
}

/// The link that was asked for, if it is there.
pub(super) fn link_or_none(outcome: Outcome) -> Result<Option<LinkInfo>, HostError> {
    match outcome {
        Ok(replies) => Ok(replies.first().and_then(LinkInfo::read)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// That a link with a name we need is somebody else's.
pub(super) fn foreign(link: &LinkInfo) -> HostError {
    let reason = match &link.alias {
        Some(alias) => format!("there is a link of this name that is marked {alias:?}"),
        None => "there is a link of this name without our mark".into(),
    };
    HostError::Foreign { what: format!("create link {}", link.name), reason }
}

/// Refuses a link that is no bridge of ours.
pub(super) fn expect_bridge(mark: &Mark, link: &LinkInfo) -> Result<(), HostError> {
    match (mark.ownership(link), &link.kind) {
        (Ownership::Foreign, _) => Err(foreign(link)),
        (_, Some(LinkKind::Bridge)) => Ok(()),
        _ => {
            let what = format!("use bridge {}", link.name);
            Err(HostError::Foreign { what, reason: "it carries our mark and is no bridge".into() })
        }
    }
}
