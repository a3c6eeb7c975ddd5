//! The name server of the node: where it answers, whom, and with what, all of it as it is written down.
//!
//! Names are told it before the request that changes them is answered. Its addresses are those of the overlay and the
//! gateways of bridges, its clients whoever is in the cluster or behind a bridge; both are worked out anew whenever a
//! request may have changed them, and every few seconds besides.

use super::address::Plan;
use super::device::DeviceMaker;
use super::dispatch::Node;
use super::host::Host;
use crate::dns::{DnsServer, Problem};
use crate::ipc::health::ConditionCode;
use crate::ipc::wire::{NameServerStatus, Severity};
use crate::state::{Attachment, Bridge, GlobalOverlay, Name, Tables};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};

/// A name server, and where it is to answer.
pub struct Naming {
    server: DnsServer,
    port: u16,
    at_node: bool,
    extra: Vec<SocketAddr>,
    ttl_secs: u32,
    /// Whoever works out addresses and clients puts them in force before the next does.
    order: Mutex<()>,
}

impl Naming {
    /// Answers at `port` of every gateway, and of the node's own address if `at_node`, with answers that last `ttl_secs`.
    #[must_use]
    pub fn new(server: DnsServer, port: u16, at_node: bool, ttl_secs: u32) -> Self {
        Self { server, port, at_node, extra: Vec::new(), ttl_secs, order: Mutex::new(()) }
    }

    /// Answers at these addresses as well.
    #[must_use]
    pub fn also_at(self, extra: Vec<SocketAddr>) -> Self {
        Self { extra, ..self }
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }
}

impl<M: DeviceMaker, H: Host> Node<M, H> {
    /// Answers where the overlay is, to whom is in it.
    pub(super) fn serve_names(&self) {
        let Some(naming) = &self.naming else { return };
        let _order = naming.order.lock().unwrap_or_else(PoisonError::into_inner);
        let (addresses, networks) = self.kit.store.read(|tables| overlay_of(tables, naming.at_node));
        let cluster = (!networks.is_empty()).then(|| self.cluster().cluster);
        naming.server.allow(&networks.into_iter().chain(cluster).collect::<Vec<_>>());
        let gateways = addresses.into_iter().map(|ip| SocketAddr::new(ip, naming.port));
        naming.server.listen_at(&gateways.chain(naming.extra.iter().copied()).collect());
        self.tell_naming(&naming.server.problems());
    }

    /// Stops to answer.
    pub(super) fn stop_naming(&self) {
        let Some(naming) = &self.naming else { return };
        let _order = naming.order.lock().unwrap_or_else(PoisonError::into_inner);
        naming.server.listen_at(&BTreeSet::new());
    }

    /// Takes over what was there before this process, or what is left when all was forgotten.
    pub(super) fn load_names(&self) {
        for known in self.kit.store.all::<Name>() {
            self.tell_name(&known.name, &known.addresses);
        }
        for known in self.kit.store.all::<Attachment>() {
            self.tell_domain(&known, true);
        }
    }

    /// The addresses of a name are these now.
    pub(super) fn tell_name(&self, name: &str, addresses: &[IpAddr]) {
        let Some(naming) = &self.naming else { return };
        if let Err(error) = naming.server.records().set_addresses(name, addresses) {
            tracing::error!(%error, name, "a name that was written down is not answered");
        }
    }

    /// Where the short names of a workload are looked for.
    pub(super) fn tell_domain(&self, attachment: &Attachment, there: bool) {
        let (Some(naming), Some(domain)) = (&self.naming, &attachment.dns_domain) else { return };
        for ip in std::iter::once(attachment.ip).chain(attachment.global_ip) {
            if let Err(error) = naming.server.records().set_domain(ip, there.then_some(domain)) {
                tracing::warn!(%error, domain, attachment = attachment.handle.key(), "its short names are looked for nowhere");
            }
        }
    }

    /// Seconds an answer may be remembered.
    pub(super) fn names_ttl_secs(&self) -> u32 {
        self.naming.as_ref().map_or(0, |naming| naming.ttl_secs)
    }

    /// What the name server does.
    pub(super) fn naming_status(&self) -> Option<NameServerStatus> {
        let status = self.naming.as_ref()?.server.status();
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Some(NameServerStatus {
            listening: status.listening,
            names: count(status.names),
            upstreams: status.upstreams,
            cached: count(status.cached),
            totals: status.counts.into_iter().map(|(name, count)| (name.to_owned(), count)).collect(),
        })
    }

    fn tell_naming(&self, problems: &[Problem]) {
        let place = |problem: &Problem| match problem.at() {
            Some(at) => (ConditionCode::DnsNotServed, Severity::Error, Some(at.to_string())),
            // A node may well have no need for other names.
            None if *problem == Problem::NoUpstream => (ConditionCode::DnsUpstream, Severity::Info, None),
            None => (ConditionCode::DnsUpstream, Severity::Warning, None),
        };
        let places: Vec<_> = problems.iter().map(|problem| (place(problem), problem)).collect();
        for ((code, severity, subject), problem) in &places {
            let text = problem.to_string();
            self.board.raise(*code, subject.as_deref(), *severity, &text, Some(problem.hint()));
        }
        for code in [ConditionCode::DnsNotServed, ConditionCode::DnsUpstream] {
            let holds = |subject: Option<&str>| {
                places.iter().any(|((held, _, about), _)| *held == code && about.as_deref() == subject)
            };
            self.board.retain(code, holds);
        }
    }
}

/// The addresses of the node that containers know, and the networks they are in.
fn overlay_of(tables: &Tables, at_node: bool) -> (Vec<IpAddr>, Vec<IpNet>) {
    let global = tables.find::<GlobalOverlay>("").filter(|global| global.up);
    let node = global.and_then(|global| Plan::restore(global).ok()).filter(|_| at_node);
    let bridges = || tables.all::<Bridge>();
    let addresses = node.map(|plan| plan.address.addr()).into_iter().chain(bridges().map(|bridge| bridge.gateway));
    let networks = global.map(|global| global.cluster).into_iter().chain(bridges().map(|bridge| bridge.subnet));
    (addresses.collect(), networks.collect())
}
