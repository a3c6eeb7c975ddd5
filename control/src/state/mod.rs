//! State that survives: every object the node is to have, on disk before it is applied.
//!
//! ```text
//! node ──commit(Transaction)──► queue ──► writer thread: append the lines of all that wait, fdatasync once, apply, answer
//!      ◄──────── Ok: durable ───────────────┘                          │ file has grown: write it anew, rename
//! start ──► Store::open: read, check every line, cut a torn tail, set a damaged file aside ──► tables
//! ```
//!
//! **Why a journal of our own.** The data is a few megabytes of small objects, changed a few hundred times a second at most,
//! read as a whole at start and never searched on disk. An embedded database (redb was looked at) brings pages, a cache
//! and a format nobody can read with `less`; and where its file is damaged it gives all or nothing. A journal of text
//! lines, each with a checksum and a number, says exactly which transactions are lost and keeps the rest, is read by
//! people, and is small enough to be proven here line by line.
//!
//! **The file** (`journal`, mode 0600, in a directory of mode 0700) is a header and one line per transaction:
//!
//! ```text
//! checksum {"format":"ginnel-state","version":1,"id":"…","snapshot":2}
//! checksum {"n":1,"after":0,"put":[{"peer":{…}}]}                         ┐ the snapshot: what was there when the file
//! checksum {"n":2,"after":0,"put":[{"lease":{…}}]}                        ┘ was last written anew
//! checksum {"n":3,"after":2,"put":[{"lease":{…}}],"del":[{"kind":"peer","id":"…"}]}
//! ```
//!
//! Objects are written whole, so a line means the same whatever lines before it are missing. `after` is the number of the
//! last transaction that was on disk when this one was written. It tells a torn tail from damage: a line that is missing
//! or broken and not covered by a later `after` was never confirmed to anybody.
//!
//! Threads: one writer, which alone touches the file; any number of committers and readers. A reader sees a transaction as
//! a whole, once it is durable. Order is the order of the queue.
//!
//! Left out: what the objects mean (node), the identity of the node, which is a file of its own (`node::KeyStore`), and
//! the lock against a second daemon (`daemon`).

mod file;
pub(crate) mod journal;
mod marker;
mod record;
mod records;
mod report;
mod store;
mod tables;
mod writer;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod double;

pub use journal::{Reading, VERSION, Verdict, read_journal};
pub use marker::{Marker, MarkerError, MarkerText};
pub use record::{Key, Kind, Object, Record, Transaction};
pub use records::{
    Attachment, Bridge, GlobalOverlay, Identity, Lease, Name, Network, Peer, Scope, Seal, Service, Settings, Sysctls,
};
pub use report::{Outcome, Report, Span};
pub use store::{Health, Pending, Store, StoreError};
pub use tables::Tables;
