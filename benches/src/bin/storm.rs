//! `storm`: what a flood of handshake initiations takes from an established flow.
//!
//! ```text
//! node 0 ══╗  the flow: TCP through the tunnel, node 0 ↔ node 1
//! node 1 ══╬ bridge
//! node 2 ══╝  the storm: datagrams of the length of an initiation to node 0
//! ```
//! Three arms in turn: no storm; the same storm to a socket of nobody's at node 0, which drops it when its buffer is full, so
//! that the generator, the cable and the stack cost the same; the storm to the device. The bar is for the last against the
//! second: what the device spends. Against the first it says what a storm costs on a machine that has to make it as well.
//! Before, the processor time that each kind of storm costs a device that does nothing else, woken for every few messages.
//!
//! Valid initiations are made in stock, as making one takes longer than refusing it; a device that has spent its budget for
//! strangers looks at none of them further than their first MAC, whichever they are. Left out: senders that take the
//! cookies and prove their address; those are limited per address (`engine/src/noise/budget.rs`).
//!
//! ```text
//! cargo build --release -p ginnel-benches --bins && target/release/storm
//! ```

use blake2::digest::consts::U16;
use blake2::digest::{FixedOutput as _, KeyInit as _, Update as _};
use blake2::{Blake2s256, Blake2sMac, Digest as _};
use clap::{Parser, ValueEnum};
use ginnel_backends::device::{Device, DeviceOptions};
use ginnel_backends::linux::Clock;
use ginnel_benches::crowd;
use ginnel_benches::versus::report::Summary;
use ginnel_control::host::LinkChange;
use ginnel_control::lab::process::Keeper;
use ginnel_control::lab::traffic::{self, Amount, End, TcpPlan};
use ginnel_control::lab::{Lab, LabOptions, Node, user_ns};
use ginnel_engine::command::{AllowedIpUpdate, DeviceUpdate, PeerUpdate, PrivateKeyUpdate};
use ginnel_engine::drops::DropReason;
use ginnel_engine::key::{PrivateKey, PublicKey};
use ginnel_engine::noise::random::Seed;
use ginnel_engine::noise::stamp::Stamps;
use ginnel_engine::noise::{Core, Identity, Ring};
use ginnel_engine::peer::noise::{Departure, Noise, SessionBase};
use ginnel_engine::tick::Tick;
use ginnel_engine::wire::message::INITIATION_BYTES;
use ipnet::IpNet;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, sendmmsg};
use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

