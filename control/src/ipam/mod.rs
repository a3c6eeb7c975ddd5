//! Who has which address: pools of them, and the subnets that services get. Data only: no disk, no kernel, no clock.
//!
//! ```text
//! AddressBook ─┬─ SubnetRegistry      (service, node) ─► subnet, by the published hash
//!              ├─ Pool of the node    its slice of the cluster, or the cluster where it has none
//!              └─ Pool per subnet     the addresses behind each bridge
//! ```
//!
//! A lease has an owner and a generation. To release takes both, so that a late release of an earlier owner does not free
//! what a later one holds. A freed address rests before it is used again: caches of neighbours, connections and names
//! outlive it by a while.
//!
//! Cost: allocating and freeing take the same time whatever the pool holds, up to the logarithm of the gaps in it; memory
//! follows the addresses that are used, not the size of the prefix. Both families are the same but for the length of an
//! address.
//!
//! Callers make a change durable before they answer: they allocate here, commit, and cancel where the commit fails.

mod book;
mod hosts;
mod pool;
mod spans;
mod subnets;

#[cfg(test)]
mod pool_tests;
#[cfg(test)]
mod subnet_tests;

pub use book::{AddressBook, Place};
pub(crate) use hosts::first_behind_base;
pub use pool::{Grant, Lease, Pool, PoolError, QUARANTINE_MS, ReleaseError};
pub use subnets::{SubnetError, SubnetKey, SubnetRegistry};
