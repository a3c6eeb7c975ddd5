//! The outside world of the packet engine: kernels, virtual wires, threads and clocks.
//!
//! ```text
//! device       the handle: configuration in, state and events out
//! runtime      a thread per worker: turn, wait, turn
//! cipher       which cipher a device uses, and one for processors with AVX-512
//! backend      what a device gets its ports from
//! linux        TUN and UDP with offloads; `sys` holds all `unsafe`
//! fault        the same, with the errors that kernels give on bad days
//! mem          virtual wires, hosts and time: whole workers in a test without a kernel
//! conformance  what every backend has to show
//! ```

pub mod backend;
pub mod cipher;
pub mod conformance;
pub mod device;
pub mod fault;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod linux;
pub mod mem;
mod runtime;
