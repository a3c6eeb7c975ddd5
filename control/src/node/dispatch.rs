//! Which operation goes where: the one place where a request meets what carries it out.
//!
//! Every operation of the contract has an arm here. Those whose object does not exist in this version are refused by name;
//! their fields have been checked by then.

use super::device::DeviceMaker;
use super::error::NodeError;
use super::host::Host;
use super::inventory;
use super::key_store::KeyStore;
use super::overlay::{GlobalOverlay, Tuning};
use super::settings::Settings;
use super::status;
use crate::ipc::server::{Handler, Order};
use crate::ipc::sync::Keep;
use crate::ipc::wire::{
    AttachHandle, Fault, ListPage, ListQuery, NatStatus, ObjectName, PeerScope, Request, Response, SetupGlobalOverlay,
    StatusSnapshot,
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Everything a daemon knows and does, without its process and its socket.
pub struct Node<M, H> {
    overlay: Arc<GlobalOverlay<M, H>>,
    settings: Mutex<Settings>,
    boot_id: String,
}

impl<M: DeviceMaker, H: Host> Node<M, H> {
    /// A node with nothing set up. `keys` holds its identity.
    pub fn new(maker: M, host: H, keys: KeyStore, tuning: Tuning) -> Self {
        Self {
            overlay: Arc::new(GlobalOverlay::new(maker, host, keys, tuning)),
            settings: Mutex::default(),
            boot_id: format!("{:032x}", rand::random::<u128>()),
        }
    }

    /// The global overlay.
    pub fn overlay(&self) -> &GlobalOverlay<M, H> {
        &self.overlay
    }

    async fn carry_out(&self, request: Request) -> Result<Response, NodeError> {
        let not_there = |op, missing| Err(NodeError::NotThere { op, missing });
        let op = request.op();
        match request {
            Request::SetLocalNodeId { node_id } => {
                self.settings().node_id = Some(node_id);
                Ok(Response::Ok)
            }
            Request::SetLocalWgPubkey { pubkey } => {
                let mut settings = self.settings();
                settings.advertised_key = Some(pubkey);
                settings.check_advertised(self.overlay.public_key());
                Ok(Response::Ok)
            }
            Request::SetupGlobalOverlay(setup) => self.set_up(&setup).await,
            Request::TeardownGlobalOverlay => done(self.overlay.tear_down().await),
            Request::AddPeer(add) => match add.scope {
                PeerScope::Global => done(self.overlay.add_peer(&add.peer).await),
                PeerScope::Service { service } => {
                    // The contract looks at the endpoint before the scope.
                    super::endpoint::resolve(&add.peer.endpoint).await?;
                    Err(NodeError::NoServiceOverlay(service))
                }
            },
            Request::RemovePeer { pubkey, scope } => {
                global(scope)?;
                done(self.overlay.remove_peer(&pubkey).await)
            }
            Request::AddAllowedIp { pubkey, cidr, scope } => {
                global(scope)?;
                done(self.overlay.add_allowed_ip(&pubkey, &cidr).await)
            }
            Request::RemoveAllowedIp { pubkey, cidr, scope } => {
                global(scope)?;
                done(self.overlay.remove_allowed_ip(&pubkey, &cidr).await)
            }
            Request::Status => Ok(Response::Status(Box::new(self.status().await))),
            Request::NatStatus => Ok(Response::NatStatus(NatStatus::default())),
            Request::Shutdown => {
                self.overlay.shut_down().await;
                Ok(Response::Ok)
            }
            Request::AttachContainer(attach) => match attach.handle {
                AttachHandle::WindowsContainer { .. } if !cfg!(windows) => {
                    Err(NodeError::OtherSystem("WindowsContainer attach is only supported on Windows"))
                }
                _ => not_there(op, "attachments"),
            },
            Request::DetachContainer { .. } => not_there(op, "attachments"),
            Request::SetupServiceOverlay { .. } | Request::TeardownServiceOverlay { .. } => {
                not_there(op, "service overlays")
            }
            Request::AllocateIp { .. } | Request::ReleaseIp { .. } => not_there(op, "address pools"),
            Request::RegisterDns { .. } | Request::UnregisterDns { .. } => not_there(op, "name service"),
            Request::WriteScopedResolver { .. } | Request::RemoveScopedResolver { .. }
                if !cfg!(target_os = "macos") =>
            {
                Err(NodeError::OtherSystem("overlay engine error: scoped resolver is macOS-only"))
            }
            Request::WriteScopedResolver { .. } | Request::RemoveScopedResolver { .. } => {
                not_there(op, "scoped resolver")
            }
            Request::PruneOrphanBridges { .. } => not_there(op, "bridges"),
            Request::NatTick => not_there(op, "NAT traversal"),
            // The server answers these itself.
            Request::Hello { .. }
            | Request::Subscribe(_)
            | Request::Unsubscribe
            | Request::List(_)
            | Request::BeginSync(_)
            | Request::EndSync { .. }
            | Request::Gc(_)
            | Request::Health => not_there(op, "way to it but the socket"),
        }
    }

    async fn set_up(&self, setup: &SetupGlobalOverlay) -> Result<Response, NodeError> {
        let name = self.overlay.set_up(setup).await?;
        self.settings().check_advertised(self.overlay.public_key());
        if setup.nat.as_ref().is_none_or(|nat| nat.enabled) {
            tracing::info!("this version has no NAT traversal: peers are reached at their endpoints only");
        }
        Ok(Response::BridgeName { name })
    }

    async fn status(&self) -> StatusSnapshot {
        let overlay = status::snapshot(&self.overlay).await;
        StatusSnapshot {
            boot_id: Some(self.boot_id.clone()),
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            node_id: self.settings().node_id,
            ..overlay
        }
    }

    fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M: DeviceMaker, H: Host> Handler for Node<M, H> {
    async fn handle(&self, order: Order) -> Response {
        self.carry_out(order.request).await.unwrap_or_else(Response::from)
    }

    async fn list(&self, query: &ListQuery) -> Result<ListPage, Fault> {
        Ok(inventory::page(&self.status().await, query))
    }

    async fn retain(&self, keep: &Keep) -> Result<Vec<ObjectName>, Fault> {
        inventory::retain(&self.overlay, keep).await.map_err(|error| Fault::new(error.code(), error.to_string()))
    }

    fn boot_id(&self) -> String {
        self.boot_id.clone()
    }
}

fn done(result: Result<(), NodeError>) -> Result<Response, NodeError> {
    result.map(|()| Response::Ok)
}

/// Services have no devices of their own in this version.
fn global(scope: PeerScope) -> Result<(), NodeError> {
    match scope {
        PeerScope::Global => Ok(()),
        PeerScope::Service { service } => Err(NodeError::NoServiceOverlay(service)),
    }
}
