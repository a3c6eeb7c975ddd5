//! Whole engines in virtual time: the workers of the product with the real handshake and cipher, on virtual wires, under
//! a clock that only the test moves. Minutes of protocol pass in milliseconds, and the same seed gives the same run, to the
//! last key.

#![forbid(unsafe_code)]

use ginnel_backends::mem::Overlay;
use ginnel_engine::noise::{Core, Ring};

/// An overlay in virtual time.
pub type Net = Overlay<Core<Ring>>;

/// `count` nodes that do not know each other.
#[must_use]
pub fn nodes(seed: u64, count: u8) -> Net {
    Net::new(seed, count)
}

/// Two nodes that know each other.
#[must_use]
pub fn pair(seed: u64) -> Net {
    Net::pair(seed)
}
