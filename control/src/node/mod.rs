//! The node as state: what was asked for, what is up, and the way from one to the other.
//!
//! ```text
//! ipc ──► Node ─┬─ global, services ──► Overlay ──► OverlayDevice   a WireGuard device, real or fake
//!               │                          ├──────► Host            addresses, routes, bridges
//!               │                          └─ PeerBook, Care        who is in it, and how they are
//!               ├─ addresses ─────────────► AddressBook (ipam)
//!               ├─ names ─────────────────► DnsServer (dns)
//!               └─ everything ────────────► Store (state)           on disk before it is anywhere else
//! ```
//!
//! Concurrency: there is no lock over the node. Each object has its own order: an overlay, a service, the names. Changes of
//! one wait for each other in the order they came, those of different ones do not; readers never wait for a change. A
//! request that has to wait for the network (a host name) does so before it takes its place. Only the end of the node waits
//! for everything that is in progress.
//!
//! What is asked for is stored before it is applied; where it cannot be applied it is taken back. So whatever happens in
//! between, the next start finds either the state before or the one after, and brings the kernel to it.
//!
//! A device has two more ways to us: what `wg` sets in it is noted before the next change, and its events end when somebody
//! takes it away, upon which it is made again. What others do to links, addresses and routes is noticed and put right
//! (`drift`).
//!
//! Left out: the wire (ipc), the process (daemon), packets (engine).

mod address;
mod addresses;
mod attachments;
mod care;
mod device;
mod dispatch;
mod drift;
mod endpoint;
mod error;
mod events;
mod fence;
mod forwarding;
mod global;
mod guests;
mod host;
mod inventory;
mod kernel;
mod kernel_host;
mod key_store;
mod kit;
mod life;
mod marker;
mod members;
mod mend;
mod mtu;
mod name;
mod names;
mod naming;
mod networks;
mod orders;
mod overlay;
mod peers;
mod ports;
mod recovery;
mod routes;
mod services;
mod settings;
mod status;
mod wiring;

#[cfg(any(test, feature = "fuzzing"))]
#[cfg_attr(not(test), expect(dead_code, reason = "fuzz targets turn few of the knobs that tests do"))]
pub(crate) mod fake;
#[cfg(any(test, feature = "fuzzing"))]
mod fake_host;
#[cfg(test)]
mod tests;

pub use address::{DEFAULT_CLUSTER, Plan};
pub use device::{DeviceMaker, OverlayDevice};
pub use dispatch::Node;
pub use error::NodeError;
pub use fence::DNS_PORT;
pub use host::Host;
pub use kernel::KernelDevices;
pub use kernel_host::KernelHost;
pub(crate) use kernel_host::instance_of;
pub use key_store::{KeyStore, KeyStoreError};
pub use kit::Tuning;
pub use life::NodeOptions;
pub use name::interface_name;
pub use naming::Naming;
pub use overlay::Overlay;
