//! What fuzz targets need of the backends and nobody else: the virtio header of the TUN as the kernel writes it, and the plan
//! of device updates without the device. Behind the feature `fuzzing`, which adds this module and changes nothing.

use crate::device::config::Config;
use crate::device::{DeviceError, DeviceState};
use crate::linux::{Clock, tun};
use ginnel_engine::command::{DeviceUpdate, Operation};
use ginnel_engine::port::UnitMeta;

/// Length of `struct virtio_net_hdr`.
pub const VIRTIO_HEADER_BYTES: usize = tun::HEADER_BYTES;

/// What the header before a unit says, as a TUN queue reads it.
#[must_use]
pub fn read_virtio_header(header: &[u8; VIRTIO_HEADER_BYTES]) -> UnitMeta {
    tun::read_header(header)
}

/// The header before `packet`, as a TUN queue writes it.
#[must_use]
pub fn write_virtio_header(meta: &UnitMeta, packet: &[u8]) -> [u8; VIRTIO_HEADER_BYTES] {
    tun::write_header(meta, packet)
}

/// The configuration of a device whose workers are the caller.
#[derive(Debug)]
pub struct DevicePlan {
    config: Config,
    clock: Clock,
}

impl DevicePlan {
    /// A device with nothing set.
    #[must_use]
    pub fn new() -> Self {
        Self { config: Config::default(), clock: Clock::start() }
    }

    /// Plans an update and keeps it. Returns what the workers would be told.
    ///
    /// # Errors
    /// [`DeviceError::TooManyPeers`].
    pub fn apply(&mut self, update: &DeviceUpdate) -> Result<Vec<Operation>, DeviceError> {
        self.config.check(update)?;
        Ok(self.config.plan(update))
    }

    /// What the device would say of itself. Port, MTU and counters are not part of the plan.
    #[must_use]
    pub fn state(&self) -> DeviceState {
        DeviceState {
            name: String::new(),
            mtu: 0,
            private_key: self.config.private_key.clone(),
            listen_port: 0,
            fwmark: self.config.fwmark,
            peers: self.config.peer_states(&self.clock),
            offloads: Vec::new(),
            drops: Vec::new(),
            totals: Vec::new(),
            workers: 1,
        }
    }
}

impl Default for DevicePlan {
    fn default() -> Self {
        Self::new()
    }
}
