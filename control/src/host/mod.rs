//! The host's network configuration: links, addresses, routes, rules, neighbours and network namespaces.
//!
//! Owns every rtnetlink message that control sends and the only namespace switches of the product. Leaves out packets (the
//! backends), firewall rules, and any decision of what should exist: callers decide, this module carries out.
//!
//! ```text
//! Netlink  ── rtnetlink in one namespace: helper threads, each with a socket made there
//! Netns    ── a namespace held open by a descriptor; code enters it on threads made for that, never on the caller's
//! Process  ── a process held by a pidfd: its number is not mistaken for another's; Endings notices its end
//! Watch    ── what happens to our links, as it happens
//! resolv_conf ── the one file we write in a container, on request
//! Mark     ── what tells ours from others'
//! ```

pub(crate) mod address;
mod endings;
mod error;
pub(crate) mod ipv6;
pub(crate) mod link;
mod listener;
mod mark;
pub(crate) mod neighbour;
mod netlink;
mod netns;
pub(crate) mod ports;
mod process;
pub(crate) mod removals;
pub(crate) mod request;
pub(crate) mod resolv_conf;
pub(crate) mod route;
pub(crate) mod rule;
pub(crate) mod socket;
pub mod sysctl;
mod watch;

pub use endings::{Ending, Endings};
pub use error::HostError;
pub use link::{BridgeInfo, LinkChange, LinkInfo, LinkKind, Mac, PortFlags, check_name};
pub use mark::{Mark, Ownership, PROTOCOL};
pub use neighbour::NeighbourInfo;
pub(crate) use netlink::Helper;
pub use netlink::Netlink;
pub use netns::{Netns, NetnsId};
pub use process::{Process, ProcessId};
pub use resolv_conf::ResolvConfError;
pub use route::{PathInfo, RouteInfo, TABLE_MAIN};
pub use rule::RuleInfo;
pub use watch::{Change, Event, Watch};
