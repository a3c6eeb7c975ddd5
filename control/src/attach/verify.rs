//! Whether a link that stands is as planned, and making it so where it is not.
//!
//! Only what carries our mark is taken away: addresses, routes and neighbours that the container made for itself stay.

use super::plan::{HostEnd, LinkPlan, RoutePlan};
use super::site::Site;
use super::steps::{Pair, host_neighbours, host_settings, inside_settings, link_or_none, neighbours};
use crate::host::link::{change, look_up, superpacket};
use crate::host::request::{Outcome, Reply, Request};
use crate::host::{HostError, LinkChange, LinkInfo, Mark, NeighbourInfo, RuleInfo, address, neighbour, route, rule};
use ipnet::IpNet;
use std::fmt;
use std::net::IpAddr;

/// What was not as planned, and is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// A link was down.
    Down(Side),
    /// A link had this MTU.
    Mtu(Side, u32),
    /// A link was called so.
    Name(String),
    /// A link did not say what it is for.
    Mark(Side),
    /// The host's end was no port of its bridge, or of another one.
    Bridge,
    /// The bridge treated the port otherwise.
    PortFlags,
    /// An address was missing.
    AddressMissing(IpNet),
    /// There was an address of ours that is not planned.
    AddressExtra(IpNet),
    /// A route was missing.
    RouteMissing(Side, IpNet),
    /// There was a route of ours that is not planned.
    RouteExtra(Side, IpNet),
    /// The rule for a source was missing.
    RuleMissing(IpAddr),
    /// There was a rule of ours for a source of this link that is not planned.
    RuleExtra(IpAddr),
    /// A neighbour was missing or had another link-layer address.
    Neighbour(Side, IpAddr),
}

/// An end of a veth pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The host's.
    Host,
    /// The container's.
    Container,
}

/// Requests that bring about what is missing, and what that is.
#[derive(Default)]
struct Repair {
    differences: Vec<Difference>,
    host: Vec<Request>,
    inside: Vec<Request>,
}

/// Compares a standing link with its plan, repairs it, and tells what it found.
pub(super) fn verify(
    site: &mut impl Site,
    mark: &Mark,
    owner: &str,
    plan: &LinkPlan,
    pair: Pair,
    bridge: Option<u32>,
) -> Result<Vec<Difference>, HostError> {
    let alias = mark.alias(&plan.object(owner))?;
    let mut repair = Repair::default();
    let outside = link(site, Side::Host, pair.host_index)?;
    let within = link(site, Side::Container, pair.index)?;
    // Whether a link has IPv6 depends on its size, and where that is set on its name.
    repair.compare_names_and_sizes(plan, &outside, &within)?;
    repair.carry_out(site)?;
    site.prepare_v6_inside(&[(&plan.name, plan.has_v6())])?;
    repair.compare_inner_end(plan, &within, &alias)?;
    let held = dump(site, Side::Container, address::list(pair.index))?;
    repair.compare_addresses(plan, pair.index, &address::read_all(&held, pair.index));
    if let HostEnd::Routed { .. } = &plan.host {
        site.prepare_v6(&plan.host_name, plan.has_v6())?;
    }
    repair.compare_host_end(plan, &outside, bridge, &alias)?;
    repair.carry_out(site)?;
    // Addresses and links that change take routes with them, so those come last.
    repair.compare_routes(site, Side::Container, &plan.routes, pair.index)?;
    repair.compare_rules(site, plan)?;
    repair.compare_neighbours(site, Side::Container, neighbours(plan, &pair), pair.index)?;
    if let HostEnd::Routed { routes } = &plan.host {
        repair.compare_routes(site, Side::Host, routes, pair.host_index)?;
        repair.compare_neighbours(site, Side::Host, host_neighbours(plan, &pair), pair.host_index)?;
    }
    repair.carry_out(site)?;
    Ok(repair.differences)
}