#[derive(Parser)]
#[command(about = "Measures what a flood of handshake initiations takes from an established flow")]
struct Arguments {
    /// Messages per second.
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    rate: u32,
    /// What they are, in turn.
    #[arg(long, value_delimiter = ',', default_value = "valid,replayed,random,sealed")]
    kinds: Vec<Message>,
    /// Peers of the device that valid and replayed initiations come from.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    peers: u32,
    /// Addresses the storm comes from.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=500))]
    sources: u32,
    /// Which way the flow goes, seen from the node in the storm.
    #[arg(long, value_delimiter = ',', default_value = "in,out")]
    ways: Vec<Way>,
    /// Parallel TCP streams.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    streams: u8,
    /// Worker threads of the devices; 0 for one per core.
    #[arg(long, default_value_t = 0)]
    workers: usize,
    /// Times each arm is measured, in turn.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Seconds of each transfer.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Message {
    /// Initiations of known peers, each later than the one before.
    Valid,
    /// Initiations that were answered before.
    Replayed,
    /// Random bytes behind the type.
    Random,
    /// The same with the first MAC that everybody can make who knows the public key.
    Sealed,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Way {
    In,
    Out,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Arm {
    Calm,
    Bystander,
    Device,
}

const ARMS: [(Arm, &str); 3] =
    [(Arm::Calm, "no storm"), (Arm::Bystander, "storm to a bystander"), (Arm::Device, "storm to the device")];

type Outcome<T> = Result<T, Box<dyn Error>>;
type Datagram = [u8; INITIATION_BYTES];

const PORT: u16 = 51_820;
/// Port of the socket of nobody's.
const BYSTANDER: u16 = 51_821;
const MTU: u16 = 1_420;
/// Ports of a single source: the kernel chooses the worker by them, and one would meet the flow's worker by chance.
const PORTS: usize = 32;
/// Messages of one system call, and a nap where none is due.
const BATCH: usize = 64;
const NAP: Duration = Duration::from_micros(200);
/// Random messages in stock, taken again and again.
const RANDOM_STOCK: usize = 8_192;
/// Longer than a sender of initiations has to wait between two.
const STEP: Duration = Duration::from_secs(6);
/// What handshakes and cables get.
const WITHIN: Duration = Duration::from_secs(15);

fn main() -> Outcome<()> {
    let arguments = Arguments::parse();
    user_ns::check_tun()?;
    user_ns::enter()?;
    let keeper = Keeper::default();
    keeper.clear_on_signal()?;
    let lab = Lab::build(LabOptions { nodes: 3, ..LabOptions::default() })?;
    let [target, far, attacker] = lab.nodes() else { return Err("three nodes were asked for".into()) };
    let mut stock = Stock::new(arguments.peers);
    let keys = [stock.target.clone(), PrivateKey::new(rand::random())];
    let devices = [target, far].map(|node| Party::open(node, &arguments));
    let [near, other] = devices.map(|party| party.map_err(|error| error.to_string()));
    let (near, other) = (near?, other?);
    let strangers = stock.publics.iter().enumerate().map(|(number, key)| {
        let prefix = IpNet::from(IpAddr::from(crowd::inside(number as u32)));
        peer(*key, None, prefix)
    });
    let ends = [0, 1].map(|side| Ipv4Addr::new(10, 88, 0, side + 1));
    let friend = peer(keys[1].public(), Some((far.underlay_v4, PORT)), IpNet::from(IpAddr::from(ends[1])));
    near.configure(&keys[0], ends[0], strangers.chain([friend]).collect())?;
    let friend = peer(keys[0].public(), Some((target.underlay_v4, PORT)), IpNet::from(IpAddr::from(ends[0])));
    other.configure(&keys[1], ends[1], vec![friend])?;
    let ends = [(target, ends[0]), (far, ends[1])].map(|(node, ip)| End { netns: node.netns.clone(), ip: ip.into() });
    traffic::wait_reachable(&ends[1], &ends[0], WITHIN)?;
    // Nobody reads from it.
    let _bystander = target.netns.run_in(|| UdpSocket::bind((target.underlay_v4, BYSTANDER)))??;
    let sockets = sources(attacker, target, arguments.sources)?;
    let generator = Generator { sockets, target: target.underlay_v4, rate: arguments.rate };
    stock.replay(&generator)?;
    traffic::wait_reachable(&ends[1], &ends[0], WITHIN)?;

    let kinds = arguments.kinds.iter().map(|kind| format!("{kind:?}").to_lowercase()).collect::<Vec<_>>().join(", ");
    println!("{} messages a second: {kinds}; from {} addresses", arguments.rate, arguments.sources);
    alone(&near, &generator, &mut stock, &arguments)?;
    for way in &arguments.ways {
        measure(*way, &ends, &near, &generator, &mut stock, &arguments)?;
    }
    keeper.clear();
    Ok(())
}

/// What storms cost a device that does nothing else: of each kind, then of all mixed.
fn alone(party: &Party, generator: &Generator, stock: &mut Stock, arguments: &Arguments) -> Outcome<()> {
    println!("\nThe storm alone, processor time of the device");
    let each = arguments.kinds.iter().map(std::slice::from_ref);
    for kinds in each.chain([arguments.kinds.as_slice()]) {
        let (mut shares, mut costs) = (Vec::new(), Vec::new());
        for _ in 0..arguments.rounds {
            let messages = stock.mixture(kinds, arguments);
            let (before, start) = (party.busy()?, Instant::now());
            let nap = || thread::sleep(Duration::from_secs(arguments.seconds));
            let ((), thousands) = generator.during(Arm::Device, &messages, nap)?;
            let share = party.busy()?.saturating_sub(before).as_secs_f64() / start.elapsed().as_secs_f64();
            shares.push(share * 100.0);
            costs.push(share * 1e3 / thousands);
        }
        let name = if let [kind] = kinds { format!("{kind:?}").to_lowercase() } else { "mixed".into() };
        line(&name, "% of a core", &shares);
        line("  each message", "µs", &costs);
    }
    Ok(())
}

fn measure(
    way: Way,
    [near, far]: &[End; 2],
    party: &Party,
    generator: &Generator,
    stock: &mut Stock,
    arguments: &Arguments,
) -> Outcome<()> {
    let plan = TcpPlan {
        streams: arguments.streams.into(),
        amount: Amount::For(Duration::from_secs(arguments.seconds)),
        verify: false,
    };
    let (name, from, to) = match way {
        Way::In => ("into the storm", far, near),
        Way::Out => ("out of the storm", near, far),
    };
    let mut rates = [Vec::new(), Vec::new(), Vec::new()];
    let mut sent = [Vec::new(), Vec::new(), Vec::new()];
    let mut drops = BTreeMap::new();
    for _ in 0..arguments.rounds {
        let messages = stock.mixture(&arguments.kinds, arguments);
        for (at, (arm, _)) in ARMS.into_iter().enumerate() {
            let before = party.drops()?;
            let (report, count) = generator.during(arm, &messages, || traffic::tcp(from, to, &plan))?;
            rates[at].push(report?.bits_per_sec() / 1e9);
            sent[at].push(count);
            if arm == Arm::Device {
                for (reason, packets) in party.drops()? {
                    *drops.entry(reason).or_insert(0) += packets - before.get(reason).copied().unwrap_or(0);
                }
            }
        }
    }
    println!("\nTCP {name}, {} streams", arguments.streams);
    for ((arm, what), (rates, sent)) in ARMS.into_iter().zip(rates.iter().zip(&sent)) {
        line(what, "Gb/s", rates);
        if arm != Arm::Calm {
            line("  messages", "k/s", sent);
        }
    }
    let ratios = |under: usize| rates[2].iter().zip(&rates[under]).map(|(a, b)| a / b).collect::<Vec<_>>();
    line("device to bystander", "    ", &ratios(1));
    line("device to no storm", "    ", &ratios(0));
    let drops = drops.into_iter().filter(|(_, packets)| *packets > 0);
    let told: Vec<_> = drops.map(|(reason, packets)| format!("{reason} {packets}")).collect();
    println!("dropped in all: {}", told.join(", "));
    Ok(())
}

fn line(what: &str, unit: &str, values: &[f64]) {
    if let Some(Summary { median, min, max }) = Summary::of(values) {
        println!("{what:24} {median:7.3} {unit} ({min:.3}–{max:.3})");
    }
}

fn peer(key: PublicKey, endpoint: Option<(Ipv4Addr, u16)>, prefix: IpNet) -> PeerUpdate {
    PeerUpdate {
        endpoint: endpoint.map(SocketAddr::from),
        allowed_ips: vec![AllowedIpUpdate { prefix, remove: false }],
        ..PeerUpdate::new(key)
    }
}

/// A device in its node.
struct Party {
    device: Device,
    node: Node,
    /// The threads of its workers.
    workers: Vec<PathBuf>,
}

impl Party {
    fn open(node: &Node, arguments: &Arguments) -> Outcome<Self> {
        let options = DeviceOptions { mtu: MTU, workers: arguments.workers, ..DeviceOptions::new("storm0") };
        let before = worker_threads()?;
        let device = node.netns.run_in(|| Device::open(&options))??;
        let workers = worker_threads()?.into_iter().filter(|thread| !before.contains(thread)).collect();
        Ok(Self { device, node: node.clone(), workers })
    }

    /// Processor time of its workers (`/proc/PID/task/TID/schedstat`: nanoseconds on a processor come first).
    fn busy(&self) -> Outcome<Duration> {
        let mut all = 0;
        for worker in &self.workers {
            let text = fs::read_to_string(worker.join("schedstat"))?;
            all += text.split_whitespace().next().unwrap_or_default().parse::<u64>()?;
        }
        Ok(Duration::from_nanos(all))
    }

    fn configure(&self, key: &PrivateKey, address: Ipv4Addr, peers: Vec<PeerUpdate>) -> Outcome<()> {
        let update = DeviceUpdate {
            private_key: Some(PrivateKeyUpdate::Set(key.clone())),
            listen_port: Some(PORT),
            peers,
            ..DeviceUpdate::default()
        };
        // A socket belongs to the namespace of the thread that opens it.
        self.node.netns.run_in(|| self.device.apply(update))??;
        self.node.netns.configure(async |netlink| {
            let link = netlink.link("storm0").await?;
            netlink.add_address(link.index, IpNet::new_assert(address.into(), 24)).await?;
            netlink.change_link(link.index, &LinkChange { up: Some(true), ..LinkChange::default() }).await
        })?;
        Ok(())
    }

    /// What the device dropped, and what the kernel did because its sockets were full.
    fn drops(&self) -> Outcome<BTreeMap<&'static str, u64>> {
        let drops = self.device.state().drops.into_iter().map(|(reason, packets)| (reason.name(), packets));
        let table = self.node.netns.run_in(|| fs::read_to_string("/proc/thread-self/net/udp6"))??;
        Ok(drops.chain([("socket full", socket_drops(&table, PORT))]).collect())
    }
}

/// The threads of this process that are workers of devices.
fn worker_threads() -> Outcome<Vec<PathBuf>> {
    let mut found = Vec::new();
    for task in fs::read_dir("/proc/self/task")? {
        let path = task?.path();
        // A thread may have ended since.
        if fs::read_to_string(path.join("comm")).is_ok_and(|name| name.starts_with("ginnel-w")) {
            found.push(path);
        }
    }
    Ok(found)
}

/// The last column of the sockets that are bound to `port` (`udp6_seq_show` of Linux).
fn socket_drops(table: &str, port: u16) -> u64 {
    let own = table.lines().filter(|line| {
        let local = line.split_whitespace().nth(1).and_then(|local| local.rsplit_once(':'));
        local.is_some_and(|(_, number)| u16::from_str_radix(number, 16) == Ok(port))
    });
    own.filter_map(|line| line.split_whitespace().last()?.parse::<u64>().ok()).sum()
}

/// Sockets of the attacker, each with an address of its own where there is more than one, else with ports of their own.
fn sources(attacker: &Node, target: &Node, count: u32) -> Outcome<Vec<UdpSocket>> {
    if count == 1 {
        let bind = || (0..PORTS).map(|_| UdpSocket::bind((attacker.underlay_v4, 0))).collect::<Result<Vec<_>, _>>();
        return Ok(attacker.netns.run_in(bind)??);
    }
    crowd::settle(attacker, target)?;
    let bind = || (0..count).map(|number| UdpSocket::bind(crowd::outside(number))).collect::<Result<Vec<_>, _>>();
    Ok(attacker.netns.run_in(bind)??)
}

/// Sends storms.
struct Generator {
    sockets: Vec<UdpSocket>,
    target: Ipv4Addr,
    rate: u32,
}

impl Generator {
    /// Has a storm rage while `work` is done. Returns how many thousand messages a second it had, too.
    fn during<T>(&self, arm: Arm, messages: &[Datagram], work: impl FnOnce() -> T) -> Outcome<(T, f64)> {
        let port = match arm {
            Arm::Calm => return Ok((work(), 0.0)),
            Arm::Bystander => BYSTANDER,
            Arm::Device => PORT,
        };
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let storm = scope.spawn(|| self.storm(port, messages, self.rate, &stop));
            let start = Instant::now();
            let done = work();
            let elapsed = start.elapsed();
            stop.store(true, Ordering::Relaxed);
            let sent = storm.join().map_err(|_| "the storm failed")??;
            Ok((done, sent as f64 / 1e3 / elapsed.as_secs_f64()))
        })
    }

    /// Sends the messages again and again.
    fn storm(&self, port: u16, messages: &[Datagram], rate: u32, stop: &AtomicBool) -> Result<u64, Errno> {
        let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
        let to = Some(SockaddrIn::from(SocketAddrV4::new(self.target, port)));
        let mut stock = messages.iter().cycle();
        let mut sockets = self.sockets.iter().cycle();
        let (start, mut sent) = (Instant::now(), 0);
        while !stop.load(Ordering::Relaxed) {
            let due = (start.elapsed().as_secs_f64() * f64::from(rate)) as u64;
            let count = due.saturating_sub(sent).min(BATCH as u64) as usize;
            let Some(socket) = sockets.next().filter(|_| count > 0) else {
                thread::sleep(NAP);
                continue;
            };
            let slices: Vec<_> = stock.by_ref().take(count).map(|message| [IoSlice::new(message)]).collect();
            let to = [to; BATCH];
            match sendmmsg(socket.as_raw_fd(), &mut headers, &slices, to, [], MsgFlags::empty()) {
                // What was not sent is as good as lost on the way.
                Ok(_) | Err(Errno::ENOBUFS | Errno::EAGAIN | Errno::EINTR | Errno::ECONNREFUSED) => {
                    sent += count as u64
                }
                Err(errno) => return Err(errno),
            }
        }
        Ok(sent)
    }
}

