//! What there is to list, and the removal of what nobody named.

use super::addresses::Holder;
use super::device::DeviceMaker;
use super::dispatch::Node;
use super::error::NodeError;
use super::guests::guest_key;
use super::host::Host;
use super::status;
use crate::ipam::Lease as IpamLease;
use crate::ipc::sync::Keep;
use crate::ipc::wire::{
    AttachmentItem, AttachmentState, DnsItem, DropItem, LeaseItem, LeaseState, ListPage, ListQuery, ObjectKind,
    ObjectName, Objects, OffloadItem, PeerItem, PeerScope, ServiceItem, page as cut,
};
use crate::state::{Attachment, Bridge, Lease, Name, Service, Transaction};
use ginnel_engine::key::PublicKey;
use std::collections::HashSet;
use std::net::IpAddr;

impl<M: DeviceMaker, H: Host> Node<M, H> {
    /// The page that `query` asks for. Waits for no change in progress.
    pub(super) async fn page(&self, query: &ListQuery) -> ListPage {
        let (objects, next) = match query.kind {
            ObjectKind::Peers => {
                let (items, next) = cut(self.peer_items().await, query);
                (Objects::Peers(items), next)
            }
            ObjectKind::Services => {
                let (items, next) = cut(self.service_items(), query);
                (Objects::Services(items), next)
            }
            ObjectKind::Leases => {
                let (items, next) = cut(self.lease_items(), query);
                (Objects::Leases(items), next)
            }
            ObjectKind::Dns => {
                let (items, next) = cut(self.dns_items(), query);
                (Objects::Dns(items), next)
            }
            ObjectKind::Drops => {
                let (items, next) = cut(self.drop_items().await, query);
                (Objects::Drops(items), next)
            }
            ObjectKind::Offloads => {
                let (items, next) = cut(self.offload_items().await, query);
                (Objects::Offloads(items), next)
            }
            ObjectKind::Attachments => {
                let (items, next) = cut(self.attachment_items(), query);
                (Objects::Attachments(items), next)
            }
            ObjectKind::Networks => {
                let (items, next) = cut(self.network_items(), query);
                (Objects::Networks(items), next)
            }
            // The server has them.
            ObjectKind::Events => (Objects::Events(Vec::new()), None),
        };
        ListPage { objects, next }
    }

    /// Removes what `keep` covers and does not keep.
    pub(super) async fn retain_kept(&self, keep: &Keep) -> Result<Vec<ObjectName>, NodeError> {
        let _gate = self.enter().await?;
        let mut removed = Vec::new();
        if keep.covers(ObjectKind::Attachments) {
            for known in self.kit.store.all::<Attachment>() {
                let name = ObjectName { kind: ObjectKind::Attachments, key: known.handle.key() };
                if self.detach_if(&known.handle, |_| Ok(!keep.keeps(&name))).await? {
                    removed.push(name);
                }
            }
        }
        if keep.covers(ObjectKind::Services) {
            for known in self.kit.store.all::<Service>() {
                let name = ObjectName { kind: ObjectKind::Services, key: known.service };
                if self.tear_down_service_if(&name.key, || !keep.keeps(&name)).await? {
                    removed.push(name);
                }
            }
        }
        if keep.covers(ObjectKind::Leases) {
            removed.extend(self.retain_leases(keep).await?);
        }
        if keep.covers(ObjectKind::Dns) {
            let name = |key: &str| ObjectName { kind: ObjectKind::Dns, key: key.to_owned() };
            let gone = self.retain_names(|key| keep.keeps(&name(key))).await?;
            removed.extend(gone.iter().map(|key| name(key)));
        }
        if keep.covers(ObjectKind::Networks) {
            let name = |key: &str| ObjectName { kind: ObjectKind::Networks, key: key.to_owned() };
            let gone = self.retain_networks(|key| keep.keeps(&name(key))).await?;
            removed.extend(gone.iter().map(|key| name(key)));
        }
        if keep.covers(ObjectKind::Peers) {
            // Guests go with their attachments: whoever tells the peers does not know their keys.
            let guests: HashSet<_> = self.kit.store.all::<Attachment>().iter().filter_map(guest_key).collect();
            let services = self.service_overlays();
            let mut overlays = vec![(PeerScope::Global, self.overlay.clone())];
            overlays.extend(services.into_iter().map(|(service, overlay)| (PeerScope::Service { service }, overlay)));
            for (scope, overlay) in overlays {
                let name =
                    |key: &PublicKey| ObjectName { kind: ObjectKind::Peers, key: scope.peer_key(&key.to_base64()) };
                let gone = overlay.retain_peers(|key| guests.contains(key) || keep.keeps(&name(key))).await?;
                removed.extend(gone.iter().map(name));
            }
        }
        Ok(removed)
    }

