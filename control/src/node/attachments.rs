//! Containers: attached by the namespace of a process, a path or a descriptor, whole or not at all.
//!
//! ```text
//! attach   addresses, record ──► disk ──► firewall ──► links ──► names ──► answer
//! detach   record, addresses ──► disk ──► links, firewall, names ──► addresses rest
//! ```
//!
//! A container is fenced before it has a link. Changes of one container wait for each other; those of several go beside
//! each other, also of one service, which is only kept from going meanwhile. What was attached is known by its process and
//! the time that started, or by its namespace: a later one with the same number is another.
//!
//! A container whose process ends is detached by us; its addresses rest before anybody else gets them.

use super::addresses::now_ms;
use super::device::DeviceMaker;
use super::dispatch::Node;
use super::error::NodeError;
use super::fence::has_links;
use super::host::Host;
use super::networks::check_name;
use super::wiring::Found;
use crate::attach::Marked;
use crate::host::Process;
use crate::ipam::Place;
use crate::ipc::wire::{AttachContainer, AttachHandle, AttachmentState, Event, LeaseState, OverlayMode, Response};
use crate::state::{Attachment, Bridge, Lease, Peer, Service, Transaction};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::PoisonError;

/// Workloads at once: what the firewall holds.
const ATTACHMENTS_MAX: usize = 16_384;

/// Longest id a client gives a workload, so that it fits the mark of a link beside the names of instance and link.
const ID_BYTES_MAX: usize = 128;

/// Ports of the host that lead to one workload.
const PUBLISHED_MAX: usize = 256;

impl<M: DeviceMaker, H: Host> Node<M, H> {
    /// Attaches a container, or sees to it that it still is. A repeat by the same owner answers the same.
    pub(super) async fn attach_container(
        &self,
        attach: &AttachContainer,
        descriptor: Option<OwnedFd>,
    ) -> Result<Response, NodeError> {
        check(attach)?;
        let found = Found::new(attach, descriptor)?;
        let _turn = self.workload_orders.turn(&attach.handle.key()).await;
        let _stays = self.orders.share(&attach.service).await;
        if let Some(known) = self.kit.store.find::<Attachment>(&Attachment::id_of(&attach.handle)) {
            if found.is(&known) {
                is_the_same(&known, attach)?;
                self.wire(&known, &found).await?;
                self.write_resolv_conf(attach, &known, &found).await?;
                self.watch_end(&known, found.process.as_ref());
                return Ok(answer(&known));
            }
            // Its number is another's now.
            self.let_go(&known).await?;
        }
        let claim = self.claim_published(attach).await?;
        let attachment = self.record(attach, &found).await?;
        drop(claim);
        let made = async {
            self.wire(&attachment, &found).await?;
            self.write_resolv_conf(attach, &attachment, &found).await
        };
        if let Err(error) = made.await {
            if let Err(error) = self.let_go(&attachment).await {
                tracing::error!(%error, attachment = attachment.handle.key(), "an attachment that failed could not be taken back");
            }
            return Err(error);
        }
        self.watch_end(&attachment, found.process.as_ref());
        self.tell_attachment(&attachment, AttachmentState::Attached);
        tracing::info!(attachment = attachment.handle.key(), service = attachment.service, ip = %attachment.ip, "attached");
        Ok(answer(&attachment))
    }

    /// Detaches a workload; what is not there is detached already.
    pub(super) async fn detach_container(&self, handle: &AttachHandle, owner: Option<&str>) -> Result<(), NodeError> {
        self.detach_if(handle, |known| match &known.owner {
            Some(holder) if owner != Some(holder) => {
                Err(NodeError::OtherAttachment { handle: known.handle.key(), of: format!("owner {holder}") })
            }
            _ => Ok(true),
        })
        .await
        .map(|_| ())
    }

    /// The same if `wanted` says yes, which it is asked when no other change of the workload is in progress. Returns the
    /// answer.
    pub(super) async fn detach_if(
        &self,
        handle: &AttachHandle,
        wanted: impl FnOnce(&Attachment) -> Result<bool, NodeError> + Send,
    ) -> Result<bool, NodeError> {
        let known = {
            let _turn = self.workload_orders.turn(&handle.key()).await;
            let Some(known) = self.kit.store.find::<Attachment>(&Attachment::id_of(handle)) else { return Ok(false) };
            if !wanted(&known)? {
                return Ok(false);
            }
            let _stays = self.orders.share(&known.service).await;
            self.let_go(&known).await?;
            known
        };
        if known.ephemeral {
            // Somebody may have been attached since.
            let service = known.service.clone();
            let empty = || !self.has_workloads(&service);
            self.tear_down_service_if(&known.service, empty).await?;
        }
        Ok(true)
    }

