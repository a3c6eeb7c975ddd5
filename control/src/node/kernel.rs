//! Devices of the kernel: a TUN interface each, with a control socket on which `wg(8)` shows and sets it.
//!
//! The socket is a convenience: where it cannot be made, the overlay goes without and the log says why. What is set
//! through it holds like what came over IPC; see [`super::overlay`].

use super::device::{DeviceMaker, OverlayDevice};
use crate::uapi::{Configurable, UapiServer};
use ginnel_backends::device::{Device, DeviceError, DeviceOptions, DeviceState};
use ginnel_engine::command::DeviceUpdate;
use ginnel_engine::event::Event;
use nix::net::if_::if_nametoindex;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;

/// Makes TUN interfaces of this host.
#[derive(Clone, Debug)]
pub struct KernelDevices {
    uapi_dir: PathBuf,
}

impl KernelDevices {
    /// A maker whose devices have their control sockets in `uapi_dir`, which is made where it is missing.
    pub fn new(uapi_dir: impl Into<PathBuf>) -> Self {
        Self { uapi_dir: uapi_dir.into() }
    }
}

impl DeviceMaker for KernelDevices {
    fn open(&self, options: &DeviceOptions) -> Result<Box<dyn OverlayDevice>, DeviceError> {
        let device = Arc::new(Device::open(options)?);
        let changed = Arc::new(AtomicBool::new(false));
        let shared = Shared { device: device.clone(), changed: changed.clone() };
        let uapi = UapiServer::start_restoring(&self.uapi_dir, device.name(), shared);
        let uapi = uapi
            .inspect_err(|error| {
                tracing::warn!(%error, "wg(8) cannot reach this interface; the overlay works without. After mending that, tear it down and set it up again");
            })
            .ok();
        Ok(Box::new(KernelDevice { _uapi: uapi, device, changed }))
    }
}

/// A device and its control socket, which goes first: nobody changes a device that ends.
struct KernelDevice {
    _uapi: Option<UapiServer>,
    device: Arc<Device>,
    changed: Arc<AtomicBool>,
}

impl OverlayDevice for KernelDevice {
    fn name(&self) -> String {
        self.device.name().to_owned()
    }

    fn apply(&self, update: DeviceUpdate) -> Result<(), DeviceError> {
        self.device.apply(update)
    }

    fn is_running(&self) -> bool {
        if_nametoindex(self.device.name()).is_ok_and(|index| index == self.device.interface_index())
    }

    fn state(&self) -> DeviceState {
        self.device.state()
    }

    fn take_changed(&self) -> bool {
        self.changed.swap(false, Ordering::AcqRel)
    }

    fn take_events(&self) -> Option<Receiver<Event>> {
        self.device.take_events()
    }
}

/// The device as the control socket sees it: whatever comes from there is remembered to have come.
struct Shared {
    device: Arc<Device>,
    changed: Arc<AtomicBool>,
}

impl Configurable for Shared {
    fn apply(&self, update: DeviceUpdate) -> Result<(), DeviceError> {
        self.device.apply(update)?;
        self.changed.store(true, Ordering::Release);
        Ok(())
    }

    fn state(&self) -> DeviceState {
        self.device.state()
    }
}
