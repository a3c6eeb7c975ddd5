//! The outside world of the packet engine: kernels, virtual wires, threads and clocks.
//!
//! ```text
//! device       the handle: configuration in, state and events out
//! runtime      a thread per worker: turn, wait, turn
//! linux        TUN and UDP with offloads; `sys` is the one file with `unsafe`
//! mem          virtual wires, hosts and time: whole workers in a test without a kernel
//! conformance  what every backend has to show
//! ```

pub mod conformance;
pub mod device;
pub mod linux;
pub mod mem;
mod runtime;
