//! The Linux backend on a bad day: real sockets and queues whose calls give, when a test says so, the answers that
//! kernels have been seen to give.
//!
//! ```text
//! UdpLink, TunQueue ──► calls ──► Faults: a rule that matches? ── no ──► kernel
//!                                            └ yes: its answer, as the kernel would give it
//! ```
//! A rule says on which call, for what, with which answer and how often; it counts how often it struck, so that a test can
//! show that what it injected was met. What the ports make of the answers is theirs: nothing here knows a fallback.

mod calls;
mod rules;

pub use rules::{Answer, Call, Faults, Rule, Strikes, Subject};

use crate::backend::{Backend, Interface};
use crate::device::DeviceError;
use crate::linux::tun::TunQueue;
use crate::linux::udp::UdpLink;
use calls::{FaultyQueue, FaultySocket};
use ginnel_engine::port::Offloads;
use socket2::Socket;
use std::sync::Arc;

/// Ports of this kernel, with faults.
#[derive(Clone, Debug)]
pub struct Faulty(pub Arc<Faults>);

impl Backend for Faulty {
    type Tun = TunQueue<FaultyQueue>;
    type Link = UdpLink<FaultySocket>;

    fn queues(
        &self,
        name: &str,
        mtu: u16,
        count: usize,
        offloads: &Arc<Offloads>,
    ) -> Result<Interface<Self::Tun>, DeviceError> {
        let calls = || FaultyQueue::new(Arc::clone(&self.0));
        Ok(TunQueue::create_over(name, mtu, count, offloads, calls)?.into())
    }

    fn links(
        &self,
        port: u16,
        fwmark: u32,
        count: usize,
        offloads: &Arc<Offloads>,
    ) -> Result<Vec<Self::Link>, DeviceError> {
        let over = |messages| FaultySocket::new(Arc::clone(&self.0), messages);
        UdpLink::bind_group_over(port, fwmark, count, offloads, over)
    }

    fn socket(link: &Self::Link) -> Result<Socket, DeviceError> {
        link.handle()
    }
}
