//! The far ends of many tunnels at once: a thread that plays all peers of a device on one UDP socket. It answers
//! handshakes; of data messages that come it counts the bytes and opens but one now and then, for the timers that answer
//! silence; and where it is asked to, it seals packets from all of them in turn, in trains.
//!
//! ```text
//! peer n   outside 10.99.0.1 + n   inside 10.64.0.1 + n
//! ```
//! The addresses outside differ because those of real peers do: a device must not be able to treat them as one.

use ginnel_backends::cipher::{WithCipher, with_fastest};
use ginnel_backends::linux::Clock;
use ginnel_control::host::{HostError, Netns, RouteInfo};
use ginnel_control::lab::traffic::TrafficError;
use ginnel_control::lab::{Node, UNDERLAY_LINK};
use ginnel_engine::drops::DropReason;
use ginnel_engine::key::{PrivateKey, PublicKey};
use ginnel_engine::noise::random::Seed;
use ginnel_engine::noise::stamp::Stamps;
use ginnel_engine::noise::{Aead, Core, Identity};
use ginnel_engine::offload::Plaintexts;
use ginnel_engine::peer::noise::{Arrival, Departure, Noise, SessionBase};
use ginnel_engine::tick::Tick;
use ginnel_engine::wire::checksum;
use ginnel_engine::wire::message::{DATA_OVERHEAD, Message};
use ipnet::IpNet;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendmsg, setsockopt, sockopt,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// UDP port of all peers.
pub const PORT: u16 = 51_830;

/// Most peers of a crowd: what fits into both prefixes, and into three quarters of another.
pub const PEERS_MAX: u32 = 49_000;

/// Bytes of a receive: a handshake message or the first datagram of a train. Of the rest the length is enough.
const RECEIVE_BYTES: usize = 2_048;

/// What waits in the socket at most; a lost datagram would be held against the device.
const BUFFER_BYTES: usize = 64 << 20;

/// How often the thread looks whether it is to end, and naps where it may send nothing.
const PATIENCE: Duration = Duration::from_millis(20);
const NAP: Duration = Duration::from_micros(20);
/// How often a message of a peer is opened, and its timers are asked: well below the 10 s of the first of them.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Naps without an arrival after which what is under way is lost: some 40 ms.
const NAPS_MAX: u32 = 500;

/// Where all peers are. A loopback link that has this address takes what is for any of the prefix.
#[must_use]
pub fn outsides() -> IpNet {
    IpNet::new_assert(Ipv4Addr::new(10, 99, 0, 1).into(), 16)
}

/// What is behind all peers together.
#[must_use]
pub fn insides() -> IpNet {
    IpNet::new_assert(Ipv4Addr::new(10, 64, 0, 0).into(), 16)
}

/// Where peer `number` is.
#[must_use]
pub fn outside(number: u32) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 99, 0, 1)) + number), PORT)
}

/// The address behind peer `number`.
#[must_use]
pub fn inside(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 64, 0, 1)) + number)
}

/// What is to come from the crowd: UDP datagrams from the addresses of `flows` peers in turn.
#[derive(Clone, Copy, Debug)]
pub struct Sending {
    /// Addresses they come from. Those beyond the peers there are come from the first of these.
    pub flows: u32,
    /// Packets of a flow before the next has its turn.
    pub burst: usize,
    /// Length of a packet.
    pub packet_bytes: usize,
    /// Where they go.
    pub to: SocketAddrV4,
    /// Packets under way at most.
    pub window: u64,
}

/// A crowd at work. Dropping it ends it.
pub struct Crowd {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// Bytes of data messages that came.
    bytes: AtomicU64,
    /// Peers that have had a session.
    met: AtomicU64,
    /// Peers of which a data message came since the last look.
    heard: AtomicU64,
    look_anew: AtomicBool,
    /// Packets that arrived at the other end of the tunnels, as far as the one who counts there has told.
    arrived: AtomicU64,
    orders: std::sync::Mutex<Option<Sending>>,
    sending: AtomicBool,
}

