//! What every overlay of a node works with.

use super::device::DeviceMaker;
use super::error::NodeError;
use super::host::Host;
use super::mtu::PacketSize;
use crate::ipc::events::EventHub;
use crate::state::{Store, Transaction};
use ginnel_engine::port::Offload;
use std::sync::Arc;
use std::time::Duration;

/// The operator's wishes for overlays.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// Worker threads per device; 0 for one per core.
    pub workers: usize,
    /// Offloads that are not to be used.
    pub offloads_off: Vec<Offload>,
    /// Leave packet workers only the system calls they need.
    pub seccomp: bool,
    /// How often peers are looked at: how soon one that stopped answering is noticed, beyond the 180 s after which it
    /// counts as such.
    pub look_interval: Duration,
    /// How long a freed address rests.
    pub quarantine: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            workers: 0,
            offloads_off: Vec::new(),
            seccomp: false,
            look_interval: Duration::from_secs(5),
            quarantine: Duration::from_millis(crate::ipam::QUARANTINE_MS),
        }
    }
}

/// The ways out: to devices, host, disk and listeners.
pub(super) struct Kit<M, H> {
    pub(super) maker: Arc<M>,
    pub(super) host: H,
    pub(super) store: Store,
    pub(super) events: EventHub,
    pub(super) tuning: Tuning,
    pub(super) size: PacketSize,
}

impl<M: DeviceMaker, H: Host> Kit<M, H> {
    /// Makes a change durable.
    pub(super) async fn commit(&self, transaction: Transaction) -> Result<(), NodeError> {
        Ok(self.store.commit(transaction).await?)
    }

    /// Takes a change back whose application failed. Where that fails too, the next start finds what was refused.
    pub(super) async fn take_back(&self, transaction: Transaction) {
        if let Err(error) = self.store.commit(transaction).await {
            tracing::error!(%error, "a change that failed could not be taken back on disk");
        }
    }
}