    /// Attaches again what was attached before this process started, and lets go of what has ended since.
    pub(super) async fn restore_attachment(&self, known: &Attachment) {
        let restored = match self.restore_if_there(known).await {
            Ok(true) => Ok(()),
            // As if its end had been noticed.
            Ok(false) => self.detach_if(&known.handle, |found| Ok(found == known)).await.map(drop),
            Err(error) => Err(error),
        };
        if let Err(error) = restored {
            tracing::error!(%error, attachment = known.handle.key(), "a container that was attached before could not be looked after yet");
            self.mend_later();
        }
    }

    /// The same; returns whether it is still there.
    async fn restore_if_there(&self, known: &Attachment) -> Result<bool, NodeError> {
        let _turn = self.workload_orders.turn(&known.handle.key()).await;
        let _stays = self.orders.share(&known.service).await;
        if self.kit.store.find::<Attachment>(&Attachment::id_of(&known.handle)).as_ref() != Some(known) {
            return Ok(true);
        }
        let failed = |source| NodeError::Container { handle: known.handle.key(), source };
        match Found::again(known) {
            Ok(found) => {
                let wired = self.wire(known, &found).await;
                self.watch_end(known, found.process.as_ref());
                wired.map(|()| true)
            }
            // Found by a descriptor that went with the process before. Its links go with it.
            Err(_) if known.netns_path.is_none() && matches!(known.handle, AttachHandle::LinuxNetns { .. }) => {
                self.kit.host.has_link(&known.links).await.map_err(failed)
            }
            Err(error) if error.is_not_found() => Ok(false),
            Err(source) => Err(failed(source)),
        }
    }

