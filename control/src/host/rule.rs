//! Rules: which routing table the packets of a source address look up. Ours carry [`PROTOCOL`].

use super::address::family;
use super::mark::PROTOCOL;
use super::request::{Reply, Request};
use super::{HostError, Netlink};
use ipnet::IpNet;
use netlink_packet_core::Parseable;
use netlink_packet_route::route::{RouteHeader, RouteProtocol};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::net::IpAddr;

/// One of our rules: packets from `source` look up `table`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleInfo {
    /// The source address.
    pub source: IpAddr,
    /// The table.
    pub table: u32,
    /// Rules are tried in the order of these numbers; the main table has 32766.
    pub priority: u32,
}

/// Adds a rule, content where it is there: it outlives the link it was made for.
pub(crate) fn add(rule: &RuleInfo) -> Request {
    Request::ensure(format!("add rule from {}", rule.source), RouteNetlinkMessage::NewRule(write(rule)))
}

/// Removes a rule.
pub(crate) fn remove(rule: &RuleInfo) -> Request {
    Request::new(format!("remove rule from {}", rule.source), RouteNetlinkMessage::DelRule(write(rule)))
}

/// Asks for the rules of one family.
pub(crate) fn list(v6: bool) -> Request {
    let mut message = RuleMessage::default();
    message.header.family = if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    Request::dump("list rules", RouteNetlinkMessage::GetRule(message))
}

/// Reads the answer to [`list`]: our rules.
pub(crate) fn read_all(replies: &[Reply]) -> impl Iterator<Item = RuleInfo> {
    replies.iter().filter_map(|reply| read(&RuleMessage::parse(&reply.body).ok()?))
}

fn write(rule: &RuleInfo) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family(rule.source);
    message.header.src_len = IpNet::from(rule.source).prefix_len();
    message.header.table = u8::try_from(rule.table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Source(rule.source),
        RuleAttribute::Table(rule.table),
        RuleAttribute::Priority(rule.priority),
        RuleAttribute::Protocol(RouteProtocol::Other(PROTOCOL)),
    ];
    message
}

fn read(message: &RuleMessage) -> Option<RuleInfo> {
    let (mut source, mut priority, mut ours) = (None, 0, false);
    let mut table = message.header.table.into();
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Source(address) => source = Some(*address),
            RuleAttribute::Table(number) => table = *number,
            RuleAttribute::Priority(number) => priority = *number,
            RuleAttribute::Protocol(protocol) => ours = *protocol == RouteProtocol::Other(PROTOCOL),
            _ => {}
        }
    }
    let source = source.filter(|source| ours && IpNet::from(*source).prefix_len() == message.header.src_len)?;
    Some(RuleInfo { source, table, priority })
}

impl Netlink {
    /// Our rules, both families.
    ///
    /// # Errors
    /// [`HostError`] where the kernel could not be asked.
    pub async fn rules(&self) -> Result<Vec<RuleInfo>, HostError> {
        let mut found = Vec::new();
        for v6 in [false, true] {
            found.extend(read_all(&self.ask(list(v6)).await?));
        }
        Ok(found)
    }
}
