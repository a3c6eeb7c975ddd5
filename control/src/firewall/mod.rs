//! The firewall: isolation, forwarding, masquerade and published ports, by nftables over netlink.
//!
//! Owns the rules, conntrack's entries about what is gone, and what other firewalls need to let the overlay pass. Leaves out
//! links, addresses and routes (`host`), and any decision of what should exist: the caller says what is to be.
//!
//! ```text
//! Desired, Change ─► state ─► elements ─► batch ─► nftables        ruleset  what is constant
//!                    checks   of sets       │                      guard    brings back what others take
//!                                           └► conntrack           foreign  openings in the chains of others
//! ```
//!
//! Rules are constant; what varies is elements of sets. An attach sends a handful of elements, beside ten thousand
//! containers as beside none. Everything of ours carries our mark: the tables a comment, a rule among those of others a
//! comment with the name of the instance.
//!
//! Threads: any may call; one of ours watches ([`Firewall`]).

mod conntrack;
mod desired;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod double;
mod elements;
mod error;
mod foreign;
mod guard;
mod handle;
mod health;
mod inner;
mod limits;
mod netfilter;
mod nft;
mod reconcile;
mod ruleset;
mod state;

pub use desired::{Change, Clients, Container, ContainerLink, Desired, Listen, NetworkId, Protocol, Role, Service};
pub use error::FirewallError;
pub use handle::Firewall;
pub use health::{Drops, Finding, Heal, Health};
pub(crate) use nft::{Batch, Family, Nft, is_offered};
pub use nft::{NftError, Refusal};
pub use ruleset::{DropReason, MARK};
