//! The overlay of this node as state: what was asked for, what is up, and the way from one to the other.
//!
//! ```text
//! ipc ──► Node (dispatch, settings) ──► GlobalOverlay ──► OverlayDevice   a WireGuard device, real or fake
//!                                            │       └──► Host            addresses, routes, links
//!                                            └──► PeerBook, KeyStore      what survives the device, and the process
//! ```
//!
//! Concurrency: there is no lock over the node. Each object has its own: changes of the global overlay wait for each other
//! in the order they came ([`GlobalOverlay`]), readers never wait for a change. A request that has to wait for the
//! network (a host name) does so before it takes its place.
//!
//! A device has two more ways to us: what `wg` sets in it is noted before the next change, and its events end when somebody
//! takes it away, upon which it is made again.
//!
//! Left out: the wire (ipc), the process (daemon), packets (engine).

mod address;
mod device;
mod dispatch;
mod endpoint;
mod error;
mod events;
mod host;
mod inventory;
mod kernel;
mod key_store;
mod members;
mod name;
mod overlay;
mod peers;
mod recovery;
mod settings;
mod status;

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;

pub use address::{DEFAULT_CLUSTER, Plan};
pub use device::{DeviceMaker, OverlayDevice};
pub use dispatch::Node;
pub use error::NodeError;
pub use host::Host;
pub use kernel::KernelDevices;
pub(crate) use key_store::make_private_dir;
pub use key_store::{KeyStore, KeyStoreError};
pub use name::interface_name;
pub use overlay::{GlobalOverlay, Tuning};
