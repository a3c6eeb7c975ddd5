//! Workloads without a link on this host: guests that run a WireGuard of their own, and programs in the host's namespace.
//!
//! ```text
//! guest    a key of its own, a peer of the global overlay or of its dedicated one, an address of the node's slice
//! shared   an address of the slice on the tunnel of the node
//! ```
//!
//! Both have an address of the slice, also where their service has a subnet: that is on a bridge, where nobody would answer
//! for them.

use super::attachments::{answer, check, is_the_same, unaddressed};
use super::device::DeviceMaker;
use super::dispatch::Node;
use super::error::NodeError;
use super::host::Host;
use super::overlay::Overlay;
use crate::ipam::Place;
use crate::ipc::wire::{
    AttachContainer, AttachHandle, AttachmentState, Event, GuestOverlayConfig, OverlayMode, PeerSpec, Response, Secret,
};
use crate::state::{Attachment, Peer, Service};
use ginnel_engine::key::{PrivateKey, PublicKey};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Seconds between keepalives of a guest, which is behind the address translation of its monitor.
const GUEST_KEEPALIVE_SECS: u64 = 25;

impl<M: DeviceMaker, H: Host> Node<M, H> {
    /// Attaches a guest, or tells it again what it was told.
    pub(super) async fn attach_guest(&self, attach: &AttachContainer) -> Result<Response, NodeError> {
        check(attach)?;
        let _turn = self.workload_orders.turn(&attach.handle.key()).await;
        let _stays = self.orders.share(&attach.service).await;
        if let Some(known) = self.kit.store.find::<Attachment>(&Attachment::id_of(&attach.handle)) {
            is_the_same(&known, attach)?;
            return self.admit_guest(&self.overlay_with(&known)?, &known).await;
        }
        let overlay = self.overlay_of_guest(&attach.service)?;
        let key = super::key_store::generate()?;
        let guest_key = Some(Secret::new(key.to_base64()));
        let attachment = Attachment { guest_key, ..unaddressed(attach) };
        let claim = self.claim_published(attach).await?;
        let attachment = self.lease_for(attachment, &[Place::Node], &attach.addresses).await?;
        drop(claim);
        self.or_let_go(&attachment, self.admit_guest(&overlay, &attachment)).await
    }

    /// Attaches a program in the host's namespace, or sees to it that it still is.
    pub(super) async fn attach_host_shared(&self, attach: &AttachContainer) -> Result<Response, NodeError> {
        check(attach)?;
        let _turn = self.workload_orders.turn(&attach.handle.key()).await;
        let _stays = self.orders.share(&attach.service).await;
        if self.overlay.live().is_none() {
            return Err(NodeError::NoGlobalOverlay(
                "host-shared attach requires the global overlay to be set up first (no utun to alias the container /32 on)",
            ));
        }
        if let Some(known) = self.kit.store.find::<Attachment>(&Attachment::id_of(&attach.handle)) {
            is_the_same(&known, attach)?;
            return self.admit_host_shared(&known).await;
        }
        let claim = self.claim_published(attach).await?;
        let attachment = self.lease_for(unaddressed(attach), &[Place::Node], &attach.addresses).await?;
        drop(claim);
        self.or_let_go(&attachment, self.admit_host_shared(&attachment)).await
    }

    /// Brings about again what is written down of such a workload.
    pub(super) async fn restore_linkless(&self, known: &Attachment) {
        let _turn = self.workload_orders.turn(&known.handle.key()).await;
        let _stays = self.orders.share(&known.service).await;
        if self.kit.store.find::<Attachment>(&Attachment::id_of(&known.handle)).as_ref() != Some(known) {
            return;
        }
        let restored = match known.handle {
            AttachHandle::GuestManaged { .. } => match self.overlay_with(known) {
                Ok(overlay) => self.admit_guest(&overlay, known).await,
                Err(error) => Err(error),
            },
            _ => self.admit_host_shared(known).await,
        };
        match restored {
            Ok(_) => {}
            // Its overlay is down. What is made for it comes with that, unless it was not yet a peer.
            Err(NodeError::NoGlobalOverlay(_)) => {
                if guest_key(known).is_some() && self.home_of(known).is_none() {
                    self.mend_later();
                }
            }
            Err(error) => {
                tracing::error!(%error, attachment = known.handle.key(), "a workload that was attached before cannot be yet");
                self.mend_later();
            }
        }
    }

    /// Takes away what was made for such a workload, as far as it is there. What cannot be is tried again.
    pub(super) async fn part_from(&self, known: &Attachment) {
        // Also from an overlay that is down: peers are remembered.
        if let (Some(overlay), Some(key)) = (self.home_of(known), guest_key(known))
            && let Err(error) = overlay.dismiss_peer(key).await
        {
            tracing::error!(%error, attachment = known.handle.key(), "a guest that is gone stays a peer: remove it");
        }
        if matches!(known.handle, AttachHandle::HostShared { .. }) {
            self.overlay.take_address(known.ip).await;
        }
    }

