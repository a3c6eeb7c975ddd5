//! What every backend has to show: one suite for [`Link`](ginnel_engine::port::Link), one for
//! [`Tun`](ginnel_engine::port::Tun), passed by the virtual wires and by the kernel alike.
//!
//! A backend brings a laboratory ([`LinkLab`], [`TunLab`]) in which its ports can be made and something is on the other
//! side; the suite does the rest through the ports. Functions panic where a promise is broken, so each is the body of a
//! test. What only one backend has (loss on virtual wires, `errno`s of a kernel) is tested beside that backend.

pub mod link;
pub mod tun;

pub use link::LinkLab;
pub use tun::TunLab;

use ginnel_engine::port::{OffReason, Offload, OffloadState, Offloads};
use std::sync::Arc;

/// The two address families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const BOTH: [Family; 2] = [Family::V4, Family::V6];
}

/// A promise by name, and its test in a laboratory.
pub type Promise<Lab> = (&'static str, fn(&mut Lab));

/// Offloads of which all may be used.
#[must_use]
pub fn offloads_on() -> Arc<Offloads> {
    Arc::new(Offloads::default())
}

/// Offloads of which the operator wants none.
#[must_use]
pub fn offloads_off() -> Arc<Offloads> {
    let offloads = Offloads::default();
    for offload in Offload::ALL {
        offloads.set(offload, OffloadState::Off(OffReason::Operator));
    }
    Arc::new(offloads)
}

/// Looks again and again, letting the laboratory work in between.
const ATTEMPTS: usize = 1_000;