impl Repair {
    fn compare_names_and_sizes(
        &mut self,
        plan: &LinkPlan,
        outside: &LinkInfo,
        within: &LinkInfo,
    ) -> Result<(), HostError> {
        if within.name != plan.name {
            // Before Linux 6.2 a link that is up keeps its name.
            self.inside.push(change(within.index, &LinkChange { up: Some(false), ..LinkChange::default() })?);
            self.inside.push(change(within.index, &LinkChange { name: Some(&plan.name), ..LinkChange::default() })?);
            self.differences.push(Difference::Name(within.name.clone()));
        }
        let (segs, size) = superpacket(plan.mtu);
        let mtu = LinkChange {
            mtu: Some(plan.mtu),
            gso_max_segs: Some(segs),
            gso_max_size: Some(size),
            ..LinkChange::default()
        };
        if outside.mtu != plan.mtu {
            self.host.push(change(outside.index, &mtu)?);
            self.differences.push(Difference::Mtu(Side::Host, outside.mtu));
        }
        if within.mtu != plan.mtu {
            self.inside.push(change(within.index, &mtu)?);
            self.differences.push(Difference::Mtu(Side::Container, within.mtu));
        }
        Ok(())
    }

    fn compare_host_end(
        &mut self,
        plan: &LinkPlan,
        link: &LinkInfo,
        bridge: Option<u32>,
        alias: &str,
    ) -> Result<(), HostError> {
        let settings = host_settings(plan, alias);
        let moved = link.controller != bridge;
        let index = link.index;
        if moved {
            let port = LinkChange { controller: Some(bridge.unwrap_or(0)), ..LinkChange::default() };
            self.host.push(change(index, &port)?);
            self.differences.push(Difference::Bridge);
        }
        let flags = settings.port.is_some_and(|flags| flags != link.port.unwrap_or_default());
        if flags && !moved {
            self.differences.push(Difference::PortFlags);
        }
        if link.alias.as_deref() != Some(alias) {
            self.differences.push(Difference::Mark(Side::Host));
        }
        if moved || flags || link.alias.as_deref() != Some(alias) {
            self.host.push(change(index, &settings)?);
        }
        if !link.up {
            self.differences.push(Difference::Down(Side::Host));
            self.host.push(change(index, &up())?);
        }
        Ok(())
    }

    fn compare_inner_end(&mut self, plan: &LinkPlan, link: &LinkInfo, alias: &str) -> Result<(), HostError> {
        if link.alias.as_deref() != Some(alias) {
            self.inside.push(change(link.index, &inside_settings(plan, alias))?);
            self.differences.push(Difference::Mark(Side::Container));
        }
        if !link.up {
            self.differences.push(Difference::Down(Side::Container));
        }
        // It was set down to be renamed.
        if !link.up || link.name != plan.name {
            self.inside.push(change(link.index, &up())?);
        }
        Ok(())
    }

    fn compare_addresses(&mut self, plan: &LinkPlan, index: u32, held: &[address::AddressInfo]) {
        for info in held.iter().filter(|info| info.ours && !plan.addresses.contains(&info.address)) {
            self.inside.push(address::remove(index, info.address));
            self.differences.push(Difference::AddressExtra(info.address));
        }
        for planned in plan.addresses.iter().filter(|planned| held.iter().all(|info| info.address != **planned)) {
            self.inside.push(address::add(index, *planned, true));
            self.differences.push(Difference::AddressMissing(*planned));
        }
    }

    fn compare_routes(
        &mut self,
        site: &mut impl Site,
        side: Side,
        plans: &[RoutePlan],
        device: u32,
    ) -> Result<(), HostError> {
        let mut held = Vec::new();
        for v6 in [false, true] {
            let replies = dump(site, side, route::list(v6, Some(device)))?;
            held.extend(route::read_all(&replies).filter(|route| route.device == device));
        }
        let wanted: Vec<_> = plans.iter().map(|plan| plan.on(device)).collect();
        let (missing, extra) = compare(&wanted, &held);
        self.note(extra, |route| (route::remove(route), Difference::RouteExtra(side, route.prefix)), side);
        self.note(missing, |route| (route::add(route), Difference::RouteMissing(side, route.prefix)), side);
        Ok(())
    }

    fn compare_rules(&mut self, site: &mut impl Site, plan: &LinkPlan) -> Result<(), HostError> {
        let side = Side::Container;
        let mut held = Vec::new();
        for v6 in [false, true] {
            held.extend(rule::read_all(&dump(site, side, rule::list(v6))?));
        }
        // Those of other links of the container are theirs.
        held.retain(|rule: &RuleInfo| plan.addresses.iter().any(|address| address.addr() == rule.source));
        let (missing, extra) = compare(&plan.rules, &held);
        self.note(extra, |extra| (rule::remove(extra), Difference::RuleExtra(extra.source)), side);
        self.note(missing, |missing| (rule::add(missing), Difference::RuleMissing(missing.source)), side);
        Ok(())
    }

