//! `peers`: what many peers cost one device: the time to configure them, memory, idleness, and throughput.
//!
//! ```text
//! bench ══ TUN of the device ── node 0 ══ veth ══ node 1 ── one thread that plays all peers (`crowd`)
//! ```
//! Throughput is measured against that of a device with one peer that has all the prefixes, with the same flows over the
//! same number of addresses, in turn, both ways. Both devices are there all the time. The thread at the other end opens
//! nothing of what comes, and seals what it sends; so the way out is bound by the device, the way in by the crowd as well,
//! and of the latter the processor time of the device tells more than the rate.
//!
//! Daemons are asked over their socket, in one request, and peer by peer on several connections. Left out: what handshakes cost (`storm`).
//!
//! ```text
//! cargo build --release --workspace && target/release/peers
//! ```

use clap::{Parser, ValueEnum};
use ginnel_benches::crowd::{self, Crowd, Pace, Sending};
use ginnel_benches::daemon::{Daemon, prepare};
use ginnel_benches::uapi;
use ginnel_benches::versus::contender::{Contender, Kind};
use ginnel_benches::versus::report::Summary;
use ginnel_control::host::{LinkChange, RouteInfo};
use ginnel_control::ipc::wire::{AddPeer, AddPeers, PeerScope, PeerSpec, Request};
use ginnel_control::lab::process::{Keeper, Process, Scratch};
use ginnel_control::lab::{Lab, LabOptions, usage};
use ginnel_engine::key::{PrivateKey, PublicKey};
use ipnet::IpNet;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recv, sendmmsg, setsockopt, sockopt};
use std::error::Error;
use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

#[derive(Parser)]
#[command(about = "Measures what many peers cost a device")]
struct Arguments {
    /// The program `ginnel`.
    #[arg(long, value_name = "PATH", default_value = "target/release/ginnel")]
    ginnel: PathBuf,
    /// Peers configured.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=crowd::PEERS_MAX as i64))]
    peers: u32,
    /// Peers that have sessions.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=crowd::PEERS_MAX as i64))]
    active: u32,
    /// Worker threads of the devices; 0 for one per core. One peer is served by one worker, so with more the comparison
    /// is not of equals.
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// Times everything is measured.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Seconds of each transfer.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Seconds of idleness.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=100))]
    idle_seconds: u64,
    /// Packets that a flow sends before the next has its turn: 44 fill a train.
    #[arg(long, value_delimiter = ',', default_value = "44", value_parser = clap::value_parser!(u8).range(1..=44))]
    bursts: Vec<u8>,
    /// Packets sent per second before measuring, each to another peer: what begins the handshakes.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    handshakes: u32,
    /// Connections to the daemon.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..=100))]
    connections: u8,
    /// Measure only these.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Uapi,
    Ipc,
    Idle,
    Out,
    In,
}

/// Length of the packets: the MTU of the tunnel.
const PACKET_BYTES: usize = 1_420;
/// What UDP over IPv4 leaves of them.
const PAYLOAD_BYTES: usize = PACKET_BYTES - 28;
/// The node on its tunnel, and the port of the one who counts there.
const NEAR: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 88, 0, 1), 5_201);
/// Where the prefixes of a daemon's peers begin.
const SLICES: Ipv4Addr = Ipv4Addr::new(10, 200, 64, 0);
/// Port of the devices.
const PORT: u16 = 51_820;
/// Messages of one system call.
const MESSAGES: usize = 8;
/// Packets under way at most, and messages: the queue of a TUN has room for 500, a socket for the bytes.
const WINDOW_PACKETS: u64 = 2_000;
const WINDOW_MESSAGES: u64 = 250;
/// What devices and daemons get to start, and all handshakes to end.
const START_WITHIN: Duration = Duration::from_secs(15);
const MEET_WITHIN: Duration = Duration::from_secs(120);
const KEEPALIVE_SECS: u16 = 25;

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let arguments = Arguments::parse();
    let mut contenders = [Contender { name: "ginnel".into(), kind: Kind::Ginnel, path: arguments.ginnel.clone() }];
    let keeper = prepare(&mut contenders)?;
    let [contender] = &contenders;
    let wanted = |part| arguments.only.is_empty() || arguments.only.contains(&part);
    if wanted(Part::Uapi) {
        configure_devices(contender, &arguments, &keeper)?;
    }
    if wanted(Part::Ipc) {
        for bulk in [true, false] {
            configure_daemons(contender, bulk, &arguments, &keeper)?;
        }
    }
    if wanted(Part::Idle) || wanted(Part::Out) || wanted(Part::In) {
        let many = Rig::start(contender, arguments.peers, arguments.active.min(arguments.peers), &arguments, &keeper)?;
        many.report_meeting(&arguments)?;
        if wanted(Part::Idle) {
            many.report_idleness(&arguments)?;
        }
        let one = Rig::start(contender, 1, 1, &arguments, &keeper)?;
        one.meet(1)?;
        let rigs = [("1 peer", &one), ("many", &many)];
        for burst in &arguments.bursts {
            for (part, name, way) in [(Part::Out, "out", Rig::send as Way), (Part::In, "in", Rig::receive)] {
                if wanted(part) {
                    compare(name, way, rigs, usize::from(*burst), &arguments)?;
                }
            }
        }
    }
    keeper.clear();
    Ok(())
}