    /// Of leases, those given on request: the others go with what they belong to.
    async fn retain_leases(&self, keep: &Keep) -> Result<Vec<ObjectName>, NodeError> {
        let name = |ip: IpAddr| ObjectName { kind: ObjectKind::Leases, key: ip.to_string() };
        let mut gone = Vec::new();
        let leaving = self.begin_releases(
            |book| {
                let leases = book.leases().filter(|(ip, lease)| {
                    Holder::read(&lease.owner).is_some() && !book.is_leaving(*ip) && !keep.keeps(&name(*ip))
                });
                let leases: Vec<(IpAddr, IpamLease)> = leases.map(|(ip, lease)| (ip, lease.clone())).collect();
                gone.extend(leases.iter().map(|(ip, _)| name(*ip)));
                leases
            },
            Transaction::new(),
        )?;
        leaving.finish(self).await?;
        Ok(gone)
    }

    async fn peer_items(&self) -> Vec<PeerItem> {
        let mut items: Vec<_> =
            status::peers(&self.overlay).await.iter().map(|found| PeerItem::new(found, PeerScope::Global)).collect();
        for (service, overlay) in self.service_overlays() {
            let scope = PeerScope::Service { service };
            items.extend(status::peers(&overlay).await.iter().map(|found| PeerItem::new(found, scope.clone())));
        }
        items.sort_by_cached_key(|item| item.scope.peer_key(&item.public_key));
        items
    }

    fn service_items(&self) -> Vec<ServiceItem> {
        let mut items: Vec<_> = self.kit.store.read(|tables| {
            let items = tables.all::<Service>().map(|known| {
                let bridge = tables.find::<Bridge>(&known.bridge);
                ServiceItem {
                    service: known.service.clone(),
                    mode: known.mode,
                    interface: Some(known.bridge.clone()),
                    subnets: bridge.iter().map(|bridge| bridge.subnet.to_string()).collect(),
                    gateways: bridge.iter().map(|bridge| bridge.gateway).collect(),
                    attachments: status::count(
                        tables.all::<Attachment>().filter(|one| one.service == known.service).count(),
                    ),
                }
            });
            items.collect()
        });
        items.sort_by(|a, b| a.service.cmp(&b.service));
        items
    }

    fn attachment_items(&self) -> Vec<AttachmentItem> {
        let item = |known: Attachment| AttachmentItem {
            attachment: known.handle.key(),
            service: known.service,
            state: AttachmentState::Attached,
            addresses: std::iter::once(known.ip).chain(known.global_ip).collect(),
            owner: known.owner,
            isolation_network: known.isolation_network,
            since_unix_secs: known.since_ms / 1_000,
        };
        let mut items: Vec<_> = self.kit.store.all::<Attachment>().into_iter().map(item).collect();
        items.sort_by(|a, b| a.attachment.cmp(&b.attachment));
        items
    }

    fn lease_items(&self) -> Vec<LeaseItem> {
        let mut items: Vec<_> = self.kit.store.read(|tables| {
            let items = tables.all::<Lease>().map(|lease| {
                let holder = Holder::read(&lease.owner);
                LeaseItem {
                    ip: lease.ip,
                    state: if lease.released_ms.is_some() { LeaseState::Quarantined } else { LeaseState::Leased },
                    service: holder.map(|holder| holder.service.to_owned()),
                    owner: holder.map_or(Some(&*lease.owner), |holder| holder.owner).map(str::to_owned),
                    generation: lease.generation,
                    since_unix_secs: lease.released_ms.unwrap_or(lease.given_ms) / 1_000,
                }
            });
            items.collect()
        });
        items.sort_by_key(|item| item.ip);
        items
    }

    fn dns_items(&self) -> Vec<DnsItem> {
        let mut items: Vec<_> = self.kit.store.read(|tables| {
            let items = tables.all::<Name>().map(|known| DnsItem {
                name: known.name.clone(),
                addresses: known.addresses.clone(),
                ttl_secs: self.names_ttl_secs(),
            });
            items.collect()
        });
        items.sort_by(|a, b| a.name.cmp(&b.name));
        items
    }

    async fn drop_items(&self) -> Vec<DropItem> {
        let mut items = Vec::new();
        for (interface, device) in self.device_states().await {
            let drops = device.drops.iter().filter(|(_, packets)| *packets > 0);
            items.extend(drops.map(|(reason, packets)| DropItem {
                interface: interface.clone(),
                reason: reason.name().to_owned(),
                packets: *packets,
            }));
        }
        items.sort_by_cached_key(|item| format!("{}/{}", item.interface, item.reason));
        items
    }

    async fn offload_items(&self) -> Vec<OffloadItem> {
        let mut items = Vec::new();
        for (interface, device) in self.device_states().await {
            let offloads = status::offloads(&device).into_iter();
            items.extend(offloads.map(|offload| OffloadItem { interface: interface.clone(), offload }));
        }
        items.sort_by_cached_key(|item| format!("{}/{}", item.interface, item.offload.name));
        items
    }
}
