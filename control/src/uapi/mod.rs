//! The WireGuard control socket: the cross-platform userspace interface that `wg(8)`, `wg-quick(8)` and every library
//! for userspace WireGuard speak (<https://www.wireguard.com/xplatform/>).
//!
//! ```text
//! client ── text ──► Lines ──► SetParser ──► one DeviceUpdate ──► Configurable::apply
//!        ◄─ text ── ChunkedText ◄── render ◄── DeviceState ◄────── Configurable::state
//! ```
//!
//! - [`parse`] and [`render`] turn text into types and back. They do no I/O.
//! - [`session`] answers the requests of one connection, whatever the connection is.
//! - [`server`] owns the threads of its clients; [`socket`] says where their socket is and whose.
//!
//! A `set` is a transaction: it is read to its end and checked before anything is applied, and then applied as one
//! [`DeviceUpdate`]. A request that breaks off, or has one bad line, changes nothing. Reading is linear in the length
//! of the request: each byte is searched once, each line parsed once, and no line looks at the peers before it.
//!
//! Left out on purpose: who may connect (the mode of the socket file says that), and everything a device does with an
//! update.

pub mod limits;
pub mod lines;
pub mod parse;
pub mod render;
pub mod server;
pub mod session;
pub mod socket;

#[cfg(test)]
mod interop;
#[cfg(test)]
pub(crate) mod testing;

pub use server::UapiServer;
pub use socket::UapiError;

use ginnel_backends::device::{Device, DeviceError, DeviceState};
use ginnel_engine::command::DeviceUpdate;
use std::sync::Arc;

/// Where `wg(8)` looks for the sockets of userspace devices.
pub const DIRECTORY: &str = "/var/run/wireguard";

/// What the control socket needs of a device.
pub trait Configurable: Send + Sync + 'static {
    /// Applies `update` as a whole, or not at all.
    ///
    /// # Errors
    /// [`DeviceError`]; the device is then as before.
    fn apply(&self, update: DeviceUpdate) -> Result<(), DeviceError>;

    /// A snapshot of configuration and counters.
    fn state(&self) -> DeviceState;
}

impl Configurable for Device {
    fn apply(&self, update: DeviceUpdate) -> Result<(), DeviceError> {
        Device::apply(self, update)
    }

    fn state(&self) -> DeviceState {
        Device::state(self)
    }
}

impl<T: Configurable + ?Sized> Configurable for Arc<T> {
    fn apply(&self, update: DeviceUpdate) -> Result<(), DeviceError> {
        (**self).apply(update)
    }

    fn state(&self) -> DeviceState {
        (**self).state()
    }
}
