//! Which operation goes where: the one place where a request meets what carries it out.
//!
//! Every operation of the contract has an arm here. Those whose object does not exist in this version are refused by name;
//! their fields have been checked by then.

use super::device::DeviceMaker;
use super::error::NodeError;
use super::global::Cluster;
use super::host::Host;
use super::key_store::KeyStore;
use super::kit::Kit;
use super::naming::Naming;
use super::networks::Networks;
use super::orders::Orders;
use super::overlay::Overlay;
use super::services::Services;
use super::status;
use crate::host::Endings;
use crate::host::sysctl::Ledger;
use crate::ipam::AddressBook;
use crate::ipc::health::HealthBoard;
use crate::ipc::server::{Handler, Order};
use crate::ipc::sync::Keep;
use crate::ipc::wire::{
    AttachHandle, Fault, ListPage, ListQuery, NatStatus, ObjectName, PeerScope, Request, Response, SetupGlobalOverlay,
    StatusSnapshot,
};
use crate::state::Marker;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, RwLock, Weak};
use tokio::task::AbortHandle;

/// Everything a daemon knows and does, without its process and its socket.
pub struct Node<M, H> {
    pub(super) kit: Arc<Kit<M, H>>,
    pub(super) keys: KeyStore,
    pub(super) overlay: Arc<Overlay<M, H>>,
    pub(super) cluster: RwLock<Cluster>,
    pub(super) services: Services<M, H>,
    pub(super) addresses: Mutex<AddressBook>,
    pub(super) marker: Option<tokio::sync::Mutex<Marker>>,
    /// Changes of a service wait for each other.
    pub(super) orders: Orders,
    /// Those of a workload, too. Whoever has both took this one first.
    pub(super) workload_orders: Orders,
    pub(super) fence_order: tokio::sync::Mutex<()>,
    /// Workloads with published ports are written down one after the other.
    pub(super) ports_order: tokio::sync::Mutex<()>,
    /// Changes of the size of packets.
    pub(super) size_order: tokio::sync::Mutex<()>,
    pub(super) networks: Networks,
    pub(super) sysctls: tokio::sync::Mutex<Ledger>,
    /// The settings were made that forwarding takes.
    pub(super) forwards: AtomicBool,
    /// Notices the ends of containers.
    pub(super) watcher: Option<Endings>,
    pub(super) endings: Mutex<HashMap<String, AbortHandle>>,
    /// Links were left that a sweep should find.
    pub(super) sweep_wanted: AtomicBool,
    /// Something could not be brought up again.
    pub(super) mend_wanted: AtomicBool,
    /// The firewall could not be made what it is to be.
    pub(super) fence_wanted: AtomicBool,
    /// The firewall was given something to do.
    pub(super) fenced: AtomicBool,
    pub(super) board: HealthBoard,
    pub(super) naming: Option<Naming>,
    /// For tasks that outlive a request.
    pub(super) itself: Weak<Node<M, H>>,
    pub(super) settings_order: tokio::sync::Mutex<()>,
    pub(super) names_order: tokio::sync::Mutex<()>,
    pub(super) networks_order: tokio::sync::Mutex<()>,
    /// Every change holds it for reading; whoever ends the node, for writing.
    pub(super) gate: tokio::sync::RwLock<()>,
    pub(super) stopping: AtomicBool,
    pub(super) boot_id: String,
}

impl<M: DeviceMaker, H: Host> Node<M, H> {
    /// The global overlay.
    pub fn overlay(&self) -> &Overlay<M, H> {
        &self.overlay
    }