impl Crowd {
    /// Starts the peers with these `keys` of the device `near`, in a namespace that has [`outsides`] for its own.
    ///
    /// # Errors
    /// Where the socket cannot be had.
    pub fn start(netns: &Netns, near: PublicKey, keys: Vec<PrivateKey>) -> Result<Self, TrafficError> {
        let failed = |source| TrafficError::Socket { what: "start a crowd", source };
        let open = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).and_then(prepared);
        let socket = netns.run_in(open)?.map_err(failed)?;
        let shared = Arc::new(Shared::default());
        let play = Play { socket, near, keys, shared: Arc::clone(&shared) };
        let thread = thread::Builder::new().name("crowd".into()).spawn(|| with_fastest(play)).map_err(failed)?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Bytes of data messages that came since the start.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }

    /// Peers that have had a session.
    #[must_use]
    pub fn met(&self) -> u64 {
        self.shared.met.load(Ordering::Relaxed)
    }

    /// Peers of which a data message came since this was last asked.
    #[must_use]
    pub fn heard(&self) -> u64 {
        self.shared.look_anew.store(true, Ordering::Relaxed);
        self.shared.heard.load(Ordering::Relaxed)
    }

    /// Begins to send.
    pub fn send(&self, sending: Sending) {
        *self.orders() = Some(sending);
        self.shared.arrived.store(0, Ordering::Relaxed);
        self.shared.sending.store(true, Ordering::Release);
    }

    /// Tells how many packets have arrived since it began.
    pub fn arrived(&self, packets: u64) {
        self.shared.arrived.store(packets, Ordering::Relaxed);
    }

    /// Ends sending.
    pub fn stop_sending(&self) {
        self.shared.sending.store(false, Ordering::Release);
        *self.orders() = None;
    }

    fn orders(&self) -> std::sync::MutexGuard<'_, Option<Sending>> {
        self.shared.orders.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic over there has been printed.
            let _ = thread.join();
        }
    }
}

/// Gives `node` the outer addresses of all peers, and `near` the way there.
///
/// # Errors
/// [`HostError`].
pub fn settle(node: &Node, near: &Node) -> Result<(), HostError> {
    node.netns.configure(async |netlink| {
        let lo = netlink.link("lo").await?;
        netlink.add_address(lo.index, outsides()).await
    })?;
    near.netns.configure(async |netlink| {
        let under = netlink.link(UNDERLAY_LINK).await?;
        let there = RouteInfo::new(outsides().trunc(), under.index);
        netlink.add_route(&RouteInfo { gateway: Some(node.underlay_v4.into()), ..there }).await
    })
}

fn prepared(socket: UdpSocket) -> io::Result<UdpSocket> {
    socket.set_read_timeout(Some(PATIENCE))?;
    setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
    setsockopt(&socket, sockopt::UdpGroSegment, &true)?;
    large_buffer(&socket);
    Ok(socket)
}

/// Beyond the system's limit where the rights allow it, else up to it.
pub fn large_buffer(socket: &UdpSocket) {
    if setsockopt(socket, sockopt::RcvBufForce, &BUFFER_BYTES).is_err() {
        let _ = setsockopt(socket, sockopt::RcvBuf, &BUFFER_BYTES);
    }
}

/// All that is needed to play, whatever the cipher.
struct Play {
    socket: UdpSocket,
    near: PublicKey,
    keys: Vec<PrivateKey>,
    shared: Arc<Shared>,
}

impl WithCipher for Play {
    type Made = ();

    fn with<A: Aead>(self) {
        let clock = Clock::start();
        let (seed, stamps) = (Seed::new(rand::random()), Arc::new(Stamps::new(clock.origin())));
        let members = (0..).zip(&self.keys).map(|(number, key)| {
            let mut identity: Identity = Core::<A>::identity(key, &seed, seed.random("peer", number), &stamps);
            let core = Core::<A>::new(&mut identity, &self.near, None, SessionBase(number));
            Member { core, confirmed: None, opened: Tick::default(), heard: false, from: None }
        });
        let members = members.collect();
        let (train, looked) = (Train::default(), clock.tick());
        let stage = Stage { members, socket: self.socket, clock, shared: self.shared, heard: 0, train, looked };
        stage.run();
    }
}

/// One peer.
struct Member<A> {
    core: Core<A>,
    /// Our index of the last session that was seen in use.
    confirmed: Option<u32>,
    /// When a message was last opened.
    opened: Tick,
    heard: bool,
    /// Where the device is.
    from: Option<SockaddrIn>,
}

struct Stage<A> {
    members: Vec<Member<A>>,
    socket: UdpSocket,
    clock: Clock,
    shared: Arc<Shared>,
    heard: u64,
    train: Train,
    /// When the timers were last asked.
    looked: Tick,
}

impl<A: Aead> Stage<A> {
    fn run(mut self) {
        let mut buffer = vec![0; RECEIVE_BYTES];
        while !self.shared.stop.load(Ordering::Relaxed) {
            if self.shared.sending.load(Ordering::Acquire) {
                let orders = *self.shared.orders.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if let Some(sending) = orders {
                    self.send_all(&sending, &mut buffer);
                }
            }
            self.receive(&mut buffer, MsgFlags::empty());
        }
    }

