//! The conformance suite against the Linux backend, in network namespaces of its own.
//!
//! ```text
//! links        socket a ── lo (127.0.0.1, 127.0.0.2, ::1, fd00:55::2) ── socket b
//! interfaces   host's sockets ── stack ── TUN ── the suite's mirror
//! ```
//! Each promise has a thread that leaves the machine's namespace before it does anything else; the namespace goes with
//! the thread. Without the right to make one, the tests say so and end.

#![cfg(target_os = "linux")]

use ginnel_backends::conformance::tun::{SINK, far, near};
use ginnel_backends::conformance::{Family, LinkLab, TunLab, link, tun};
use ginnel_backends::linux::tun::TunQueue;
use ginnel_backends::linux::udp::UdpLink;
use ginnel_engine::port::Offloads;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{setsockopt, sockopt};
use rtnetlink::LinkUnspec;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

#[test]
fn links_conform() {
    for (name, promise) in link::promises() {
        eprintln!("link: {name}");
        in_namespace(move || promise(&mut Loopback::new()));
    }
}

#[test]
fn interfaces_conform() {
    if let Err(error) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        return println!("skipped: /dev/net/tun cannot be opened: {error}");
    }
    for (name, promise) in tun::promises() {
        eprintln!("tun: {name}");
        in_namespace(move || promise(&mut Stack::new()));
    }
}

