//! The answer to `status`: what is noted of the node, joined with what its devices count. Waits for no change in progress.

use super::device::DeviceMaker;
use super::dispatch::Node;
use super::host::Host;
use super::overlay::Overlay;
use super::services::overlay_ip;
use crate::ipc::wire::{DedicatedServiceStatus, OffloadStatus, PeerStatus, StatusSnapshot};
use crate::state::{Identity, Kind};
use ginnel_backends::device::{DeviceState, PeerState};
use ginnel_engine::key::PrivateKey;
use ginnel_engine::port::{OffReason, Offload, OffloadState};
use ipnet::IpNet;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

/// What is up.
pub(super) async fn snapshot<M: DeviceMaker, H: Host>(node: &Node<M, H>) -> StatusSnapshot {
    let (cluster, live) = (node.cluster(), node.overlay.live());
    let device = match &live {
        Some(live) => live.device.state().await,
        None => None,
    };
    let mut status = StatusSnapshot {
        overlay_cidr: Some(cluster.cluster.to_string()),
        slice_cidr: cluster.slice.map(|slice| slice.to_string()),
        peers: peers_of(&node.overlay, device.as_ref()),
        service_count: count(node.kit.store.read(|tables| tables.count(Kind::Service))),
        dedicated_services: dedicated(node).await,
        attachment_count: Some(count(node.kit.store.read(|tables| tables.count(Kind::Attachment))))
            .filter(|count| *count > 0),
        lease_count: Some(count(node.addresses().leases().count())).filter(|count| *count > 0),
        ..StatusSnapshot::default()
    };
    status.peer_count = count(status.peers.len());
    if let Some(live) = live {
        let diverted = live.diverted.load(Ordering::Relaxed);
        status.totals.insert("diverted_datagrams".to_owned(), diverted);
        status.node_ip = Some(live.plan.address.addr());
        // `wg set` may have given the device another.
        let public_key = device.as_ref().map(|device| device.private_key.as_ref().map(PrivateKey::public));
        status.public_key = public_key.unwrap_or(Some(live.public_key)).map(|key| key.to_base64());
        status.interface = Some(live.interface);
    }
    if let Some(device) = device {
        let drops = device.drops.iter().filter(|(_, packets)| *packets > 0);
        status.drops = drops.map(|(reason, packets)| (reason.name().to_owned(), *packets)).collect();
        status.offloads = offloads(&device);
        status.workers = u32::try_from(device.workers).ok();
        status.cipher = Some(device.cipher.to_owned());
        status.totals.extend(device.totals.iter().map(|&(name, count)| (name.to_owned(), count)));
    }
    status
}

/// The peers of an overlay.
pub(super) async fn peers<M: DeviceMaker, H: Host>(overlay: &Overlay<M, H>) -> Vec<PeerStatus> {
    let device = match overlay.live() {
        Some(live) => live.device.state().await,
        None => None,
    };
    peers_of(overlay, device.as_ref())
}

/// A device that is not there or does not answer leaves what it is to have.
fn peers_of<M: DeviceMaker, H: Host>(overlay: &Overlay<M, H>, device: Option<&DeviceState>) -> Vec<PeerStatus> {
    device.map_or_else(|| remembered(overlay), |device| present(overlay, device))
}

/// The dedicated overlays that are up.
async fn dedicated<M: DeviceMaker, H: Host>(node: &Node<M, H>) -> Vec<DedicatedServiceStatus> {
    let mut found = Vec::new();
    for (service, overlay) in node.service_overlays() {
        let (Some(live), Some(identity)) = (overlay.live(), node.kit.store.find::<Identity>(&service)) else {
            continue;
        };
        let Some(address) = overlay_ip(&identity) else { continue };
        let device = live.device.state().await;
        found.push(DedicatedServiceStatus {
            service,
            interface: live.interface,
            public_key: live.public_key.to_base64(),
            listen_port: device.as_ref().map_or(identity.port, |device| device.listen_port),
            overlay_ip: address,
            subnet: identity.subnet.to_string(),
            peer_count: count(device.map_or_else(|| overlay.peers().iter().len(), |device| device.peers.len())),
        });
    }
    found
}

