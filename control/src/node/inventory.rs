//! What there is to list, and its removal by the name of what is to stay.
//!
//! Kinds of which a node can have nothing are listed as empty.

use super::device::DeviceMaker;
use super::error::NodeError;
use super::host::Host;
use super::overlay::GlobalOverlay;
use crate::ipc::sync::Keep;
use crate::ipc::wire::{
    DropItem, ListPage, ListQuery, ObjectKind, ObjectName, Objects, OffloadItem, PeerItem, PeerScope, PeerStatus,
    StatusSnapshot, page as cut,
};
use ginnel_engine::key::PublicKey;

/// The page of `status` that `query` asks for.
pub(super) fn page(status: &StatusSnapshot, query: &ListQuery) -> ListPage {
    let interface = status.interface.clone().unwrap_or_default();
    let (objects, next) = match query.kind {
        ObjectKind::Peers => {
            let mut items: Vec<_> = status.peers.iter().map(peer).collect();
            items.sort_by(|a, b| a.public_key.cmp(&b.public_key));
            let (items, next) = cut(items, query);
            (Objects::Peers(items), next)
        }
        ObjectKind::Drops => {
            let items = status.drops.iter().map(|(reason, packets)| DropItem {
                interface: interface.clone(),
                reason: reason.clone(),
                packets: *packets,
            });
            let (items, next) = cut(items, query);
            (Objects::Drops(items), next)
        }
        ObjectKind::Offloads => {
            let mut offloads = status.offloads.clone();
            offloads.sort_by(|a, b| a.name.cmp(&b.name));
            let items = offloads.into_iter().map(|offload| OffloadItem { interface: interface.clone(), offload });
            let (items, next) = cut(items, query);
            (Objects::Offloads(items), next)
        }
        ObjectKind::Services => (Objects::Services(Vec::new()), None),
        ObjectKind::Attachments => (Objects::Attachments(Vec::new()), None),
        ObjectKind::Leases => (Objects::Leases(Vec::new()), None),
        ObjectKind::Dns => (Objects::Dns(Vec::new()), None),
        ObjectKind::Networks => (Objects::Networks(Vec::new()), None),
        ObjectKind::Events => (Objects::Events(Vec::new()), None),
    };
    ListPage { objects, next }
}

fn peer(peer: &PeerStatus) -> PeerItem {
    PeerItem {
        public_key: PublicKey::from_hex(&peer.public_key)
            .map_or_else(|_| peer.public_key.clone(), |key| key.to_base64()),
        scope: PeerScope::Global,
        endpoint: Some(peer.endpoint.clone()).filter(|endpoint| !endpoint.is_empty()),
        allowed_ips: peer.allowed_ips.split(',').filter(|prefix| !prefix.is_empty()).map(str::to_owned).collect(),
        last_handshake_unix_secs: u64::try_from(peer.last_handshake_unix_secs).ok().filter(|secs| *secs > 0),
        rx_bytes: peer.rx_bytes.unwrap_or(0),
        tx_bytes: peer.tx_bytes.unwrap_or(0),
        healthy: None,
    }
}

/// Removes what `keep` covers and does not keep.
pub(super) async fn retain<M: DeviceMaker, H: Host>(
    overlay: &GlobalOverlay<M, H>,
    keep: &Keep,
) -> Result<Vec<ObjectName>, NodeError> {
    if !keep.covers(ObjectKind::Peers) {
        return Ok(Vec::new());
    }
    let name = |key: &PublicKey| ObjectName { kind: ObjectKind::Peers, key: key.to_base64() };
    let removed = overlay.retain_peers(|key| keep.keeps(&name(key))).await?;
    Ok(removed.iter().map(name).collect())
}