    /// Ids of what is written down of a guest as a peer.
    pub(super) fn peers_of_guest(&self, known: &Attachment) -> Vec<String> {
        let Some(key) = guest_key(known) else { return Vec::new() };
        let peers = self.kit.store.all::<Peer>().into_iter().filter(|peer| peer.public_key == key);
        peers.map(|peer| Peer::id_of(&peer.scope, &key)).collect()
    }

    async fn or_let_go(
        &self,
        attachment: &Attachment,
        admitted: impl Future<Output = Result<Response, NodeError>>,
    ) -> Result<Response, NodeError> {
        match admitted.await {
            Ok(response) => {
                self.kit.events.publish(Event::AttachmentChanged {
                    attachment: attachment.handle.key(),
                    service: attachment.service.clone(),
                    state: AttachmentState::Attached,
                    addresses: vec![attachment.ip],
                });
                Ok(response)
            }
            Err(error) => {
                if let Err(error) = self.let_go(attachment).await {
                    tracing::error!(%error, attachment = attachment.handle.key(), "an attachment that failed could not be taken back");
                }
                Err(error)
            }
        }
    }

    async fn admit_guest(&self, overlay: &Arc<Overlay<M, H>>, attachment: &Attachment) -> Result<Response, NodeError> {
        let none = || {
            NodeError::NoGlobalOverlay(
                "guest-managed attach requires the global overlay to be set up first (no node WireGuard public key)",
            )
        };
        let live = overlay.live().ok_or_else(none)?;
        let node_ip = self.overlay.live().map_or(live.plan.address.addr(), |live| live.plan.address.addr());
        let secret = attachment.guest_key.clone().ok_or_else(none)?;
        let public_key = key(&secret)?.public();
        self.forward().await?;
        self.fence(attachment).await?;
        overlay
            .add_peer(&PeerSpec {
                public_key: public_key.to_base64(),
                // It calls us.
                endpoint: "0.0.0.0:0".into(),
                allowed_ips: single(attachment.ip),
                persistent_keepalive_secs: 0,
                candidates: Vec::new(),
            })
            .await?;
        let port = live.device.state().await.map_or(live.plan.port, |state| state.listen_port);
        let cluster = self.cluster().cluster;
        let node = PeerSpec {
            public_key: live.public_key.to_base64(),
            endpoint: SocketAddr::new(node_ip, port).to_string(),
            allowed_ips: cluster.to_string(),
            persistent_keepalive_secs: GUEST_KEEPALIVE_SECS,
            candidates: Vec::new(),
        };
        Ok(Response::GuestConfig(GuestOverlayConfig {
            overlay_ip: attachment.ip,
            prefix_len: self.cluster().slice.unwrap_or(cluster).prefix_len(),
            private_key: secret,
            public_key: public_key.to_base64(),
            listen_port: port,
            peers: vec![node],
            dns_server: attachment.dns_server,
            dns_domain: attachment.dns_domain.clone(),
        }))
    }

    async fn admit_host_shared(&self, attachment: &Attachment) -> Result<Response, NodeError> {
        // Where there is no tunnel there are no rules; both come with its setup.
        if let Some(live) = self.overlay.live() {
            self.fence(attachment).await?;
            let added = self.kit.host.add_address(&live.interface, attachment.ip.into()).await;
            added.map_err(|source| NodeError::ConfigureHost { scope: self.overlay.scope.clone(), source })?;
        }
        Ok(answer(attachment))
    }

    /// The overlay that a guest which was admitted is a peer in, up or not.
    fn home_of(&self, known: &Attachment) -> Option<Arc<Overlay<M, H>>> {
        let key = guest_key(known)?;
        let overlays = std::iter::once(self.overlay.clone()).chain(self.service_overlay(&known.service).ok());
        overlays.into_iter().find(|overlay| overlay.peers().peer(&key).is_some())
    }

    /// The same, or the one it is to be admitted to.
    fn overlay_with(&self, known: &Attachment) -> Result<Arc<Overlay<M, H>>, NodeError> {
        self.home_of(known).map_or_else(|| self.overlay_of_guest(&known.service), Ok)
    }

    /// The overlay a guest of this service becomes a peer in.
    fn overlay_of_guest(&self, service: &str) -> Result<Arc<Overlay<M, H>>, NodeError> {
        let dedicated =
            self.kit.store.find::<Service>(service).is_some_and(|known| known.mode == OverlayMode::Dedicated);
        if dedicated {
            return self.service_overlay(service);
        }
        match self.overlay.live() {
            Some(_) => Ok(self.overlay.clone()),
            None => Err(NodeError::NoGlobalOverlay(
                "guest-managed attach requires the global overlay to be set up first (no node WireGuard public key)",
            )),
        }
    }
}

/// The prefix of one address.
fn single(ip: IpAddr) -> String {
    format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 })
}

/// The public key of a guest.
pub(super) fn guest_key(known: &Attachment) -> Option<PublicKey> {
    Some(key(known.guest_key.as_ref()?).ok()?.public())
}

fn key(secret: &Secret) -> Result<PrivateKey, NodeError> {
    PrivateKey::from_base64(secret.expose()).map_err(|_| NodeError::Keys(super::key_store::KeyStoreError::Stored))
}