    /// Takes one train. False where there was none.
    fn receive(&mut self, buffer: &mut [u8], flags: MsgFlags) -> bool {
        if self.shared.look_anew.swap(false, Ordering::Relaxed) {
            self.members.iter_mut().for_each(|member| member.heard = false);
            self.heard = 0;
        }
        self.run_timers();
        let mut control = nix::cmsg_space!(libc::in_pktinfo, i32);
        let (bytes, from, to, stride) = {
            let mut slices = [IoSliceMut::new(buffer)];
            let flags = flags | MsgFlags::MSG_TRUNC;
            let received = recvmsg::<SockaddrIn>(self.socket.as_raw_fd(), &mut slices, Some(&mut control), flags);
            // Nothing came, or a peer's port is closed: the device is gone.
            let Ok(message) = received else { return false };
            let (mut to, mut stride) = (None, message.bytes);
            for part in message.cmsgs().into_iter().flatten() {
                match part {
                    ControlMessageOwned::Ipv4PacketInfo(info) => to = Some(u32::from_be(info.ipi_addr.s_addr)),
                    ControlMessageOwned::UdpGroSegments(bytes) => stride = usize::try_from(bytes).unwrap_or(stride),
                    _ => {}
                }
            }
            (message.bytes, message.address, to, stride)
        };
        let kept = &buffer[..bytes.min(buffer.len())];
        let number = to.unwrap_or(0).wrapping_sub(u32::from(*outside(0).ip()));
        let (Some(from), Some(first)) = (from, kept.chunks(stride.max(1)).next()) else { return true };
        match Message::classify(first) {
            Message::Data { receiver, .. } => self.count(receiver, from, bytes as u64, first),
            // Messages of one length for one peer: repetitions at most.
            Message::Initiation => self.answer(number as usize, from, first),
            _ => {}
        }
        true
    }

    fn count(&mut self, receiver: u32, from: SockaddrIn, bytes: u64, first: &[u8]) {
        let now = self.clock.tick();
        let Some(member) = self.members.get_mut((receiver >> 8) as usize) else { return };
        self.shared.bytes.fetch_add(bytes, Ordering::Relaxed);
        if !member.heard {
            member.heard = true;
            self.heard += 1;
            self.shared.heard.store(self.heard, Ordering::Relaxed);
        }
        if member.confirmed == Some(receiver) && now.since(member.opened) < LOOK_EVERY {
            return;
        }
        let mut opening = Opening { datagram: Some(first), room: vec![0; RECEIVE_BYTES], opened: false };
        member.core.open(now, receiver, &mut opening);
        if opening.opened {
            self.shared.met.fetch_add(u64::from(member.confirmed.is_none()), Ordering::Relaxed);
            (member.confirmed, member.opened, member.from) = (Some(receiver), now, Some(from));
        }
    }

    /// Does what is due.
    fn run_timers(&mut self) {
        let now = self.clock.tick();
        if now.since(self.looked) < LOOK_EVERY {
            return;
        }
        self.looked = now;
        for number in 0..self.members.len() {
            let member = &mut self.members[number];
            let due = member.core.due().is_some_and(|due| due <= now);
            if let Some(to) = member.from.filter(|_| due) {
                self.train.clear();
                member.core.pulse(now, &mut self.train);
                self.post(number, to);
            }
        }
    }

    fn answer(&mut self, number: usize, from: SockaddrIn, message: &[u8]) {
        let now = self.clock.tick();
        let Some(member) = self.members.get_mut(number) else { return };
        self.train.clear();
        if member.core.handshake(now, message, &mut self.train).is_ok() {
            self.post(number, from);
        }
    }

    /// Sends the train from the address of a peer; what is not of one size, singly.
    fn post(&self, number: usize, to: SockaddrIn) {
        let address = libc::in_addr { s_addr: u32::from(*outside(number as u32).ip()).to_be() };
        let source = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: address, ipi_addr: address };
        let mut start = 0;
        let sizes = self.train.ends.iter().map(|&end| end - std::mem::replace(&mut start, end));
        let sizes: Vec<_> = sizes.collect();
        let Some(&size) = sizes.first() else { return };
        let whole = sizes.iter().all(|&other| other == size);
        let Some(segment) = u16::try_from(size).ok() else { return };
        let all = &self.train.bytes[..self.train.end()];
        let (one, many) = (
            [ControlMessage::Ipv4PacketInfo(&source)],
            [ControlMessage::Ipv4PacketInfo(&source), ControlMessage::UdpGsoSegments(&segment)],
        );
        let send = |bytes: &[u8], control: &[ControlMessage<'_>]| loop {
            let sent = sendmsg(self.socket.as_raw_fd(), &[IoSlice::new(bytes)], control, MsgFlags::empty(), Some(&to));
            // A full queue loses what is sent, as everywhere; an interrupted call has sent nothing.
            if sent != Err(Errno::EINTR) {
                return;
            }
        };
        if whole && sizes.len() > 1 {
            return send(all, &many);
        }
        let mut rest = all;
        for size in sizes {
            let (datagram, behind) = rest.split_at(size);
            send(datagram, &one);
            rest = behind;
        }
    }

    /// Sends until told to stop.
    fn send_all(&mut self, sending: &Sending, buffer: &mut [u8]) {
        let mut packet = template(sending);
        let (mut sent, mut flow) = (0, 0);
        let mut pace = Pace::new(sending.window);
        while self.shared.sending.load(Ordering::Acquire) && !self.shared.stop.load(Ordering::Relaxed) {
            while self.receive(buffer, MsgFlags::MSG_DONTWAIT) {}
            let arrived = self.shared.arrived.load(Ordering::Relaxed);
            if !pace.may_go(sent, arrived) {
                continue;
            }
            let number = if (flow as usize) < self.members.len() { flow as usize } else { 0 };
            let now = self.clock.tick();
            let member = &mut self.members[number];
            if let Some(to) = member.from
                && member.core.ready(now)
            {
                address(&mut packet, inside(flow));
                self.train.clear();
                member.core.seal(now, &mut Same { packet: &packet, left: sending.burst }, &mut self.train);
                self.post(number, to);
                sent += sending.burst as u64;
            }
            flow = (flow + 1) % sending.flows.max(1);
        }
    }
}

