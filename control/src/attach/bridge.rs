//! Bridges: made, verified, listed and removed, each only if it is ours and for the same thing: names are short, so two
//! services can come to share one.

use super::AttachError;
use super::plan::{BridgePlan, has_room_for_v6};
use super::steps::{all, expect_bridge, link_or_none};
use super::verify::carry_out;
use crate::host::ipv6::LinksV6;
use crate::host::link::{NewBridge, change, create_bridge, delete, find, list};
use crate::host::socket::Exchange;
use crate::host::{BridgeInfo, HostError, LinkChange, LinkInfo, Mark, Ownership, address};

/// A bridge as planned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// Its index.
    pub index: u32,
    /// It was not there before.
    pub created: bool,
    /// It was there and not as planned.
    pub repaired: bool,
}

/// Brings about the bridge of `plan`. One that had to be made is gone again where a later step fails.
pub(super) fn ensure(host: &mut impl Exchange, mark: &Mark, plan: &BridgePlan) -> Result<Bridge, AttachError> {
    plan.check(mark)?;
    if let Some(found) = link_or_none(host.ask(find(&plan.name)?))? {
        expect(mark, &found, &plan.object)?;
        let repaired = shape(host, mark, plan, &found)?;
        return Ok(Bridge { index: found.index, created: false, repaired });
    }
    let new = NewBridge { name: &plan.name, mac: Some(plan.mac), group: mark.group() };
    let mut outcomes = host.exchange(&[create_bridge(&new)?, find(&plan.name)?]).into_iter();
    outcomes.next().unwrap_or(Ok(Vec::new()))?;
    let made = link_or_none(outcomes.next().unwrap_or(Ok(Vec::new())))?;
    let made = made.ok_or_else(|| HostError::NotFound { what: format!("find link {}", plan.name) })?;
    match shape(host, mark, plan, &made) {
        Ok(_) => Ok(Bridge { index: made.index, created: true, repaired: false }),
        Err(error) => {
            // The first failure is what has to be mended; what is left behind carries our mark.
            let _ = host.ask(delete(made.index));
            Err(error.into())
        }
    }
}

/// Makes `link` the bridge of `plan`, and tells whether there was anything to do.
fn shape(host: &mut impl Exchange, mark: &Mark, plan: &BridgePlan, link: &LinkInfo) -> Result<bool, HostError> {
    let alias = mark.alias(&plan.object)?;
    // Below a certain size a link has no IPv6, and no addresses of it.
    if link.mtu != plan.mtu {
        let mtu = change(link.index, &LinkChange { mtu: Some(plan.mtu), ..LinkChange::default() })?;
        host.ask(mtu)?;
    }
    LinksV6::open()?.prepare(&link.name, plan.has_v6())?;
    let held = address::read_all(&host.ask(address::list(link.index))?, link.index);
    let mut requests = Vec::new();
    if link.alias.as_deref() != Some(&alias) {
        let link_local = has_room_for_v6(plan.mtu).then_some(plan.has_v6());
        requests.push(change(link.index, &LinkChange { alias: Some(&alias), link_local, ..LinkChange::default() })?);
    }
    if link.bridge.is_some_and(|bridge| bridge != BridgeInfo::default()) {
        let bridge = Some(BridgeInfo::default());
        requests.push(change(link.index, &LinkChange { bridge, ..LinkChange::default() })?);
    }
    let extra = held.iter().filter(|info| info.ours && !plan.addresses.contains(&info.address));
    requests.extend(extra.map(|info| address::remove(link.index, info.address)));
    let missing = plan.addresses.iter().filter(|planned| held.iter().all(|info| info.address != **planned));
    requests.extend(missing.map(|planned| address::add(link.index, *planned, true)));
    if !link.up {
        requests.push(change(link.index, &LinkChange { up: Some(true), ..LinkChange::default() })?);
    }
    let repaired = link.mtu != plan.mtu || !requests.is_empty();
    carry_out(requests, |requests| host.exchange(requests))?;
    Ok(repaired)
}

/// The ports of the bridge called `name`.
pub(super) fn ports(host: &mut impl Exchange, name: &str) -> Result<Vec<LinkInfo>, HostError> {
    let Some(bridge) = link_or_none(host.ask(find(name)?))? else {
        return Err(HostError::NotFound { what: format!("find link {name}") });
    };
    ports_of(host, bridge.index)
}

/// Deletes the bridge called `name` for `object`, and tells whether it was there.
pub(super) fn remove(host: &mut impl Exchange, mark: &Mark, name: &str, object: &str) -> Result<bool, AttachError> {
    let Some(bridge) = link_or_none(host.ask(find(name)?))? else { return Ok(false) };
    expect(mark, &bridge, object)?;
    let ports = ports_of(host, bridge.index)?;
    if !ports.is_empty() {
        let ports = ports.into_iter().map(|port| port.name).collect();
        return Err(AttachError::BridgeInUse { name: name.into(), ports });
    }
    all(vec![host.ask(delete(bridge.index))], &HostError::is_not_found)?;
    Ok(true)
}

/// Refuses a link that is not our bridge for `object`. One left half made is for whoever comes first.
fn expect(mark: &Mark, link: &LinkInfo, object: &str) -> Result<(), AttachError> {
    expect_bridge(mark, link)?;
    match mark.ownership(link) {
        Ownership::Ours(other) if other != object => {
            Err(AttachError::OtherBridge { name: link.name.clone(), object: other.into() })
        }
        _ => Ok(()),
    }
}

fn ports_of(host: &mut impl Exchange, index: u32) -> Result<Vec<LinkInfo>, HostError> {
    let links = host.ask(list())?;
    Ok(links.iter().filter_map(LinkInfo::read).filter(|link| link.controller == Some(index)).collect())
}
