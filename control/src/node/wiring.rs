//! Containers in their namespaces: found, wired, and wired again when what they hang on has changed.
//!
//! Owns what a container's links are to be according to its record, and everything that is made of it: fence, links, name,
//! resolver. Left out: when that is done, and addresses ([`super::attachments`]); the links themselves ([`crate::attach`]).

use super::device::DeviceMaker;
use super::dispatch::Node;
use super::error::NodeError;
use super::fence::{DNS_PORT, has_links};
use super::host::Host;
use super::names::name_of;
use crate::attach::Plan;
use crate::attach::wiring::{FoundBy, GlobalLink, ServiceLink, container};
use crate::host::{HostError, Netns, PortFlags, Process, resolv_conf};
use crate::ipc::wire::{AttachContainer, AttachHandle};
use crate::state::{Attachment, Bridge, Service};
use ipnet::IpNet;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::Path;

/// A container that is there.
pub(super) struct Found {
    netns: Netns,
    pub(super) process: Option<Process>,
    pub(super) by: FoundBy,
}

impl Found {
    /// Finds what `attach` means. `descriptor` came beside the frame.
    pub(super) fn new(attach: &AttachContainer, descriptor: Option<OwnedFd>) -> Result<Self, NodeError> {
        let failed = |source| NodeError::Container { handle: attach.handle.key(), source };
        let process = match attach.handle {
            AttachHandle::LinuxPid { pid } => Some(Process::open(pid).map_err(failed)?),
            _ => None,
        };
        let netns = match (&attach.netns, descriptor, &process) {
            (Some(_), Some(_), _) => {
                return Err(NodeError::Field {
                    field: "netns",
                    reason: "a path and a descriptor are one too many".into(),
                });
            }
            (Some(path), None, _) => Netns::at_path(Path::new(path)),
            (None, Some(descriptor), _) => Netns::try_from(descriptor),
            (None, None, Some(process)) => process.netns(),
            (None, None, None) => {
                let reason = "a path, or netns_fd and a descriptor beside the frame, has to say where it is".into();
                return Err(NodeError::Field { field: "netns", reason });
            }
        };
        let netns = netns.map_err(failed)?;
        let by = match attach.handle {
            AttachHandle::LinuxPid { pid } => FoundBy::Pid(pid),
            _ => FoundBy::Netns(netns.id().map_err(failed)?),
        };
        Ok(Self { netns, process, by })
    }

    /// Finds again what `known` was.
    pub(super) fn again(known: &Attachment) -> Result<Self, HostError> {
        let gone = || HostError::NotFound { what: format!("find {}", known.handle.key()) };
        let process = match known.handle {
            AttachHandle::LinuxPid { pid } => Some(Process::open(pid)?),
            _ => None,
        };
        let netns = match (&known.netns_path, &process) {
            (Some(path), _) => Netns::at_path(Path::new(path))?,
            (None, Some(process)) => process.netns()?,
            (None, None) => return Err(gone()),
        };
        let by = match known.handle {
            AttachHandle::LinuxPid { pid } => FoundBy::Pid(pid),
            _ => FoundBy::Netns(netns.id()?),
        };
        let found = Self { netns, process, by };
        if found.is(known) { Ok(found) } else { Err(gone()) }
    }

    pub(super) fn started_ticks(&self) -> Option<u64> {
        self.process.as_ref().map(|process| process.id().started)
    }

    pub(super) fn inode(&self) -> Option<u64> {
        self.netns.id().ok().map(|id| id.number())
    }

    /// Whether it is the one that was attached as `known`.
    pub(super) fn is(&self, known: &Attachment) -> bool {
        self.started_ticks() == known.started_ticks && self.inode() == known.netns
    }
}

impl<M: DeviceMaker, H: Host> Node<M, H> {
    /// Has every container be what it is to be now, those left out that have ended and will be let go.
    pub(super) async fn wire_all_again(&self) {
        self.wire_again(|_| true).await;
    }

    /// Has containers on the global overlay be what they are to be with a new device: routes to them went with the former,
    /// whose address was their source.
    pub(super) async fn wire_to_global_again(&self) {
        self.wire_again(|known| known.global_ip.is_some()).await;
    }