fn line(what: &str, unit: &str, values: &[f64]) {
    if let Some(Summary { median, min, max }) = Summary::of(values) {
        println!("{what:44} {median:9.3} {unit} ({min:.3}–{max:.3})");
    }
}

/// A key for each number: no two are alike, and nobody has the private half.
fn key_of(number: u32) -> PublicKey {
    let mut bytes = [7; 32];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    PublicKey(bytes)
}

fn peer(number: u32, key: PublicKey) -> uapi::Peer {
    uapi::Peer {
        key,
        endpoint: crowd::outside(number).into(),
        allowed: IpNet::from(std::net::IpAddr::from(crowd::inside(number))),
    }
}

/// A device whose interface is called `name`.
fn start_device(
    contender: &Contender,
    name: &str,
    lab: &Lab,
    scratch: &Scratch,
    arguments: &Arguments,
    keeper: &Keeper,
) -> Outcome<Process> {
    let mut command = Command::new(&contender.path);
    command.args(["device", "-f", "--workers", &arguments.workers.to_string(), name]);
    let process = keeper.start(&lab.nodes()[0].netns, &mut command, &scratch.path().join(name))?;
    let start = Instant::now();
    while uapi::connect(name).is_err() {
        if process.ended().is_some() || start.elapsed() > START_WITHIN {
            return Err(format!("{name} does not start: {}", process.last_words()).into());
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(process)
}

fn kibibytes(bytes: u64, peers: u32) -> f64 {
    bytes as f64 / 1024.0 / f64::from(peers)
}

fn configure_devices(contender: &Contender, arguments: &Arguments, keeper: &Keeper) -> Outcome<()> {
    let (lab, scratch) = (Lab::build(LabOptions::default())?, keeper.scratch()?);
    let peers: Vec<_> = (0..arguments.peers).map(|number| peer(number, key_of(number))).collect();
    let private_key = PrivateKey::new(rand::random());
    let config = uapi::Config { private_key: &private_key, listen_port: PORT, peers: &peers };
    let (mut times, mut sizes) = (Vec::new(), Vec::new());
    for _ in 0..arguments.rounds {
        let process = start_device(contender, "conf0", &lab, &scratch, arguments, keeper)?;
        let before = usage::process_rss(process.pid())?;
        let (stream, text) = (uapi::connect("conf0")?, config.text());
        let start = Instant::now();
        uapi::set(stream, &text)?;
        times.push(start.elapsed().as_secs_f64());
        sizes.push(kibibytes(usage::process_rss(process.pid())?.saturating_sub(before), arguments.peers));
    }
    line(&format!("{} peers by the WireGuard socket", arguments.peers), "s", &times);
    line("memory of each", "KiB", &sizes);
    Ok(())
}

/// A peer as a daemon is told of it: its prefix is within the cluster, and behind the slice of the node.
fn spec(number: u32) -> PeerSpec {
    PeerSpec {
        public_key: key_of(number).to_base64(),
        endpoint: crowd::outside(number).to_string(),
        allowed_ips: format!("{}/32", Ipv4Addr::from(u32::from(SLICES) + number)),
        persistent_keepalive_secs: 0,
        candidates: Vec::new(),
    }
}

fn configure_daemons(contender: &Contender, bulk: bool, arguments: &Arguments, keeper: &Keeper) -> Outcome<()> {
    let (mut times, mut sizes) = (Vec::new(), Vec::new());
    for _ in 0..arguments.rounds {
        let daemon = Daemon::start(contender, keeper)?;
        let before = usage::process_rss(daemon.pid())?;
        let mut orchestrators = Vec::new();
        let count = if bulk { 1 } else { u32::from(arguments.connections) };
        for _ in 0..count {
            orchestrators.push(daemon.connect()?);
        }
        let start = Instant::now();
        let outcomes: Vec<_> = thread::scope(|scope| {
            let asking = (0..).zip(&mut orchestrators).map(|(first, orchestrator)| {
                scope.spawn(move || {
                    if bulk {
                        let peers = (0..arguments.peers).map(spec).collect();
                        let add = Request::AddPeers(AddPeers { peers, scope: PeerScope::Global });
                        return orchestrator.call(add).map(drop);
                    }
                    (first..arguments.peers).step_by(count as usize).try_for_each(|number| {
                        let add = Request::AddPeer(AddPeer { peer: spec(number), scope: PeerScope::Global });
                        orchestrator.call(add).map(drop)
                    })
                })
            });
            // A thread that panicked has said why.
            asking.collect::<Vec<_>>().into_iter().filter_map(|thread| thread.join().ok()).collect()
        });
        outcomes.into_iter().collect::<Result<(), _>>().map_err(|error| daemon.blame(&error))?;
        times.push(start.elapsed().as_secs_f64());
        let known = daemon.connect()?.status()?.peer_count;
        if known != arguments.peers {
            return Err(format!("the daemon knows {known} peers").into());
        }
        sizes.push(kibibytes(usage::process_rss(daemon.pid())?.saturating_sub(before), arguments.peers));
    }
    let how = if bulk { "in one request".to_owned() } else { format!("{} connections", arguments.connections) };
    line(&format!("{} peers by IPC, {how}", arguments.peers), "s", &times);
    line("memory of each", "KiB", &sizes);
    Ok(())
}

/// A device with its peers.
struct Rig {
    name: &'static str,
    peers: u32,
    active: u32,
    crowd: Crowd,
    keys: Vec<PublicKey>,
    process: Process,
    lab: Lab,
    /// Flows, the same for all rigs.
    flows: u32,
    /// Memory of the device before it had peers.
    bare_bytes: u64,
    _scratch: Scratch,
}

/// Bytes of packets per second and processor time of the device for each gigabyte.
#[derive(Clone, Copy)]
struct Rate {
    bits_per_sec: f64,
    device: f64,
    machine: f64,
}

type Way = fn(&Rig, usize, Duration) -> Outcome<Rate>;

impl Rig {
    /// Starts a device with `peers` of which the crowd plays `active`. A single peer has the prefixes of all.
    fn start(contender: &Contender, peers: u32, active: u32, arguments: &Arguments, keeper: &Keeper) -> Outcome<Self> {
        let (lab, scratch) = (Lab::build(LabOptions::default())?, keeper.scratch()?);
        let name = if peers == 1 { "one0" } else { "many0" };
        let process = start_device(contender, name, &lab, &scratch, arguments, keeper)?;
        let private_key = PrivateKey::new(rand::random());
        let private_keys: Vec<_> = (0..active).map(|_| PrivateKey::new(rand::random())).collect();
        let keys: Vec<_> = private_keys.iter().map(PrivateKey::public).collect();
        let [near, far] = lab.nodes() else { return Err("a cable has two ends".into()) };
        crowd::settle(far, near)?;
        near.netns.configure(async |netlink| {
            let link = netlink.link(name).await?;
            netlink.add_address(link.index, IpNet::from(std::net::IpAddr::from(*NEAR.ip()))).await?;
            let change = LinkChange { up: Some(true), mtu: Some(PACKET_BYTES as u32), ..LinkChange::default() };
            netlink.change_link(link.index, &change).await?;
            let source = Some((*NEAR.ip()).into());
            netlink.add_route(&RouteInfo { source, ..RouteInfo::new(crowd::insides(), link.index) }).await
        })?;
        let crowd = Crowd::start(&far.netns, private_key.public(), private_keys)?;
        let key = |number: u32| keys.get(number as usize).copied().unwrap_or_else(|| key_of(number));
        let mut all: Vec<_> = (0..peers).map(|number| peer(number, key(number))).collect();
        if let [only] = all.as_mut_slice() {
            only.allowed = crowd::insides();
        }
        let config = uapi::Config { private_key: &private_key, listen_port: PORT, peers: &all };
        let bare_bytes = usage::process_rss(process.pid())?;
        uapi::configure(uapi::connect(name)?, &config)?;
        let flows = arguments.active.min(arguments.peers);
        Ok(Self { name, peers, active, crowd, keys, process, lab, flows, bare_bytes, _scratch: scratch })
    }

    fn socket(&self) -> Outcome<UdpSocket> {
        Ok(self.lab.nodes()[0].netns.run_in(|| UdpSocket::bind((*NEAR.ip(), 0)))??)
    }

    /// Has every active peer get a session, `per_sec` at a time.
    fn meet(&self, per_sec: u32) -> Outcome<Duration> {
        let socket = self.socket()?;
        let start = Instant::now();
        while self.crowd.met() < u64::from(self.active) {
            for number in 0..self.active {
                let due = Duration::from_secs(1) / per_sec;
                socket.send_to(&[1; 8], SocketAddrV4::new(crowd::inside(number), 9))?;
                if self.crowd.met() == u64::from(self.active) {
                    break;
                }
                thread::sleep(due);
            }
            if start.elapsed() > MEET_WITHIN {
                let (met, words) = (self.crowd.met(), self.process.last_words());
                return Err(format!("only {met} of {} peers have sessions: {words}", self.active).into());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(start.elapsed())
    }

    fn report_meeting(&self, arguments: &Arguments) -> Outcome<()> {
        let busy = usage::process_busy(self.process.pid())?;
        let took = self.meet(arguments.handshakes)?;
        let busy = usage::process_busy(self.process.pid())?.saturating_sub(busy);
        let grown = usage::process_rss(self.process.pid())?.saturating_sub(self.bare_bytes);
        println!(
            "{} sessions of {} peers, {} a second: {:.1} s, {:.2} ms of processor each; {:.2} KiB for each of all peers",
            self.active,
            self.peers,
            arguments.handshakes,
            took.as_secs_f64(),
            busy.as_secs_f64() * 1e3 / f64::from(self.active),
            kibibytes(grown, self.peers)
        );
        Ok(())
    }

    /// The share of a core that the device takes while nothing is sent.
    fn idleness(&self, time: Duration) -> Outcome<f64> {
        let before = usage::process_busy(self.process.pid())?;
        let start = Instant::now();
        thread::sleep(time);
        let busy = usage::process_busy(self.process.pid())?.saturating_sub(before);
        Ok(busy.as_secs_f64() / start.elapsed().as_secs_f64())
    }

    fn report_idleness(&self, arguments: &Arguments) -> Outcome<()> {
        let time = Duration::from_secs(arguments.idle_seconds);
        // The last packet was answered by then, were it only with the empty one that is due after 10 s.
        thread::sleep(Duration::from_secs(14));
        let silent = self.idleness(time)? * 100.0;
        self.set_keepalive(KEEPALIVE_SECS)?;
        // All have sent the first by then.
        thread::sleep(Duration::from_secs(1));
        let kept = self.idleness(time.max(Duration::from_secs(KEEPALIVE_SECS.into())))? * 100.0;
        self.set_keepalive(0)?;
        println!("idle, {} peers with {} sessions: {silent:.2} % of a core", self.peers, self.active);
        println!("  the same with keepalives every {KEEPALIVE_SECS} s: {kept:.2} % of a core");
        Ok(())
    }

    fn set_keepalive(&self, secs: u16) -> Outcome<()> {
        let peer = |key: &PublicKey| {
            format!("public_key={}\nupdate_only=true\npersistent_keepalive_interval={secs}\n", key.to_hex())
        };
        let text: String = self.keys.iter().map(peer).collect();
        Ok(uapi::set(uapi::connect(self.name)?, &format!("set=1\n{text}\n"))?)
    }

    /// Measures `bytes` of packets over a time.
    fn gauge(&self, time: Duration, bytes: impl Fn() -> u64) -> Outcome<Rate> {
        // What is cold at first is not measured.
        thread::sleep(Duration::from_millis(200));
        let busy = || Ok::<_, Box<dyn Error>>((usage::process_busy(self.process.pid())?, usage::machine_busy()?));
        let (start, before, (device, machine)) = (Instant::now(), bytes(), busy()?);
        thread::sleep(time);
        let (elapsed, moved, after) = (start.elapsed(), bytes() - before, busy()?);
        let per_gigabyte = |time: Duration| time.as_secs_f64() / (moved as f64 / 1e9).max(1e-9);
        Ok(Rate {
            bits_per_sec: moved as f64 * 8.0 / elapsed.as_secs_f64(),
            device: per_gigabyte(after.0.saturating_sub(device)),
            machine: per_gigabyte(after.1.saturating_sub(machine)),
        })
    }

    fn window(burst: usize) -> u64 {
        WINDOW_PACKETS.min(WINDOW_MESSAGES * burst as u64)
    }

    /// The way out: what the crowd counts.
    fn send(&self, burst: usize, time: Duration) -> Outcome<Rate> {
        let socket = self.socket()?;
        setsockopt(&socket, sockopt::UdpGsoSegment, &i32::try_from(PAYLOAD_BYTES)?)?;
        let _ = self.crowd.heard();
        let stop = AtomicBool::new(false);
        let rate = thread::scope(|scope| {
            let sender = scope.spawn(|| self.send_until(&socket, burst, &stop));
            let rate =
                self.gauge(time, || self.crowd.bytes() / crowd::outer_bytes(1, PACKET_BYTES) * PACKET_BYTES as u64);
            stop.store(true, Ordering::Relaxed);
            // A thread that panicked has said why.
            sender.join().map_err(|_| "the sender failed")??;
            rate
        })?;
        let heard = self.crowd.heard();
        if heard < u64::from(self.active) {
            return Err(format!("{heard} of {} peers heard something", self.active).into());
        }
        Ok(rate)
    }

    fn send_until(&self, socket: &UdpSocket, burst: usize, stop: &AtomicBool) -> Result<(), Errno> {
        let burst_bytes = vec![0x5a; burst * PAYLOAD_BYTES];
        let slices: Vec<_> = (0..MESSAGES).map(|_| [IoSlice::new(&burst_bytes)]).collect();
        let mut headers = MultiHeaders::<SockaddrIn>::preallocate(MESSAGES, None);
        let arrived = || self.crowd.bytes() / crowd::outer_bytes(1, PACKET_BYTES);
        let (first, mut sent, mut flow) = (arrived(), 0, 0);
        let mut pace = Pace::new(Self::window(burst));
        while !stop.load(Ordering::Relaxed) {
            if !pace.may_go(sent, arrived() - first) {
                continue;
            }
            let to: [Option<SockaddrIn>; MESSAGES] = std::array::from_fn(|at| {
                let number = (flow + at as u32) % self.flows;
                Some(SockaddrIn::from(SocketAddrV4::new(crowd::inside(number), 9)))
            });
            match sendmmsg(socket.as_raw_fd(), &mut headers, &slices, to, [], MsgFlags::empty()) {
                Ok(results) => {
                    let count = results.count();
                    flow = (flow + count as u32) % self.flows;
                    sent += (count * burst) as u64;
                }
                Err(Errno::ENOBUFS | Errno::EAGAIN | Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// The way in: what arrives on the node.
    fn receive(&self, burst: usize, time: Duration) -> Outcome<Rate> {
        let socket = self.lab.nodes()[0].netns.run_in(|| UdpSocket::bind(NEAR))??;
        setsockopt(&socket, sockopt::UdpGroSegment, &true)?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        crowd::large_buffer(&socket);
        let (stop, bytes) = (AtomicBool::new(false), AtomicU64::new(0));
        let packets = || bytes.load(Ordering::Relaxed) / PAYLOAD_BYTES as u64;
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut buffer = [0; 64];
                while !stop.load(Ordering::Relaxed) {
                    // The length is enough.
                    if let Ok(len) = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_TRUNC) {
                        bytes.fetch_add(len as u64, Ordering::Relaxed);
                        self.crowd.arrived(packets());
                    }
                }
            });
            let sending =
                Sending { flows: self.flows, burst, packet_bytes: PACKET_BYTES, to: NEAR, window: Self::window(burst) };
            self.crowd.send(sending);
            let rate = self.gauge(time, || packets() * PACKET_BYTES as u64);
            self.crowd.stop_sending();
            stop.store(true, Ordering::Relaxed);
            rate
        })
    }
}

fn compare(way: &str, measure: Way, rigs: [(&str, &Rig); 2], burst: usize, arguments: &Arguments) -> Outcome<()> {
    let time = Duration::from_secs(arguments.seconds);
    let mut rates = [Vec::new(), Vec::new()];
    for _ in 0..arguments.rounds {
        for ((_, rig), rates) in rigs.iter().zip(&mut rates) {
            rates.push(measure(rig, burst, time)?);
        }
    }
    let pick = |side: usize, what: fn(&Rate) -> f64| rates[side].iter().map(what).collect::<Vec<_>>();
    for (side, (_, rig)) in rigs.iter().enumerate() {
        let title = format!("{way}, {burst} packets a turn, {} of {} peers", rig.active, rig.peers);
        line(&title, "Gb/s", &pick(side, |rate| rate.bits_per_sec / 1e9));
        line("  processor time of the device", "s/GB", &pick(side, |rate| rate.device));
        line("  processor time of the machine", "s/GB", &pick(side, |rate| rate.machine));
    }
    let ratios = |what: fn(&Rate) -> f64| {
        pick(1, what).iter().zip(pick(0, what)).map(|(many, one)| many / one).collect::<Vec<_>>()
    };
    line("  many to one: rate", "   ", &ratios(|rate| rate.bits_per_sec));
    line("  many to one: processor time of the device", "   ", &ratios(|rate| rate.device));
    Ok(())
}