/// Keeps what is under way within a window, as the acknowledgements of real flows do.
pub struct Pace {
    window: u64,
    lost: u64,
    arrived: u64,
    naps: u32,
}

impl Pace {
    /// At most `window` under way.
    #[must_use]
    pub fn new(window: u64) -> Self {
        Self { window, lost: 0, arrived: 0, naps: 0 }
    }

    /// Whether more may be sent; if not, that was a nap.
    pub fn may_go(&mut self, sent: u64, arrived: u64) -> bool {
        if sent < arrived + self.lost + self.window {
            return true;
        }
        thread::sleep(NAP);
        self.naps = if arrived == self.arrived { self.naps + 1 } else { 0 };
        self.arrived = arrived;
        // What does not come in all this time does not come at all.
        if self.naps > NAPS_MAX {
            (self.lost, self.naps) = (sent.saturating_sub(arrived), 0);
        }
        false
    }
}

/// A UDP packet to where it is to go, from nowhere yet.
fn template(sending: &Sending) -> Vec<u8> {
    let bytes = sending.packet_bytes.clamp(64, 9_000);
    let mut packet = vec![0x5a; bytes];
    packet[..20].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    packet[2..4].copy_from_slice(&(bytes as u16).to_be_bytes());
    packet[16..20].copy_from_slice(&sending.to.ip().octets());
    packet[20..22].copy_from_slice(&PORT.to_be_bytes());
    packet[22..24].copy_from_slice(&sending.to.port().to_be_bytes());
    packet[24..26].copy_from_slice(&(bytes as u16 - 20).to_be_bytes());
    packet
}

/// Writes the source and what depends on it.
fn address(packet: &mut [u8], from: Ipv4Addr) {
    packet[12..16].copy_from_slice(&from.octets());
    packet[10..12].fill(0);
    let sum = checksum::finish(checksum::sum(&packet[..20]));
    packet[10..12].copy_from_slice(&sum);
    packet[26..28].fill(0);
    let sum = checksum::pseudo(&packet[12..20], 17, packet.len() - 20) + checksum::sum(&packet[20..]);
    packet[26..28].copy_from_slice(&checksum::finish_udp(sum));
}

/// The same packet several times.
struct Same<'a> {
    packet: &'a [u8],
    left: usize,
}

impl Plaintexts for Same<'_> {
    fn next(&mut self) -> Option<&[u8]> {
        self.left = self.left.checked_sub(1)?;
        Some(self.packet)
    }
}

/// Datagrams side by side.
#[derive(Default)]
struct Train {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Train {
    fn clear(&mut self) {
        self.ends.clear();
    }

    fn end(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }
}

impl Departure for Train {
    fn slot(&mut self, bytes: usize) -> &mut [u8] {
        let start = self.end();
        let end = start + bytes.max(RECEIVE_BYTES);
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        &mut self.bytes[start..]
    }

    fn push(&mut self, bytes: usize) {
        self.ends.push(self.end() + bytes);
    }

    fn dropped(&mut self, _: DropReason) {}
}

/// One datagram to be opened.
struct Opening<'a> {
    datagram: Option<&'a [u8]>,
    room: Vec<u8>,
    opened: bool,
}

impl Arrival for Opening<'_> {
    fn next(&mut self) -> Option<(&[u8], &mut [u8])> {
        Some((self.datagram.take()?, &mut self.room))
    }

    fn opened(&mut self, _: usize) {
        self.opened = true;
    }

    fn dropped(&mut self, _: DropReason) {}
}

/// The bytes that `packets` of `packet_bytes` have as datagrams of a tunnel.
#[must_use]
pub fn outer_bytes(packets: u64, packet_bytes: usize) -> u64 {
    packets * (packet_bytes + DATA_OVERHEAD) as u64
}