/// What storms are made of.
struct Stock {
    target: PrivateKey,
    publics: Vec<PublicKey>,
    peers: Vec<Core<Ring>>,
    now: Tick,
    replayed: Vec<Datagram>,
    random: Vec<Datagram>,
    sealed: Vec<Datagram>,
}

impl Stock {
    /// Peers of a device with a key of its own.
    fn new(count: u32) -> Self {
        let target = PrivateKey::new(rand::random());
        let clock = Clock::start();
        let (seed, stamps) = (Seed::new(rand::random()), Arc::new(Stamps::new(clock.origin())));
        let (mut publics, mut peers) = (Vec::new(), Vec::new());
        for number in 0..count {
            let key = PrivateKey::new(rand::random());
            let mut identity: Identity = Core::<Ring>::identity(&key, &seed, seed.random("peer", number), &stamps);
            publics.push(key.public());
            peers.push(Core::new(&mut identity, &target.public(), None, SessionBase(number)));
        }
        let random: Vec<_> = (0..RANDOM_STOCK).map(|_| noise()).collect();
        let mac_key = Blake2s256::new().chain_update(b"mac1----").chain_update(target.public().0).finalize();
        let sealed = random.iter().map(|message| seal(*message, &mac_key)).collect();
        let mut stock = Self { target, publics, peers, now: clock.tick(), replayed: Vec::new(), random, sealed };
        stock.replayed = stock.valid(count as usize);
        stock
    }