    /// Removes links of ours that nothing is known of.
    pub(super) async fn sweep(&self) {
        let store = &self.kit.store;
        let wanted = |marked: &Marked<'_>| match (marked.is_bridge, marked.owner()) {
            (true, _) => store.find::<Bridge>(marked.name).is_some(),
            (false, Some(owner)) => store.read(|tables| tables.all::<Attachment>().any(|one| one.mark() == owner)),
            // Half made; whoever makes it has its record.
            (false, None) => store
                .read(|tables| tables.all::<Attachment>().any(|one| one.links.iter().any(|link| link == marked.name))),
        };
        match self.kit.host.sweep(wanted).await {
            Ok(removed) => {
                removed.iter().for_each(|link| tracing::warn!(link, "removed a link of ours that nothing is known of"))
            }
            Err(error) => {
                tracing::error!(%error, "it cannot be told whether links were left behind");
                self.sweep_later();
            }
        }
    }

    /// Takes addresses and writes down what is to be.
    async fn record(&self, attach: &AttachContainer, found: &Found) -> Result<Attachment, NodeError> {
        let store = &self.kit.store;
        let service = store.find::<Service>(&attach.service);
        let service =
            service.ok_or_else(|| NodeError::NoServiceBridge { service: attach.service.clone(), shared: false })?;
        let bridge = store.find::<Bridge>(&service.bridge).ok_or_else(|| NodeError::NoServiceBridge {
            service: attach.service.clone(),
            shared: service.mode == OverlayMode::Shared,
        })?;
        if store.read(|tables| tables.count(crate::state::Kind::Attachment)) >= ATTACHMENTS_MAX {
            return Err(NodeError::TooMany { what: "workloads", max: ATTACHMENTS_MAX });
        }
        let joins = attach.join_global && self.overlay.live().is_some();
        let mut links = vec![found.by.service_name()];
        links.extend(joins.then(|| found.by.global_name()));
        let attachment =
            Attachment { started_ticks: found.started_ticks(), netns: found.inode(), links, ..unaddressed(attach) };
        let mut places = vec![Place::Subnet(bridge.subnet)];
        places.extend(joins.then_some(Place::Node));
        self.lease_for(attachment, &places, &attach.addresses).await
    }

    /// Leases an address of each of `places` to `attachment` and writes both down, as one change: of `wanted` where one is
    /// of the place. The first is the one it is told of.
    pub(super) async fn lease_for(
        &self,
        mut attachment: Attachment,
        places: &[Place],
        wanted: &[IpAddr],
    ) -> Result<Attachment, NodeError> {
        let owner = attachment.mark();
        let mut grants = Vec::new();
        let pending = {
            let mut book = self.addresses();
            let mut transaction = Transaction::new();
            let mut outcome = Ok(());
            let now = now_ms();
            let strange = wanted.iter().find(|ip| !places.iter().any(|place| book.is_in(*place, **ip)));
            if let Some(ip) = strange {
                let reason = format!("{ip} is no address of the service or of the node's slice");
                return Err(NodeError::Field { field: "addresses", reason });
            }
            for place in places {
                let grant = match wanted.iter().find(|ip| book.is_in(*place, **ip)) {
                    Some(ip) => book.allocate_at(*place, *ip, owner.clone(), now),
                    None => book.allocate(*place, owner.clone(), now),
                };
                match grant {
                    Ok(grant) => {
                        transaction = transaction.put(Lease {
                            ip: grant.ip,
                            owner: owner.clone(),
                            generation: grant.generation,
                            given_ms: now,
                            released_ms: None,
                        });
                        grants.push(grant);
                    }
                    Err(error) => {
                        outcome = Err(error.into());
                        break;
                    }
                }
            }
            let mut ips = grants.iter().map(|grant| grant.ip);
            attachment.ip = ips.next().unwrap_or(attachment.ip);
            attachment.global_ip = ips.next();
            let pending = outcome
                .and_then(|()| self.kit.store.enqueue(transaction.put(attachment.clone())).map_err(NodeError::from));
            if pending.is_err() {
                grants.iter().for_each(|grant| book.cancel(grant));
            }
            pending?
        };
        if let Err(error) = pending.done().await {
            let mut book = self.addresses();
            grants.iter().for_each(|grant| book.cancel(grant));
            return Err(error.into());
        }
        for grant in &grants {
            self.tell_lease(grant.ip, &owner, LeaseState::Leased);
        }
        for grant in grants.iter().filter(|grant| grant.early) {
            tracing::warn!(ip = %grant.ip, "an address is used again before it has rested: there is no other left");
        }
        Ok(attachment)
    }

    /// Forgets a workload, on disk first, and takes away what was made for it. That something of it stays in the kernel is
    /// no failure: it has our mark, and a sweep finds it.
    pub(super) async fn let_go(&self, known: &Attachment) -> Result<(), NodeError> {
        // The one that noticed the end of this very process is not among them any more.
        if let Some(watch) = self.endings().remove(&known.handle.key()) {
            watch.abort();
        }
        // All that is written down of it goes at once: what else would know that the rest is left over?
        let mut transaction = Transaction::new().delete::<Attachment>(Attachment::id_of(&known.handle));
        for peer in self.peers_of_guest(known) {
            transaction = transaction.delete::<Peer>(peer);
        }
        let names = self.names_order.lock().await;
        let transaction = self.without_name(known, transaction);
        let owner = known.mark();
        let ips = [Some(known.ip), known.global_ip];
        let leaving = self.begin_releases(
            |book| {
                let leases = ips.into_iter().flatten().filter_map(|ip| Some((ip, book.lease(ip)?.clone())));
                leases.filter(|(ip, lease)| lease.owner == owner && !book.is_leaving(*ip)).collect()
            },
            transaction,
        )?;
        let leaving = leaving.stored(self).await?;
        self.tell_without_name(known);
        drop(names);
        if has_links(&known.handle) {
            if let Err(error) = self.kit.host.detach(&owner, &known.links).await {
                tracing::error!(%error, attachment = known.handle.key(), "links of a container could not be removed; a sweep tries again");
                self.sweep_later();
            }
        } else {
            self.part_from(known).await;
        }
        self.unfence(known).await;
        leaving.free(self);
        self.tell_attachment(known, AttachmentState::Detached);
        tracing::info!(attachment = known.handle.key(), service = known.service, ip = %known.ip, "detached");
        Ok(())
    }

    /// Lets go of every workload of a service. To be called by whoever has the turn of the service.
    pub(super) async fn let_go_of_service(&self, service: &str) -> Result<(), NodeError> {
        let all = self.kit.store.all::<Attachment>().into_iter().filter(|one| one.service == service);
        for known in all {
            self.let_go(&known).await?;
        }
        Ok(())
    }

    fn watch_end(&self, attachment: &Attachment, process: Option<&Process>) {
        let key = attachment.handle.key();
        let Some(process) = process else { return };
        let (Some(watcher), node) = (&self.watcher, self.itself.clone()) else { return };
        let mut ending = match watcher.watch(process) {
            Ok(ending) => ending,
            Err(error) => return tracing::warn!(%error, attachment = key, "the end of a container will not be noticed"),
        };
        let known = attachment.clone();
        let task = tokio::spawn(async move {
            if ending.reached().await.is_err() {
                return;
            }
            let Some(node) = node.upgrade() else { return };
            node.endings().remove(&known.handle.key());
            let Ok(_gate) = node.enter().await else { return };
            tracing::info!(attachment = known.handle.key(), "a container has ended");
            let same = |found: &Attachment| Ok(found.started_ticks == known.started_ticks);
            if let Err(error) = node.detach_if(&known.handle, same).await {
                tracing::error!(%error, attachment = known.handle.key(), "a container that ended could not be detached");
            }
        });
        if let Some(earlier) = self.endings().insert(key, task.abort_handle()) {
            earlier.abort();
        }
    }

    fn tell_attachment(&self, attachment: &Attachment, state: AttachmentState) {
        self.kit.events.publish(Event::AttachmentChanged {
            attachment: attachment.handle.key(),
            service: attachment.service.clone(),
            state,
            addresses: std::iter::once(attachment.ip).chain(attachment.global_ip).collect(),
        });
    }

    fn endings(&self) -> std::sync::MutexGuard<'_, std::collections::HashMap<String, tokio::task::AbortHandle>> {
        self.endings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is written down of a workload before it has an address.
