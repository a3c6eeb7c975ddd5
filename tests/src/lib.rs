//! What the tests against real kernels share: WireGuard devices of several makes on the nodes of a laboratory, all
//! driven the same way, over their control sockets.
//!
//! ```text
//! ground    a corner of the machine in which a test may do as it likes
//! make      whose WireGuard: ours, or a program that may be installed
//! party     a device of any make at a node
//! control   the client's side of a control socket
//! field     parties on a laboratory, and what else belongs to it
//! datagram  single datagrams, their content and marks
//! flow      traffic that goes on while something is changed
//! relay     a middlebox that forwards datagrams and notes what they look like
//! routing   rules and gateways, which the product has no need of
//! wait      waiting for conditions, never for time
//! ```
//!
//! Addresses are the same everywhere: party number *n* has `192.0.2.n` and `2001:db8::n` outside, `10.77.0.n` and
//! `fd00:4d::n` inside the tunnel.

#![forbid(unsafe_code)]

pub mod control;
pub mod datagram;
pub mod field;
pub mod flow;
pub mod ground;
pub mod make;
pub mod party;
pub mod relay;
pub mod routing;
pub mod wait;
