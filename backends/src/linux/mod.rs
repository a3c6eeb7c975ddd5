//! The Linux backend: a TUN interface with superpackets, a UDP socket with trains, and the thread that waits on both.

mod clock;
mod gso_limit;
pub mod local;
mod sys;
pub mod tun;
pub mod udp;
pub mod wait;

pub use clock::Clock;
