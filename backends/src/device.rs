//! A running WireGuard device: the handle through which control, the UAPI and embedders drive a packet engine.
//!
//! The handle keeps the configuration; the workers keep the sessions. Every method may be called from any thread.
//! None waits for traffic.

use ginnel_engine::command::DeviceUpdate;
use ginnel_engine::drops::DropReason;
use ginnel_engine::event::Event;
use ginnel_engine::key::{PresharedKey, PrivateKey, PublicKey};
use ginnel_engine::port::{Offload, OffloadState};
use ipnet::IpNet;
use std::net::SocketAddr;
use std::sync::mpsc::Receiver;
use std::time::SystemTime;

/// How to make a device.
#[derive(Clone, Debug)]
pub struct DeviceOptions {
    /// Name of the TUN interface to create, 1 to 15 bytes.
    pub name: String,
    /// Its MTU at start. The device follows later changes by itself.
    pub mtu: u16,
    /// Worker threads; 0 for one per core.
    pub workers: usize,
    /// Pin each worker to a core.
    pub pinned: bool,
    /// Offloads that are not to be used.
    pub offloads_off: Vec<Offload>,
}

/// Why a device could not be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The interface name is not usable.
    #[error("{0:?} is no interface name: it needs 1 to 15 bytes without '/', ':' or white space")]
    Name(String),
    /// `/dev/net/tun` cannot be opened.
    #[error("/dev/net/tun cannot be opened ({0}): load the tun module, or give the container the device")]
    NoTun(std::io::Error),
    /// The interface exists and belongs to somebody else.
    #[error("the interface {0} exists already: choose another name or remove it")]
    Exists(String),
    /// A right is missing.
    #[error("{action} needs CAP_NET_ADMIN: run as root or in a user namespace of your own")]
    Denied {
        /// What was tried.
        action: &'static str,
    },
    /// The UDP port is taken.
    #[error("UDP port {port} is in use: choose another listen port or stop the program that has it")]
    PortTaken {
        /// The port.
        port: u16,
    },
    /// Another failure of the system.
    #[error("{action}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// More peers than a device holds.
    #[error("a device holds at most {0} peers")]
    TooManyPeers(usize),
    /// The device has stopped.
    #[error("the device has stopped: its interface was removed")]
    Stopped,
}

/// Everything a device knows of itself.
#[derive(Clone, Debug)]
pub struct DeviceState {
    /// Interface name.
    pub name: String,
    /// Current MTU.
    pub mtu: u16,
    /// Identity, if one was set.
    pub private_key: Option<PrivateKey>,
    /// UDP port.
    pub listen_port: u16,
    /// Mark of outgoing datagrams, 0 for none.
    pub fwmark: u32,
    /// Peers, oldest first.
    pub peers: Vec<PeerState>,
    /// Each offload, its state, and the batches that went the slow way because of it.
    pub offloads: Vec<(Offload, OffloadState, u64)>,
    /// Packets dropped, by reason; all reasons are listed.
    pub drops: Vec<(DropReason, u64)>,
    /// Worker threads.
    pub workers: usize,
}

/// One peer of a [`DeviceState`].
#[derive(Clone, Debug)]
pub struct PeerState {
    /// Its identity.
    pub public_key: PublicKey,
    /// Its preshared key, if one was set.
    pub preshared_key: Option<PresharedKey>,
    /// Where its datagrams go now.
    pub endpoint: Option<SocketAddr>,
    /// Seconds between persistent keepalives, 0 for none.
    pub persistent_keepalive_secs: u16,
    /// Prefixes routed to it, in the order they were given.
    pub allowed_ips: Vec<IpNet>,
    /// When the last handshake completed.
    pub last_handshake: Option<SystemTime>,
    /// Bytes of datagrams received.
    pub rx_bytes: u64,
    /// Bytes of datagrams sent.
    pub tx_bytes: u64,
    /// Inner packets received.
    pub rx_packets: u64,
    /// Inner packets sent.
    pub tx_packets: u64,
}

/// A running device. Dropping it stops the workers and removes the interface.
pub struct Device(());

impl Device {
    /// Creates the interface and starts the workers. The UDP socket is bound to a port of the kernel's choice until an
    /// update names one. The interface is neither up nor addressed: that is the caller's.
    ///
    /// # Errors
    /// [`DeviceError`] saying what is missing; nothing is left behind then.
    pub fn open(_options: &DeviceOptions) -> Result<Self, DeviceError> {
        Err(DeviceError::Stopped)
    }

    /// The interface name.
    #[must_use]
    pub fn name(&self) -> &str {
        ""
    }

    /// The interface index.
    #[must_use]
    pub fn interface_index(&self) -> u32 {
        0
    }

    /// Applies `update` as a whole, or not at all. Returns when every worker uses it. Blocks for the time of one batch.
    ///
    /// # Errors
    /// [`DeviceError`]; the device is then as before.
    pub fn apply(&self, _update: DeviceUpdate) -> Result<(), DeviceError> {
        Err(DeviceError::Stopped)
    }

    /// A snapshot of configuration and counters. Does not involve the workers.
    #[must_use]
    pub fn state(&self) -> DeviceState {
        unimplemented!()
    }

    /// The events of the device; the first caller gets them.
    pub fn take_events(&self) -> Option<Receiver<Event>> {
        None
    }

    /// Sends a datagram that is not WireGuard from the WireGuard socket, so that a NAT sees one port.
    ///
    /// # Errors
    /// [`DeviceError`] where the device stopped or its queue is full.
    pub fn send_datagram(&self, _to: SocketAddr, _datagram: Vec<u8>) -> Result<(), DeviceError> {
        Err(DeviceError::Stopped)
    }
}