    /// The next initiations of all peers in turn. Time passes for them as they need it.
    fn valid(&mut self, count: usize) -> Vec<Datagram> {
        let mut messages = Messages(Vec::new());
        while messages.0.len() < count {
            self.now = self.now + STEP;
            for peer in &mut self.peers {
                // The first time it asks, and again after it gave up; in between its timers do.
                peer.initiate(self.now, &mut messages);
                peer.pulse(self.now, &mut messages);
            }
        }
        messages.0
    }

    /// Sends what is to be replayed once, as slowly as it can be answered.
    fn replay(&self, generator: &Generator) -> Outcome<()> {
        let stop = AtomicBool::new(false);
        let rate = 100;
        thread::scope(|scope| {
            let sending = scope.spawn(|| generator.storm(PORT, &self.replayed, rate, &stop));
            thread::sleep(Duration::from_secs(1) * self.replayed.len() as u32 / rate);
            stop.store(true, Ordering::Relaxed);
            sending.join().map_err(|_| "the replay failed".into()).and_then(|sent| Ok(sent.map(drop)?))
        })
    }

    /// Messages of all kinds in turn, with enough valid ones for a transfer.
    fn mixture(&mut self, kinds: &[Message], arguments: &Arguments) -> Vec<Datagram> {
        // The transfer takes a little longer than what it is meant to take.
        let turns = (u64::from(arguments.rate) * arguments.seconds) as usize * 11 / 10 / kinds.len().max(1) + 1;
        let valid = if kinds.contains(&Message::Valid) { self.valid(turns) } else { Vec::new() };
        let pick = |stock: &[Datagram], turn: usize| stock[turn % stock.len()];
        let of = |turn: usize, kind: &Message| match kind {
            Message::Valid => pick(&valid, turn),
            Message::Replayed => pick(&self.replayed, turn),
            Message::Random => pick(&self.random, turn),
            Message::Sealed => pick(&self.sealed, turn),
        };
        (0..turns)
            .flat_map(|turn| kinds.iter().map(move |kind| (turn, kind)))
            .map(|(turn, kind)| of(turn, kind))
            .collect()
    }
}

/// An initiation but for its content.
fn noise() -> Datagram {
    let mut message = [0; INITIATION_BYTES];
    message.iter_mut().for_each(|byte| *byte = rand::random());
    message[..4].copy_from_slice(&[1, 0, 0, 0]);
    message
}

/// With the first MAC right and no second one (paper, section 5.4.4).
fn seal(mut message: Datagram, mac_key: &[u8]) -> Datagram {
    let (body, macs) = message.split_at_mut(INITIATION_BYTES - 32);
    if let Ok(mut state) = Blake2sMac::<U16>::new_from_slice(mac_key) {
        state.update(body);
        macs[..16].copy_from_slice(&state.finalize_fixed());
    }
    macs[16..].fill(0);
    message
}

/// Initiations on their way into the stock.
struct Messages(Vec<Datagram>);

impl Departure for Messages {
    fn slot(&mut self, _: usize) -> &mut [u8] {
        self.0.push([0; INITIATION_BYTES]);
        self.0.last_mut().map_or(&mut [], |slot| slot.as_mut_slice())
    }

    fn push(&mut self, _: usize) {}

    fn dropped(&mut self, _: DropReason) {}
}
