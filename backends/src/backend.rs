//! What a device is made of: where its TUN queues and its links come from.

use crate::device::DeviceError;
use crate::linux::steer::Steering;
use ginnel_engine::port::{Link, Offloads, Tun};
use socket2::Socket;
use std::os::fd::AsFd;
use std::sync::Arc;

/// An interface just made.
pub struct Interface<T> {
    /// Its index.
    pub index: u32,
    /// Its queues.
    pub queues: Vec<T>,
    /// What has to know who owns a prefix, for the kernel to choose the right queue.
    pub steering: Option<Steering>,
}

/// Makes the ports of a device.
pub trait Backend: Send + Sync + 'static {
    /// A queue of its interface.
    type Tun: Tun + AsFd + Send + 'static;
    /// A socket of its group.
    type Link: Link + AsFd + Send + 'static;

    /// Creates the interface `name` with `count` queues, one per worker.
    ///
    /// # Errors
    /// [`DeviceError`] saying what is missing; nothing is left behind then.
    fn queues(
        &self,
        name: &str,
        mtu: u16,
        count: usize,
        offloads: &Arc<Offloads>,
    ) -> Result<Interface<Self::Tun>, DeviceError>;

    /// Binds `count` sockets to `port`, one per worker; 0 lets the kernel choose. What they send carries `fwmark`.
    ///
    /// # Errors
    /// [`DeviceError::PortTaken`] or what else the kernel said.
    fn links(
        &self,
        port: u16,
        fwmark: u32,
        count: usize,
        offloads: &Arc<Offloads>,
    ) -> Result<Vec<Self::Link>, DeviceError>;

    /// A second handle of a link's socket, for settings while a worker has the first.
    ///
    /// # Errors
    /// Where no descriptor is left.
    fn socket(link: &Self::Link) -> Result<Socket, DeviceError>;
}
