//! nftables as the kernel sees it: tables, chains, rules, sets and their elements, written to and read from netlink.
//!
//! Owns the encoding (`linux/netfilter/nf_tables.h`), atomic batches, and lists. Leaves out what the objects are for.
//! Only expressions that this project writes are understood; any other is kept as [`Expression::Other`], which equals
//! nothing of ours. No program is run: `nft` appears in tests only, as a second opinion.
//!
//! ```text
//! Batch ─► begin(generation) object… end ─► kernel: all of it or nothing
//!                                            ├─ ERESTART: the ruleset is of another generation by now ─► Superseded
//!                                            └─ any other errno, with the number of the object refused ─► Refused
//! ```

mod batch;
mod expression;
mod expression_codec;
mod object;
mod object_codec;
mod query;
#[cfg(test)]
mod tests;

pub use batch::{Batch, Refusal};
pub use expression::{ConntrackKey, Expression, FibResult, Header, MetaKey, Register, Verdict, equal_but_for_counts};
pub use object::{Base, Chain, Element, Family, Hook, Kind, Rule, Set, Table, range};
pub use object_codec::{Event, EventObject};
pub(crate) use query::is_offered;
pub use query::{Nft, NftError};
