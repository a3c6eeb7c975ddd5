//! The name server over real sockets, on addresses of the loopback.

mod asking;
mod forwarding;
mod serving;
mod upstream;
