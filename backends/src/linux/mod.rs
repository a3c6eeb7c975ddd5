//! The Linux backend: a TUN interface with superpackets, a UDP socket with trains, and the thread that waits on both.

pub mod calls;
mod clock;
mod gso_limit;
pub mod local;
pub mod seccomp;
pub mod steer;
mod sys;
pub mod tun;
pub mod udp;
pub mod wait;

pub use clock::Clock;
pub use sys::{
    Capabilities, capabilities, drop_from_bound, give_heap_back, keep_heap_small, open_pidfd, set_capabilities,
};

use crate::backend::{Backend, Interface};
use crate::device::DeviceError;
use ginnel_engine::port::Offloads;
use socket2::Socket;
use std::sync::Arc;
use tun::TunQueue;
use udp::UdpLink;

/// Ports of this kernel.
#[derive(Clone, Copy, Debug, Default)]
pub struct Linux;

impl Backend for Linux {
    type Tun = TunQueue;
    type Link = UdpLink;

    fn queues(
        &self,
        name: &str,
        mtu: u16,
        count: usize,
        offloads: &Arc<Offloads>,
    ) -> Result<Interface<TunQueue>, DeviceError> {
        Ok(TunQueue::create(name, mtu, count, offloads)?.into())
    }

    fn links(
        &self,
        port: u16,
        fwmark: u32,
        count: usize,
        offloads: &Arc<Offloads>,
    ) -> Result<Vec<UdpLink>, DeviceError> {
        UdpLink::bind_group(port, fwmark, count, offloads)
    }

    fn socket(link: &UdpLink) -> Result<Socket, DeviceError> {
        link.handle()
    }
}
