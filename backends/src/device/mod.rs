//! A running WireGuard device: the handle through which control, the UAPI and embedders drive a packet engine.
//!
//! The handle keeps the configuration; the workers keep the sessions. Every method may be called from any thread.
//! None waits for traffic.

pub(crate) mod config;

use crate::backend::{Backend, Interface};
use crate::cipher::{self, WithCipher};
use crate::linux::seccomp::Filter;
use crate::linux::steer::Steering;
use crate::linux::tun::mtu;
use crate::linux::udp::set_fwmark;
use crate::linux::wait::Waker;
use crate::linux::{Clock, Linux};
use crate::runtime::{self, Bounds, Crew, Workers};
use config::Config;
use ginnel_engine::command::{Command, DeviceUpdate, Operation};
use ginnel_engine::drops::DropReason;
use ginnel_engine::event::Event;
use ginnel_engine::key::{PresharedKey, PrivateKey, PublicKey};
use ginnel_engine::limits::{EVENTS_QUEUED_MAX, WORKERS_MAX};
use ginnel_engine::noise::random::Seed;
use ginnel_engine::noise::stamp::Stamps;
use ginnel_engine::noise::{Aead, Core};
use ginnel_engine::peer::noise::Noise;
use ginnel_engine::port::{OffReason, Offload, OffloadState, Offloads};
use ginnel_engine::stats::WorkerStats;
use ginnel_engine::worker::Wiring;
use ginnel_engine::worker::handoff::Mail;
use ipnet::IpNet;
use socket2::Socket;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// How to make a device.
#[derive(Clone, Debug)]
pub struct DeviceOptions {
    /// Name of the TUN interface to create, 1 to 15 bytes.
    pub name: String,
    /// Its MTU at start. The device follows later changes by itself.
    pub mtu: u16,
    /// UDP port at start, 0 for one the kernel chooses. Where it is known it belongs here: a port chosen meanwhile may be
    /// one that another device is about to ask for.
    pub listen_port: u16,
    /// Worker threads; 0 for one per core.
    pub workers: usize,
    /// Pin each worker to a core.
    pub pinned: bool,
    /// Offloads that are not to be used.
    pub offloads_off: Vec<Offload>,
    /// Leave each worker only the system calls it needs; see [`crate::linux::seccomp`].
    pub seccomp: bool,
}