impl<M: DeviceMaker, H: Host> Node<M, H> {
    /// What the devices that are up tell of themselves, with the names of their interfaces.
    pub(super) async fn device_states(&self) -> Vec<(String, DeviceState)> {
        let mut found = Vec::new();
        for live in self.overlays().filter_map(|overlay| overlay.live()) {
            if let Some(state) = live.device.state().await {
                found.push((live.interface, state));
            }
        }
        found
    }
}

pub(super) fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn remembered<M: DeviceMaker, H: Host>(overlay: &Overlay<M, H>) -> Vec<PeerStatus> {
    let book = overlay.peers();
    let peers = book.iter().map(|(key, peer)| PeerStatus {
        public_key: key.to_hex(),
        endpoint: peer.endpoint.map(|endpoint| endpoint.to_string()).unwrap_or_default(),
        allowed_ips: join(&peer.allowed_ips),
        last_handshake_unix_secs: 0,
        rx_bytes: Some(0),
        tx_bytes: Some(0),
        healthy: None,
    });
    peers.collect()
}

fn present<M: DeviceMaker, H: Host>(overlay: &Overlay<M, H>, device: &DeviceState) -> Vec<PeerStatus> {
    let peers = device.peers.iter();
    peers.map(|found| PeerStatus { healthy: overlay.care.is_healthy(&found.public_key), ..peer(found) }).collect()
}

fn peer(peer: &PeerState) -> PeerStatus {
    PeerStatus {
        public_key: peer.public_key.to_hex(),
        endpoint: peer.endpoint.map(|endpoint| endpoint.to_string()).unwrap_or_default(),
        allowed_ips: join(&peer.allowed_ips),
        last_handshake_unix_secs: peer.last_handshake.map_or(0, unix_secs),
        rx_bytes: Some(peer.rx_bytes),
        tx_bytes: Some(peer.tx_bytes),
        healthy: None,
    }
}

fn join(prefixes: &[IpNet]) -> String {
    prefixes.iter().map(IpNet::to_string).collect::<Vec<_>>().join(",")
}

fn unix_secs(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

pub(super) fn offloads(device: &DeviceState) -> Vec<OffloadStatus> {
    device.offloads.iter().map(|&(offload, state, fallbacks)| offload_status(offload, state, fallbacks)).collect()
}

fn offload_status(offload: Offload, state: OffloadState, fallbacks: u64) -> OffloadStatus {
    let errno = |text: &str, errno| if errno == 0 { text.to_owned() } else { format!("{text} (errno {errno})") };
    let (state, reason) = match state {
        OffloadState::Untested => ("untested", None),
        OffloadState::On => ("on", None),
        OffloadState::Off(OffReason::Operator) => ("off", Some("operator".to_owned())),
        OffloadState::Off(OffReason::Unsupported(code)) => ("off", Some(errno("unsupported", code))),
        OffloadState::Off(OffReason::Failed(code)) => ("off", Some(errno("failed", code))),
    };
    OffloadStatus { name: offload.name().to_owned(), state: state.to_owned(), reason, fallbacks }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offload_states_in_words() {
        let words = |state| {
            let status = offload_status(Offload::TunUdp, state, 3);
            assert_eq!((status.name.as_str(), status.fallbacks), ("tun_udp", 3));
            (status.state, status.reason.unwrap_or_default())
        };
        assert_eq!(words(OffloadState::Untested), ("untested".into(), String::new()));
        assert_eq!(words(OffloadState::On), ("on".into(), String::new()));
        assert_eq!(words(OffloadState::Off(OffReason::Operator)), ("off".into(), "operator".into()));
        assert_eq!(words(OffloadState::Off(OffReason::Unsupported(0))), ("off".into(), "unsupported".into()));
        assert_eq!(words(OffloadState::Off(OffReason::Failed(5))), ("off".into(), "failed (errno 5)".into()));
    }
}
