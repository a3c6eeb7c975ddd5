//! The outside world of the packet engine: kernels, virtual wires, threads and clocks.

pub mod device;