    async fn carry_out(&self, order: Order) -> Result<Response, NodeError> {
        let Order { request, descriptors, .. } = order;
        let _gate = match &request {
            Request::Status | Request::NatStatus | Request::Shutdown => None,
            _ => Some(self.enter().await?),
        };
        let not_there = |op, missing| Err(NodeError::NotThere { op, missing });
        let op = request.op();
        let moves_names = matches!(
            request,
            Request::SetupGlobalOverlay(_)
                | Request::TeardownGlobalOverlay
                | Request::SetupServiceOverlay { .. }
                | Request::TeardownServiceOverlay { .. }
        );
        let answer = match request {
            Request::SetLocalNodeId { node_id } => {
                done(self.tell_settings(|settings| settings.node_id = Some(node_id)).await)
            }
            Request::SetLocalWgPubkey { pubkey } => {
                done(self.tell_settings(|settings| settings.advertised_key = Some(pubkey)).await)
            }
            Request::SetupGlobalOverlay(setup) => self.set_up(&setup).await,
            Request::TeardownGlobalOverlay => done(self.tear_down_global().await),
            Request::SetupServiceOverlay { service, mode } => {
                Ok(Response::ServiceOverlay(self.set_up_service(&service, mode).await?))
            }
            Request::TeardownServiceOverlay { service } => done(self.tear_down_service(&service).await),
            Request::AllocateIp { service, owner, .. } => {
                Ok(Response::Ip { ip: self.allocate_ip(&service, owner.as_deref()).await? })
            }
            Request::ReleaseIp { ip, owner } => done(self.release_ip(ip, owner.as_deref()).await),
            Request::AddPeer(add) => match self.overlay_in(add.scope) {
                Ok(overlay) => {
                    self.note_paths(overlay.add_peer(&add.peer).await?.map(|at| at.ip())).await;
                    Ok(Response::Ok)
                }
                Err(error) => {
                    // The contract looks at the endpoint before the scope.
                    super::endpoint::resolve(&add.peer.endpoint).await?;
                    Err(error)
                }
            },
            Request::AddPeers(add) => {
                let places = self.overlay_in(add.scope)?.add_peers(&add.peers).await?;
                self.note_paths(places.iter().map(SocketAddr::ip)).await;
                Ok(Response::Ok)
            }
            Request::RemovePeer { pubkey, scope } => done(self.overlay_in(scope)?.remove_peer(&pubkey).await),
            Request::AddAllowedIp { pubkey, cidr, scope } => {
                done(self.overlay_in(scope)?.add_allowed_ip(&pubkey, &cidr).await)
            }
            Request::RemoveAllowedIp { pubkey, cidr, scope } => {
                done(self.overlay_in(scope)?.remove_allowed_ip(&pubkey, &cidr).await)
            }
            Request::RegisterDns { name, ip } => done(self.register_name(&name, ip).await),
            Request::UnregisterDns { name } => done(self.unregister_name(&name).await),
            Request::SetNetworkMembers { network, members } => done(self.set_network_members(&network, members).await),
            Request::AttachContainer(attach) => match attach.handle {
                AttachHandle::LinuxPid { .. } | AttachHandle::LinuxNetns { .. } => {
                    let descriptor = attach.netns_fd.then(|| descriptors.into_iter().next()).flatten();
                    self.attach_container(&attach, descriptor).await
                }
                AttachHandle::GuestManaged { .. } => self.attach_guest(&attach).await,
                AttachHandle::HostShared { .. } => self.attach_host_shared(&attach).await,
                AttachHandle::WindowsContainer { .. } => {
                    Err(NodeError::OtherSystem("WindowsContainer attach is only supported on Windows"))
                }
            },
            Request::DetachContainer { handle, owner } => done(self.detach_container(&handle, owner.as_deref()).await),
            Request::WriteScopedResolver { .. } | Request::RemoveScopedResolver { .. }
                if !cfg!(target_os = "macos") =>
            {
                Err(NodeError::OtherSystem("overlay engine error: scoped resolver is macOS-only"))
            }
            Request::WriteScopedResolver { .. } | Request::RemoveScopedResolver { .. } => {
                not_there(op, "scoped resolver")
            }
            Request::PruneOrphanBridges { live_bridge_names } => {
                Ok(Response::PrunedBridges { reclaimed: self.prune(&live_bridge_names).await? })
            }
            // As where traversal is disabled: peers are reached at their endpoints.
            Request::NatTick => Ok(Response::Ok),
            Request::Status => Ok(Response::Status(Box::new(self.status().await))),
            Request::NatStatus => Ok(Response::NatStatus(NatStatus::default())),
            Request::Shutdown => done(self.shut_down().await),
            // The server answers these itself.
            Request::Hello { .. }
            | Request::Subscribe(_)
            | Request::Unsubscribe
            | Request::List(_)
            | Request::BeginSync(_)
            | Request::EndSync { .. }
            | Request::Gc(_)
            | Request::Health => not_there(op, "way to it but the socket"),
        };
        if moves_names {
            self.serve_names();
        }
        answer
    }

    async fn set_up(&self, setup: &SetupGlobalOverlay) -> Result<Response, NodeError> {
        let name = self.set_up_global(setup).await?;
        self.check_advertised();
        if setup.nat.as_ref().is_none_or(|nat| nat.enabled) {
            tracing::info!("this version has no NAT traversal: peers are reached at their endpoints only");
        }
        Ok(Response::BridgeName { name })
    }

    async fn status(&self) -> StatusSnapshot {
        StatusSnapshot {
            boot_id: Some(self.boot_id.clone()),
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            node_id: self.settings().node_id,
            dns: self.naming_status(),
            ..status::snapshot(self).await
        }
    }

    fn overlay_in(&self, scope: PeerScope) -> Result<Arc<Overlay<M, H>>, NodeError> {
        match scope {
            PeerScope::Global => Ok(self.overlay.clone()),
            PeerScope::Service { service } => self.service_overlay(&service),
        }
    }
}

impl<M: DeviceMaker, H: Host> Handler for Node<M, H> {
    async fn handle(&self, order: Order) -> Response {
        self.carry_out(order).await.unwrap_or_else(Response::from)
    }

    async fn list(&self, query: &ListQuery) -> Result<ListPage, Fault> {
        Ok(self.page(query).await)
    }

    async fn retain(&self, keep: &Keep) -> Result<Vec<ObjectName>, Fault> {
        let gone = self.retain_kept(keep).await;
        self.serve_names();
        gone.map_err(|error| Fault::new(error.code(), error.to_string()))
    }

    fn boot_id(&self) -> String {
        self.boot_id.clone()
    }
}

fn done(result: Result<(), NodeError>) -> Result<Response, NodeError> {
    result.map(|()| Response::Ok)
}
