//! The size of packets: one for tunnels, bridges and containers' links, from the paths to the peers.
//!
//! What a path takes, less the headers around a packet, is what the smallest path leaves for all. The outer header is
//! reckoned as IPv6 whatever it is, as wg-quick(8) does: a peer may be reached over either. Before any path is known it is
//! what Ethernet leaves. Paths are looked at when a peer is added or moved by us, and again by and by, since they change.

use super::device::DeviceMaker;
use super::dispatch::Node;
use super::error::NodeError;
use super::host::Host;
use crate::attach::mtu::{DEFAULT, Path, network};
use crate::state::Service;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, PoisonError};

/// Paths looked at. Those of more peers than this are many to the same few routers.
const PATHS_MAX: usize = 4_096;

/// The size in force, and the paths it comes from.
#[derive(Debug)]
pub(super) struct PacketSize {
    bytes: AtomicU16,
    paths: Mutex<HashMap<IpAddr, u32>>,
}

impl Default for PacketSize {
    fn default() -> Self {
        Self { bytes: AtomicU16::new(u16::try_from(DEFAULT).unwrap_or(u16::MAX)), paths: Mutex::default() }
    }
}

impl PacketSize {
    /// MTU of the networks of this node, in bytes.
    pub(super) fn mtu(&self) -> u16 {
        self.bytes.load(Ordering::Acquire)
    }

    /// What the paths leave.
    fn possible(&self, carries_v6: bool) -> u16 {
        let paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        let mtu = network(paths.values().map(|mtu| Path::new(*mtu, true)), carries_v6);
        u16::try_from(mtu).unwrap_or(u16::MAX)
    }
}

impl<M: DeviceMaker, H: Host> Node<M, H> {
    /// Takes the paths to `places` into account.
    pub(super) async fn note_paths(&self, places: impl IntoIterator<Item = IpAddr>) {
        let mut is_news = false;
        for to in places.into_iter().collect::<BTreeSet<_>>() {
            let Some(mtu) = self.kit.host.path_mtu(to).await else { continue };
            let mut paths = self.kit.size.paths.lock().unwrap_or_else(PoisonError::into_inner);
            if paths.get(&to) == Some(&mtu) || (paths.len() >= PATHS_MAX && !paths.contains_key(&to)) {
                continue;
            }
            paths.insert(to, mtu);
            is_news = true;
        }
        if is_news {
            self.follow_size().await;
        }
    }

    /// Looks at the paths to all peers again.
    pub(super) async fn look_at_paths(&self) {
        let mut places: Vec<IpAddr> = Vec::new();
        for overlay in self.overlays() {
            places.extend(overlay.peers().iter().filter_map(|(_, peer)| Some(peer.endpoint?.ip())));
        }
        places.retain(|ip| !ip.is_unspecified());
        places.sort_unstable();
        places.dedup();
        places.truncate(PATHS_MAX);
        let mut found = HashMap::new();
        for ip in places {
            if let Some(mtu) = self.kit.host.path_mtu(ip).await {
                found.insert(ip, mtu);
            }
        }
        *self.kit.size.paths.lock().unwrap_or_else(PoisonError::into_inner) = found;
        self.follow_size().await;
    }

    /// Gives every network the size that the paths leave, if that is another than it has.
    async fn follow_size(&self) {
        let _order = self.size_order.lock().await;
        let mtu = self.kit.size.possible(self.cluster().cluster.addr().is_ipv6());
        let former = self.kit.size.bytes.swap(mtu, Ordering::AcqRel);
        if mtu == former {
            return;
        }
        tracing::info!(mtu, former, "packets have another size from now on: the paths to the peers do");
        if let Err(error) = self.resize(mtu).await {
            tracing::error!(%error, mtu, "not everything has the new size of packets yet; it is tried again");
            self.kit.size.bytes.store(former, Ordering::Release);
        }
    }

    async fn resize(&self, mtu: u16) -> Result<(), NodeError> {
        for overlay in self.overlays() {
            if let Some(live) = overlay.live() {
                let set = self.kit.host.set_mtu(&live.interface, mtu).await;
                set.map_err(|source| NodeError::ConfigureHost { scope: overlay.scope.clone(), source })?;
            }
        }
        for known in self.kit.store.all::<Service>() {
            let _stays = self.orders.share(&known.service).await;
            if self.kit.store.find::<Service>(&known.service).is_some() {
                self.confirm_bridge(&known).await?;
            }
        }
        self.wire_all_again().await;
        Ok(())
    }
}
