//! Talking to netfilter: the socket, the frames on it, and their attributes. What the messages mean is in `nft` and
//! `conntrack`.
//!
//! The netlink of netfilter is 16 bytes of `nlmsghdr`, 4 of `nfgenmsg`, then attributes (`linux/netlink.h`,
//! `linux/netfilter/nfnetlink.h`). Integers in headers are in host order, those in attributes in network order.

mod attribute;
mod message;
mod socket;

pub use attribute::{Attributes, Writer, be16, be32, be64, text};
pub use message::{
    ACK, CREATE, DUMP, EXCLUSIVE, Frame, Frames, HEADER_LEN, Outcome, REQUEST, SUBSYSTEM_CONNTRACK, SUBSYSTEM_NFTABLES,
    frame,
};
pub use socket::{Group, Socket, SocketError};