/// Runs `work` on a thread with a network namespace of its own.
fn in_namespace(work: impl FnOnce() + Send + 'static) {
    let thread = thread::spawn(move || match unshare(CloneFlags::CLONE_NEWNET) {
        Ok(()) => work(),
        Err(errno) => println!("skipped: no right to make a network namespace: {errno}"),
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Changes links and addresses of the namespace of the thread that made it.
struct Netlink {
    runtime: tokio::runtime::Runtime,
    handle: rtnetlink::Handle,
}

impl Netlink {
    fn open() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let guard = runtime.enter();
        let (connection, handle, _) = rtnetlink::new_connection().unwrap();
        runtime.spawn(connection);
        drop(guard);
        Self { runtime, handle }
    }

    fn set_up(&self, index: u32, up: bool) {
        let link = LinkUnspec::new_with_index(index);
        let link = if up { link.up() } else { link.down() };
        self.runtime.block_on(self.handle.link().change(link.build()).execute()).unwrap();
    }

    fn set_mtu(&self, index: u32, mtu: u16) {
        let link = LinkUnspec::new_with_index(index).mtu(mtu.into()).build();
        self.runtime.block_on(self.handle.link().change(link).execute()).unwrap();
    }

    fn add_address(&self, index: u32, address: IpAddr, bits: u8) {
        self.runtime.block_on(self.handle.address().add(index, address, bits).execute()).unwrap();
    }

    fn remove(&self, index: u32) {
        self.runtime.block_on(self.handle.link().del(index).execute()).unwrap();
    }
}

/// Index of the loopback link in every namespace.
const LO: u32 = 1;

/// Sockets that talk over the loopback link.
struct Loopback(Netlink);

impl Loopback {
    fn new() -> Self {
        let netlink = Netlink::open();
        netlink.set_up(LO, true);
        netlink.add_address(LO, "fd00:55::2".parse().unwrap(), 128);
        Self(netlink)
    }
}

impl LinkLab for Loopback {
    type Link = UdpLink;

    fn bind(&mut self, offloads: Arc<Offloads>) -> UdpLink {
        UdpLink::bind_group(0, 0, 1, &offloads).unwrap().remove(0)
    }

    fn address(&self, link: &UdpLink, family: Family, which: usize) -> SocketAddr {
        let addresses = match family {
            Family::V4 => ["127.0.0.1", "127.0.0.2"],
            Family::V6 => ["::1", "fd00:55::2"],
        };
        SocketAddr::new(addresses[which].parse().unwrap(), link.port())
    }

    fn nowhere(&mut self, family: Family) -> SocketAddr {
        match family {
            Family::V4 => "203.0.113.1:9".parse().unwrap(),
            Family::V6 => "[2001:db8::1]:9".parse().unwrap(),
        }
    }

    fn limit(&mut self, mtu: u16, _: &mut [&mut UdpLink]) {
        self.0.set_mtu(LO, mtu);
    }

    fn carry(&mut self, _: &mut [&mut UdpLink]) {
        // The loopback link delivers within the sending call, but for what the kernel puts off under load.
        thread::sleep(Duration::from_millis(1));
    }
}

/// A host whose interface is a real one.
struct Stack {
    netlink: Netlink,
    made: u32,
    /// Where datagrams from the mirror arrive.
    sinks: Vec<UdpSocket>,
    stream: Arc<Mutex<Vec<u8>>>,
}

impl Stack {
    fn new() -> Self {
        Self { netlink: Netlink::open(), made: 0, sinks: Vec::new(), stream: Arc::default() }
    }
}

impl TunLab for Stack {
    type Tun = TunQueue;

    fn create(&mut self, mtu: u16, offloads: Arc<Offloads>) -> TunQueue {
        self.made += 1;
        self.sinks.clear();
        self.stream = Arc::default();
        let tun = TunQueue::create(&format!("conform{}", self.made), mtu, 1, &offloads).unwrap().remove(0);
        self.netlink.set_up(tun.index(), true);
        self.netlink.add_address(tun.index(), near(Family::V4), 24);
        self.netlink.add_address(tun.index(), near(Family::V6), 64);
        for family in Family::BOTH {
            let sink = bind_when_ready(SocketAddr::new(near(family), SINK));
            sink.set_nonblocking(true).unwrap();
            self.sinks.push(sink);
        }
        tun
    }

    fn set_mtu(&mut self, tun: &mut TunQueue, mtu: u16) {
        self.netlink.set_mtu(tun.index(), mtu);
    }

    fn set_up(&mut self, tun: &mut TunQueue, up: bool) {
        self.netlink.set_up(tun.index(), up);
    }

    fn remove(&mut self, tun: &mut TunQueue) {
        self.netlink.remove(tun.index());
    }

    fn send_udp(&mut self, _: &mut TunQueue, family: Family, payload: &[u8], bytes: u16) {
        let socket = UdpSocket::bind((near(family), 0)).unwrap();
        socket.connect((far(family), SINK)).unwrap();
        if payload.len() > usize::from(bytes) && setsockopt(&socket, sockopt::UdpGsoSegment, &i32::from(bytes)).is_ok()
        {
            socket.send(payload).unwrap();
            return;
        }
        for datagram in payload.chunks(usize::from(bytes)) {
            socket.send(datagram).unwrap();
        }
    }

    fn received_udp(&mut self, _: &mut TunQueue, family: Family) -> Vec<Vec<u8>> {
        let sink = &self.sinks[family as usize];
        let mut buffer = [0; 65_536];
        let mut datagrams = Vec::new();
        while let Ok(bytes) = sink.recv(&mut buffer) {
            datagrams.push(buffer[..bytes].to_vec());
        }
        datagrams
    }

    fn send_tcp(&mut self, _: &mut TunQueue, family: Family, stream: &[u8]) {
        let listener = TcpListener::bind((near(family), SINK)).unwrap();
        let (arrived, len) = (Arc::clone(&self.stream), stream.len());
        // Threads are born in the namespace of the thread that makes them.
        thread::spawn(move || {
            let (mut connection, _) = listener.accept().unwrap();
            let mut buffer = [0; 65_536];
            while arrived.lock().unwrap().len() < len {
                let bytes = connection.read(&mut buffer).unwrap();
                assert!(bytes > 0, "the connection ended early");
                arrived.lock().unwrap().extend(&buffer[..bytes]);
            }
        });
        let stream = stream.to_vec();
        thread::spawn(move || TcpStream::connect((far(family), SINK)).unwrap().write_all(&stream).unwrap());
    }

    fn received_tcp(&mut self, _: &mut TunQueue) -> Vec<u8> {
        self.stream.lock().unwrap().clone()
    }
}

/// An IPv6 address serves a moment after it was added.
fn bind_when_ready(address: SocketAddr) -> UdpSocket {
    for _ in 0..500 {
        if let Ok(socket) = UdpSocket::bind(address) {
            return socket;
        }
        thread::sleep(Duration::from_millis(10));
    }
    UdpSocket::bind(address).unwrap()
}