pub(super) fn unaddressed(attach: &AttachContainer) -> Attachment {
    Attachment {
        handle: attach.handle.clone(),
        service: attach.service.clone(),
        owner: attach.owner.clone(),
        ip: IpAddr::from([0, 0, 0, 0]),
        global_ip: None,
        started_ticks: None,
        netns: None,
        netns_path: attach.netns.clone(),
        links: Vec::new(),
        ephemeral: attach.ephemeral,
        isolation_network: attach.isolation_network.clone(),
        dns_server: attach.dns_server,
        dns_domain: attach.dns_domain.clone(),
        publish: attach.publish.clone(),
        guest_key: None,
        since_ms: now_ms(),
    }
}

/// Refuses a repeat that asks for something else.
pub(super) fn is_the_same(known: &Attachment, attach: &AttachContainer) -> Result<(), NodeError> {
    let other = |of: String| Err(NodeError::OtherAttachment { handle: known.handle.key(), of });
    if known.owner != attach.owner {
        return other(known.owner.as_ref().map_or("nobody in particular".into(), |owner| format!("owner {owner}")));
    }
    if known.service != attach.service {
        return other(format!("service {}", known.service));
    }
    if known.isolation_network != attach.isolation_network {
        return other("another isolation network".into());
    }
    if known.publish != attach.publish {
        return other("other published ports".into());
    }
    Ok(())
}

pub(super) fn check(attach: &AttachContainer) -> Result<(), NodeError> {
    let bad = |field, reason: &str| Err(NodeError::Field { field, reason: reason.to_owned() });
    if let AttachHandle::GuestManaged { id } | AttachHandle::HostShared { id } | AttachHandle::LinuxNetns { id } =
        &attach.handle
        && (id.is_empty() || id.len() > ID_BYTES_MAX || id.contains(|c: char| c.is_control() || c == '/'))
    {
        return bad("handle", "its id needs 1 to 128 bytes, none of them '/' or invisible");
    }
    if let Some(network) = &attach.isolation_network {
        check_name("isolation_network", network)?;
    }
    if attach.resolv_conf && !matches!(attach.handle, AttachHandle::LinuxPid { .. }) {
        return bad("resolv_conf", "the file is that of a process: attach it by linux_pid");
    }
    if let Some(domain) = attach.dns_domain.as_ref().filter(|_| attach.resolv_conf)
        && domain.contains(|c: char| c.is_whitespace() || c.is_control())
    {
        return bad("dns_domain", "a domain is one word");
    }
    if attach.publish.len() > PUBLISHED_MAX {
        return bad("publish", "256 ports of one workload are the limit");
    }
    if attach.publish.iter().any(|port| port.host_port == 0 || port.container_port == 0) {
        return bad("publish", "port 0 is none");
    }
    Ok(())
}

pub(super) fn answer(attachment: &Attachment) -> Response {
    let all = std::iter::once(attachment.ip).chain(attachment.global_ip);
    let addresses = if attachment.global_ip.is_some() { all.collect() } else { Vec::new() };
    Response::Attached { ip: attachment.ip, namespace_guid: None, addresses }
}
