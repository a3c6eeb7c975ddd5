//! The host's network configuration: links, addresses, routes and network namespaces.
//!
//! Owns every netlink message that control sends and the only namespace switches of the product. Leaves out packets (the
//! backends), firewall rules, and any decision of what should exist: callers decide, this module carries out.
//!
//! ```text
//! Netlink ── one rtnetlink socket, bound for life to the namespace of the thread that opened it
//! Netns   ── a namespace held open by a descriptor; code enters it on threads made for that, never on the caller's
//! ```

mod address;
mod error;
mod link;
mod netlink;
mod netns;
mod route;
pub mod sysctl;

pub use error::HostError;
pub use link::{LinkChange, LinkInfo, LinkKind, OWNED_ALIAS, check_name};
pub use netlink::Netlink;
pub use netns::Netns;
pub use route::{ROUTE_PROTOCOL, RouteInfo};