impl DeviceOptions {
    /// An interface for paths of 1500 bytes, with a worker for each core and every offload the kernel has.
    ///
    /// ```no_run
    /// # use ginnel_backends::device::{Device, DeviceError, DeviceOptions};
    /// let device = Device::open(&DeviceOptions { workers: 1, ..DeviceOptions::new("wg0") })?;
    /// # Ok::<(), DeviceError>(())
    /// ```
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            mtu: 1420,
            listen_port: 0,
            workers: 0,
            pinned: false,
            offloads_off: Vec::new(),
            seccomp: false,
        }
    }
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
    /// Units, packets, trains and datagrams moved, by the names of [`WorkerStats::counters`].
    pub totals: Vec<(&'static str, u64)>,
    /// Worker threads.
    pub workers: usize,
    /// The implementation of the cipher in use.
    pub cipher: &'static str,
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
pub struct Device {
    name: String,
    index: u32,
    clock: Clock,
    offloads: Arc<Offloads>,
    steering: Option<Steering>,
    stats: Vec<Arc<WorkerStats>>,
    cipher: &'static str,
    crew: Box<dyn Crew>,
    events: Mutex<Option<Receiver<Event>>>,
    inner: Mutex<Inner>,
}

/// What an update changes. Held over a whole update, so updates come one after the other.
struct Inner {
    config: Config,
    sockets: Sockets,
}

/// Second handles of the sockets in use.
struct Sockets {
    handles: Vec<Socket>,
    port: u16,
}

impl Sockets {
    fn of(handles: Vec<Socket>) -> Self {
        let address = handles.first().and_then(|socket| socket.local_addr().ok()?.as_socket());
        Self { port: address.map_or(0, |address| address.port()), handles }
    }

    fn set_fwmark(&self, mark: u32) -> Result<(), DeviceError> {
        self.handles.iter().try_for_each(|socket| set_fwmark(socket.as_fd(), mark))
    }
}

impl Device {
    /// Creates the interface and starts the workers. The UDP socket is bound to a port of the kernel's choice until an
    /// update names one. The interface is neither up nor addressed: that is the caller's.
    ///
    /// # Errors
    /// [`DeviceError`] saying what is missing; nothing is left behind then.
    pub fn open(options: &DeviceOptions) -> Result<Self, DeviceError> {
        struct Open<'a>(&'a DeviceOptions);
        impl WithCipher for Open<'_> {
            type Made = Result<Device, DeviceError>;

            fn with<A: Aead>(self) -> Self::Made {
                Device::open_on::<Core<A>, _>(Linux, self.0)
            }
        }
        cipher::with_fastest(Open(options))
    }

    /// As [`Self::open`], with another handshake and cipher, or on another backend.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_on<N: Noise + Send + 'static, B: Backend>(
        backend: B,
        options: &DeviceOptions,
    ) -> Result<Self, DeviceError>
    where
        N::Identity: Send,
    {
        check_name(&options.name)?;
        let offloads = Arc::new(Offloads::default());
        for &offload in &options.offloads_off {
            offloads.set(offload, OffloadState::Off(OffReason::Operator));
        }
        let filter = options.seccomp.then(Filter::new).transpose();
        let filter = filter.map_err(|source| DeviceError::System { action: "making the seccomp filter", source })?;
        let cores = runtime::cores();
        let count = if options.workers == 0 { cores.len() } else { options.workers }.min(WORKERS_MAX);
        let workers = u32::try_from(count).unwrap_or(1);
        let Interface { index, queues, steering } = backend.queues(&options.name, options.mtu, count, &offloads)?;
        let links = backend.links(options.listen_port, 0, count, &offloads)?;
        let sockets = Sockets::of(links.iter().map(B::socket).collect::<Result<_, _>>()?);
        let clock = Clock::start();
        let seed = draw_seed()?;
        let stamps = Arc::new(Stamps::new(clock.origin()));
        let mail = Mail::new(workers);
        let (events, events_rx) = sync_channel(EVENTS_QUEUED_MAX);
        let wakers = (0..count)
            .map(|_| Waker::new().map_err(|source| DeviceError::System { action: "making an event", source }))
            .collect::<Result<Vec<_>, _>>()?;
        let stats: Vec<Arc<WorkerStats>> = (0..count).map(|_| Arc::default()).collect();
        let mut crew = Workers::new(backend, Arc::clone(&offloads), clock, wakers);
        for ((worker, ports), stats) in (0..).zip(queues.into_iter().zip(links)).zip(&stats) {
            let wire = |commands| Wiring {
                worker,
                workers,
                seed: seed.clone(),
                stamps: Arc::clone(&stamps),
                commands,
                events: events.clone(),
                mail: mail.clone(),
                stats: Arc::clone(stats),
            };
            let core = options.pinned.then(|| cores[worker as usize % cores.len()]);
            crew.start::<N>(ports, Bounds { core, filter: filter.clone() }, wire)?;
        }
        Ok(Self {
            name: options.name.clone(),
            index,
            clock,
            offloads,
            steering,
            stats,
            cipher: N::CIPHER,
            crew: Box::new(crew),
            events: Mutex::new(Some(events_rx)),
            inner: Mutex::new(Inner { config: Config::default(), sockets }),
        })
    }

    /// The interface name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The interface index.
    #[must_use]
    pub fn interface_index(&self) -> u32 {
        self.index
    }

    /// Applies `update` as a whole, or not at all. Returns when every worker uses it. Blocks for the time of a few
    /// batches.
    ///
    /// # Errors
    /// [`DeviceError`]; the device is then as before.
    pub fn apply(&self, update: DeviceUpdate) -> Result<(), DeviceError> {
        let mut inner = lock(&self.inner);
        // What can fail comes first: too many peers, a port that is taken, a mark that is not allowed.
        inner.config.check(&update)?;
        let mark = update.fwmark.unwrap_or(inner.config.fwmark);
        match update.listen_port.filter(|&port| port != inner.sockets.port) {
            Some(port) => {
                inner.sockets = Sockets::of(self.crew.rebind(port, mark)?);
            }
            None if mark != inner.config.fwmark => inner.sockets.set_fwmark(mark)?,
            None => {}
        }
        let operations = inner.config.plan(&update);
        if operations.is_empty() {
            return Ok(());
        }
        self.steer(&operations);
        self.tell_workers(operations.into())
    }

    /// Tells the kernel whose prefixes are whose. Where it fails, workers hand packets to each other.
    fn steer(&self, operations: &[Operation]) {
        let Some(steering) = &self.steering else { return };
        let workers = u32::try_from(self.stats.len()).unwrap_or(1);
        let changes = operations.iter().filter_map(|operation| match operation {
            Operation::Route(prefix, peer) => Some((*prefix, Some(peer.owner(workers)))),
            Operation::Unroute(prefix) => Some((*prefix, None)),
            _ => None,
        });
        if steering.update(changes).is_err() {
            self.offloads.count_fallback(Offload::TunSteering);
        }
    }

    fn tell_workers(&self, operations: Arc<[Operation]>) -> Result<(), DeviceError> {
        let (done, applied) = sync_channel(self.stats.len());
        for worker in 0..self.stats.len() {
            self.crew.command(worker, Command::Apply { operations: Arc::clone(&operations), done: done.clone() })?;
        }
        drop(done);
        self.stats.iter().try_for_each(|_| applied.recv().map_err(|_| DeviceError::Stopped))
    }

    /// A snapshot of configuration and counters. Does not involve the workers.
    #[must_use]
    pub fn state(&self) -> DeviceState {
        let inner = lock(&self.inner);
        let drops = |reason| self.stats.iter().map(|stats| stats.drops.packets(reason)).sum();
        DeviceState {
            name: self.name.clone(),
            mtu: inner.sockets.handles.first().map_or(0, |socket| mtu(&self.name, socket.as_fd())),
            private_key: inner.config.private_key.clone(),
            listen_port: inner.sockets.port,
            fwmark: inner.config.fwmark,
            peers: inner.config.peer_states(&self.clock),
            offloads: Offload::ALL
                .map(|offload| (offload, self.offloads.state(offload), self.offloads.fallbacks(offload)))
                .to_vec(),
            drops: DropReason::ALL.iter().map(|&reason| (reason, drops(reason))).collect(),
            totals: self.totals(),
            workers: self.stats.len(),
            cipher: self.cipher,
        }
    }

    fn totals(&self) -> Vec<(&'static str, u64)> {
        let mut totals = WorkerStats::default().counters().to_vec();
        for stats in &self.stats {
            for (total, (_, count)) in totals.iter_mut().zip(stats.counters()) {
                total.1 += count;
            }
        }
        totals
    }

    /// The events of the device; the first caller gets them.
    pub fn take_events(&self) -> Option<Receiver<Event>> {
        lock(&self.events).take()
    }

    /// Sends a datagram that is not WireGuard from the WireGuard socket, so that a NAT sees one port.
    ///
    /// # Errors
    /// [`DeviceError::Stopped`].
    pub fn send_datagram(&self, to: SocketAddr, datagram: Vec<u8>) -> Result<(), DeviceError> {
        self.crew.command(0, Command::SendDatagram { to, datagram })
    }
}

/// Random numbers of the system, from which all others of the device follow.
fn draw_seed() -> Result<Seed, DeviceError> {
    let mut bytes = [0; 32];
    let error = |error: getrandom::Error| DeviceError::System {
        action: "asking for random numbers",
        source: error
            .raw_os_error()
            .map_or_else(|| std::io::ErrorKind::Other.into(), std::io::Error::from_raw_os_error),
    };
    getrandom::fill(&mut bytes).map_err(error)?;
    Ok(Seed::new(bytes))
}

/// What the kernel takes for a name (`dev_valid_name`).
fn check_name(name: &str) -> Result<(), DeviceError> {
    let bad = |byte: u8| byte == b'/' || byte == b':' || byte == 0 || byte == b'%' || byte.is_ascii_whitespace();
    let good = (1..=15).contains(&name.len()) && name != "." && name != ".." && !name.bytes().any(bad);
    if good { Ok(()) } else { Err(DeviceError::Name(name.to_owned())) }
}

/// A panic while the lock was held cannot leave the guarded data half changed: it is replaced as a whole.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