    pub(super) async fn wire_again(&self, which: impl Fn(&Attachment) -> bool) {
        let all = self.kit.store.all::<Attachment>();
        for known in all.into_iter().filter(|known| has_links(&known.handle) && which(known)) {
            let _turn = self.workload_orders.turn(&known.handle.key()).await;
            let _stays = self.orders.share(&known.service).await;
            if self.kit.store.find::<Attachment>(&Attachment::id_of(&known.handle)).as_ref() != Some(&known) {
                continue;
            }
            let Ok(found) = Found::again(&known) else { continue };
            if let Err(error) = self.wire(&known, &found).await {
                tracing::error!(%error, attachment = known.handle.key(), "a container is not as it should be; attach it again");
            }
        }
    }

    /// Brings about what is written down of a container.
    pub(super) async fn wire(&self, attachment: &Attachment, found: &Found) -> Result<(), NodeError> {
        self.forward().await?;
        self.fence(attachment).await?;
        self.confirm_links(attachment, found).await?;
        self.tell_domain(attachment, true);
        match name_of(attachment) {
            Some(name) => self.register_name(&name, attachment.ip).await,
            None => Ok(()),
        }
    }

    /// Makes the links of a container what they are to be. Returns what had to be mended.
    pub(super) async fn confirm_links(&self, attachment: &Attachment, found: &Found) -> Result<Vec<String>, NodeError> {
        let plan = self.plan(attachment, found)?;
        let attached = self.kit.host.attach(&plan, &found.netns).await;
        attached.map_err(|source| NodeError::Attach(Box::new(source)))
    }

    /// Has the container ask the resolver it was given, or our name server, if whoever attaches it wants that. Not written
    /// down: the file is in the container for as long as that is there.
    pub(super) async fn write_resolv_conf(
        &self,
        attach: &AttachContainer,
        attachment: &Attachment,
        found: &Found,
    ) -> Result<(), NodeError> {
        let Some(process) = found.process.as_ref().filter(|_| attach.resolv_conf) else { return Ok(()) };
        let server = attach.dns_server.or_else(|| self.name_server_for(&attachment.service)).ok_or_else(|| {
            let reason = "there is no name server at port 53 of the bridge: name one as dns_server";
            NodeError::Field { field: "resolv_conf", reason: reason.into() }
        })?;
        let text = resolv_conf::text(server, attach.dns_domain.as_deref());
        let written = self.kit.host.write_resolv_conf(process.id(), text).await;
        written.map_err(|source| NodeError::ResolvConf { handle: attachment.handle.key(), source })
    }

    /// Where the workloads of a service find our name server: at the only port that resolv.conf(5) knows.
    fn name_server_for(&self, service: &str) -> Option<IpAddr> {
        self.naming.as_ref().filter(|naming| naming.port() == DNS_PORT)?;
        self.bridge_of(service).map(|bridge| bridge.gateway)
    }

    pub(super) fn bridge_of(&self, service: &str) -> Option<Bridge> {
        let service = self.kit.store.find::<Service>(service)?;
        self.kit.store.find::<Bridge>(&service.bridge)
    }

    /// The links of a container.
    fn plan(&self, attachment: &Attachment, found: &Found) -> Result<Plan, NodeError> {
        let bridge = self.bridge_of(&attachment.service);
        let bridge =
            bridge.ok_or_else(|| NodeError::NoServiceBridge { service: attachment.service.clone(), shared: false })?;
        let prefix = |ip| IpNet::new(ip, bridge.subnet.prefix_len()).unwrap_or(IpNet::from(ip));
        let service = ServiceLink {
            host_name: found.by.service_name(),
            bridge: bridge.bridge.clone(),
            flags: PortFlags::default(),
            addresses: vec![prefix(attachment.ip)],
            gateways: vec![bridge.gateway],
            mtu: self.kit.size.mtu().into(),
        };
        let live = self.overlay.live().map(|live| live.plan.address.addr());
        let node = live.or_else(|| self.cluster().node_ip());
        let global = attachment.global_ip.zip(node).map(|(ip, node)| GlobalLink {
            host_name: found.by.global_name(),
            addresses: vec![ip],
            node: vec![node],
            node_is_up: live.is_some(),
            cluster: vec![self.cluster().cluster],
            mtu: self.kit.size.mtu().into(),
        });
        Ok(container(attachment.mark(), Some(&service), global.as_ref()))
    }
}