    fn compare_neighbours(
        &mut self,
        site: &mut impl Site,
        side: Side,
        wanted: impl Iterator<Item = NeighbourInfo>,
        device: u32,
    ) -> Result<(), HostError> {
        let wanted: Vec<_> = wanted.collect();
        let known: Vec<_> = neighbour::read_all(&dump(site, side, neighbour::list(device))?, device).collect();
        let (missing, mut extra) = compare(&wanted, &known);
        // One with another link-layer address is replaced.
        extra.retain(|extra| wanted.iter().all(|wanted| wanted.address != extra.address));
        let difference = |known: &NeighbourInfo| Difference::Neighbour(side, known.address);
        self.note(extra, |extra| (neighbour::remove(extra), difference(extra)), side);
        self.note(missing, |missing| (neighbour::replace(missing), difference(missing)), side);
        Ok(())
    }

    fn note<T>(&mut self, found: Vec<T>, repair: impl Fn(&T) -> (Request, Difference), side: Side) {
        for found in &found {
            let (request, difference) = repair(found);
            match side {
                Side::Host => self.host.push(request),
                Side::Container => self.inside.push(request),
            }
            self.differences.push(difference);
        }
    }

    /// The container first, as when a link is made.
    fn carry_out(&mut self, site: &mut impl Site) -> Result<(), HostError> {
        carry_out(std::mem::take(&mut self.inside), |requests| site.inside(requests))?;
        carry_out(std::mem::take(&mut self.host), |requests| site.host(requests))
    }
}

fn up() -> LinkChange<'static> {
    LinkChange { up: Some(true), ..LinkChange::default() }
}

/// What is wanted and not held, and what is held and not wanted.
fn compare<T: Copy + PartialEq>(wanted: &[T], held: &[T]) -> (Vec<T>, Vec<T>) {
    let without = |these: &[T], those: &[T]| these.iter().filter(|one| !those.contains(one)).copied().collect();
    (without(wanted, held), without(held, wanted))
}

/// What is to be removed may be gone already.
pub(super) fn carry_out(requests: Vec<Request>, ask: impl FnOnce(&[Request]) -> Vec<Outcome>) -> Result<(), HostError> {
    if requests.is_empty() {
        return Ok(());
    }
    for (outcome, request) in ask(&requests).into_iter().zip(&requests) {
        match outcome {
            Err(error) if request.removes() && error.is_not_found() => {}
            other => drop(other?),
        }
    }
    Ok(())
}

fn ask(site: &mut impl Site, side: Side, request: Request) -> Outcome {
    let mut outcomes = match side {
        Side::Host => site.host(&[request]),
        Side::Container => site.inside(&[request]),
    };
    outcomes.pop().unwrap_or(Ok(Vec::new()))
}

fn dump(site: &mut impl Site, side: Side, request: Request) -> Result<Vec<Reply>, HostError> {
    match ask(site, side, request) {
        // Nothing at all: some kernels say so instead of sending an empty list.
        Err(error) if error.is_not_found() => Ok(Vec::new()),
        other => other,
    }
}

fn link(site: &mut impl Site, side: Side, index: u32) -> Result<LinkInfo, HostError> {
    let found = link_or_none(ask(site, side, look_up(index)))?;
    found.ok_or_else(|| HostError::NotFound { what: format!("find link {index}") })
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "the host's end",
            Self::Container => "the container's end",
        })
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Down(side) => write!(f, "{side} was down"),
            Self::Mtu(side, mtu) => write!(f, "{side} had MTU {mtu}"),
            Self::Name(name) => write!(f, "the container's end was called {name}"),
            Self::Mark(side) => write!(f, "{side} had another mark"),
            Self::Bridge => f.write_str("the host's end was not at its bridge"),
            Self::PortFlags => f.write_str("the bridge treated the port otherwise"),
            Self::AddressMissing(address) => write!(f, "address {address} was missing"),
            Self::AddressExtra(address) => write!(f, "address {address} was too much"),
            Self::RouteMissing(side, prefix) => write!(f, "the route to {prefix} was missing at {side}"),
            Self::RouteExtra(side, prefix) => write!(f, "the route to {prefix} was too much at {side}"),
            Self::RuleMissing(source) => write!(f, "the rule for {source} was missing"),
            Self::RuleExtra(source) => write!(f, "the rule for {source} was too much"),
            Self::Neighbour(side, address) => write!(f, "neighbour {address} of {side} was missing or another"),
        }
    }
}
