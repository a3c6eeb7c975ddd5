//! The fuzz targets as plain functions from bytes to nothing, so that libFuzzer, a test over the corpora and a person with
//! a file can all run them. A function that returns found nothing wrong; whatever is wrong panics.
//!
//! | Target | Bytes of | What has to hold |
//! |---|---|---|
//! | [`strangers`] | whoever reaches the UDP port | nothing but counters changes; packets of a real session arrive once |
//! | [`members`] | a peer, behind a cipher that obeys them | sources are checked, every datagram is accounted for |
//! | [`superpackets`] | the TUN, virtio headers included | what is cut is sealed, what is sealed arrives |
//! | [`merging`] | flows as the kernel has them | cut is what the naive twin says, merging is its inverse |
//! | [`names`] | whoever reaches the name server | an answer has the number of its query, and no more bytes than were asked for |
//! | [`routes`] | who configures peers | the table answers like a list, and is sound |
//! | [`orders`] | a caller on the IPC socket | an answer for each request, in order; the journal stays sound |
//! | [`uapi`] | `wg` | what is printed reads back; what workers are told adds up to the state |
//! | [`journal`] | the disk | whatever is read can be written and read again |
//! | [`config`] | the operator | a mistake has a place in the file |

pub mod config;
mod engine;
mod input;
pub mod journal;
pub mod members;
pub mod merging;
pub mod names;
pub mod orders;
pub mod routes;
pub mod strangers;
pub mod superpackets;
mod toy;
pub mod uapi;

/// A target: bytes in, panic where something is wrong.
pub type Target = fn(&[u8]);

/// Every target by its name, which is that of its program, its corpus and its dictionary.
pub const TARGETS: [(&str, Target); 10] = [
    ("config", config::run),
    ("journal", journal::run),
    ("members", members::run),
    ("merging", merging::run),
    ("names", names::run),
    ("orders", orders::run),
    ("routes", routes::run),
    ("strangers", strangers::run),
    ("superpackets", superpackets::run),
    ("uapi", uapi::run),
];
