//! Bytes on the wire and nothing more: views of WireGuard messages and IP headers, and the Internet checksum.
//! No function here panics on any input.

pub mod checksum;
pub mod ip;
pub mod message;
