//! Peers: who they are, where they are, and their keys in use.

pub mod noise;
mod table;

pub use table::{Peer, PeerRef, PeerTable};
