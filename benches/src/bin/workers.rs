//! `workers`: what a second worker brings: two peers on two workers against one peer on one, over virtual wires, without a
//! kernel in between.
//!
//! ```text
//! core 0   worker 0 of the device ══ wire ══ peer 0
//! core 1   worker 1 of the device ══ wire ══ peer 1
//! ```
//! A thread turns a worker and the far end of its wire, so both halves of the work are on its core. Superpackets go in at
//! one end and are counted where they come out. A third arm has two devices with one worker each: what two cores of this
//! machine are worth where nothing is shared at all. Beside the rates stand those by processor time, which other programs on
//! the machine do not take part in. Left out: packets that reach the wrong worker, which is for the kernel
//! to avoid (`steer`).
//!
//! ```text
//! cargo build --release -p ginnel-benches --bins && target/release/workers
//! ```

use clap::Parser;
use ginnel_backends::cipher::{WithCipher, with_fastest};
use ginnel_backends::linux::Clock;
use ginnel_backends::mem::{Link, Tun};
use ginnel_benches::versus::report::Summary;
use ginnel_engine::command::{Command, Operation};
use ginnel_engine::event::Event;
use ginnel_engine::key::PrivateKey;
use ginnel_engine::limits::EVENTS_QUEUED_MAX;
use ginnel_engine::noise::random::Seed;
use ginnel_engine::noise::stamp::Stamps;
use ginnel_engine::noise::{Aead, Core};
use ginnel_engine::peer::PeerRef;
use ginnel_engine::port::{Gso, Offloads, PartialChecksum, Ready, Transport, UnitMeta};
use ginnel_engine::stats::{PeerStats, WorkerStats};
use ginnel_engine::worker::handoff::Mail;
use ginnel_engine::worker::{Wiring, Worker};
use ipnet::IpNet;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

#[derive(Parser)]
#[command(about = "Measures what a second worker brings")]
struct Arguments {
    /// Workers, each with a peer, that are held against one.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    workers: u32,
    /// Times everything is measured, in turn.
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Milliseconds of each.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    millis: u64,
}

const MTU: u16 = 1_420;
const PORT: u16 = 51_820;
/// The superpacket of a tunnel of this MTU: 45 TCP segments.
const SEGMENTS: usize = 45;
const SEGMENT_BYTES: usize = 1_368;
const HEADERS_BYTES: usize = 52;
/// Turns in which a handshake has to come about.
const TURNS_MAX: u32 = 100;

type End<A> = Worker<Core<A>, Tun, Link>;

/// A worker, the far end of its wire, and what the latter has received.
struct Pair<A: Aead> {
    ends: [End<A>; 2],
    addresses: [SocketAddr; 2],
    arrived: Arc<PeerStats>,
    superpacket: Vec<u8>,
    clock: Clock,
    /// The engine sends to these, whoever listens.
    _channels: Vec<(SyncSender<Command>, Receiver<Event>)>,
}

struct Measure(Arguments);

fn main() -> Result<(), Box<dyn Error>> {
    with_fastest(Measure(Arguments::parse()))
}

impl WithCipher for Measure {
    type Made = Result<(), Box<dyn Error>>;

    fn with<A: Aead>(self) -> Self::Made {
        let Arguments { workers, rounds, millis } = self.0;
        let cores = cores();
        if cores.len() < workers as usize {
            return Err(format!("{workers} workers need as many cores; here are {}", cores.len()).into());
        }
        let time = Duration::from_millis(millis);
        let mut rates = [Vec::new(), Vec::new(), Vec::new()];
        for round in 0..rounds as usize {
            // Each core has its turn at being alone.
            let alone = &cores[round % workers as usize..][..1];
            rates[0].push(measure::<A>(device(1)?, alone, time)?);
            rates[1].push(measure::<A>(device(workers)?, &cores, time)?);
            let mut apart = Vec::new();
            for _ in 0..workers {
                apart.extend(device(1)?);
            }
            rates[2].push(measure::<A>(apart, &cores, time)?);
        }
        let name = A::NAME;
        for (unit, pick) in [
            ("Mpps", (|rate| rate.real) as fn(&Rate) -> f64),
            ("M in a second of processor time of each", |rate| rate.processor),
        ] {
            let [one, together, apart] = rates.each_ref().map(|rates| rates.iter().map(pick).collect::<Vec<_>>());
            let ratios = |over: &[f64], under: &[f64]| over.iter().zip(under).map(|(a, b)| a / b).collect::<Vec<_>>();
            line(&format!("1 peer on 1 worker, {name}"), unit, &one);
            line(&format!("{workers} peers on {workers} workers"), unit, &together);
            line(&format!("{workers} devices with 1 peer on 1 worker"), unit, &apart);
            line(&format!("  {workers} workers to 1"), "", &ratios(&together, &one));
            line(&format!("  {workers} devices to 1"), "", &ratios(&apart, &one));
            line(&format!("  {workers} workers to {workers} devices"), "", &ratios(&together, &apart));
        }
        Ok(())
    }
}

fn line(what: &str, unit: &str, values: &[f64]) {
    if let Some(Summary { median, min, max }) = Summary::of(values) {
        println!("{what:40} {median:6.3} ({min:.3}–{max:.3}) {unit}");
    }
}

/// The cores this process may run on.
fn cores() -> Vec<usize> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    (0..CpuSet::count()).filter(|&core| allowed.is_set(core).unwrap_or(false)).collect()
}

/// A device with so many workers, each with a peer behind its own wire, and sessions between them.
fn device<A: Aead>(workers: u32) -> Result<Vec<Pair<A>>, Box<dyn Error>> {
    let clock = Clock::start();
    let key = PrivateKey::new(rand::random());
    let shared = Shared::new(workers, &clock);
    // Every worker is told of all peers.
    let mut told = vec![Operation::SetIdentity(Some(key.clone()))];
    let mut pairs = Vec::new();
    for number in 0..workers {
        let far_key = PrivateKey::new(rand::random());
        let addresses = [1, 2].map(|side| SocketAddr::from(([192, 0, number as u8, side], PORT)));
        let arrived = Arc::new(PeerStats::default());
        let far = Shared::new(1, &clock);
        let far_told = vec![
            Operation::SetIdentity(Some(far_key.clone())),
            Operation::AddPeer { peer: PeerRef(0), key: key.public(), stats: Arc::clone(&arrived) },
            Operation::Route(IpNet::from(std::net::IpAddr::from(near_inside())), PeerRef(0)),
        ];
        told.extend([
            Operation::AddPeer { peer: PeerRef(number), key: far_key.public(), stats: Arc::default() },
            Operation::SetEndpoint(PeerRef(number), addresses[1]),
            Operation::Route(IpNet::from(std::net::IpAddr::from(far_inside(number))), PeerRef(number)),
        ]);
        let (near_end, near_channels) = shared.worker(number, addresses[0]);
        let (far_end, far_channels) = far.worker(0, addresses[1]);
        apply(&far_channels.0, far_told)?;
        pairs.push(Pair {
            ends: [near_end, far_end],
            addresses,
            arrived,
            superpacket: superpacket(far_inside(number)),
            clock,
            _channels: vec![near_channels, far_channels],
        });
    }
    for pair in &mut pairs {
        apply(&pair._channels[0].0, told.clone())?;
        let mut turns = 0;
        while pair.packets() == 0 {
            pair.turn();
            turns += 1;
            if turns > TURNS_MAX {
                return Err("no session comes about".into());
            }
        }
    }
    Ok(pairs)
}

fn apply(commands: &SyncSender<Command>, operations: Vec<Operation>) -> Result<(), Box<dyn Error>> {
    // Nobody waits for the answer.
    let (done, _) = sync_channel(1);
    Ok(commands.try_send(Command::Apply { operations: operations.into(), done })?)
}

/// What the workers of a device share.
struct Shared {
    workers: u32,
    seed: Seed,
    stamps: Arc<Stamps>,
    mail: Mail,
    offloads: Arc<Offloads>,
}

impl Shared {
    fn new(workers: u32, clock: &Clock) -> Self {
        Self {
            workers,
            seed: Seed::new(rand::random()),
            stamps: Arc::new(Stamps::new(clock.origin())),
            mail: Mail::new(workers),
            offloads: Arc::default(),
        }
    }

    fn worker<A: Aead>(&self, worker: u32, at: SocketAddr) -> (End<A>, (SyncSender<Command>, Receiver<Event>)) {
        let (commands, commands_rx) = sync_channel(4);
        let (events, events_rx) = sync_channel(EVENTS_QUEUED_MAX);
        let wiring = Wiring {
            worker,
            workers: self.workers,
            seed: self.seed.clone(),
            stamps: Arc::clone(&self.stamps),
            commands: commands_rx,
            events,
            mail: self.mail.clone(),
            stats: Arc::new(WorkerStats::default()),
        };
        let tun = Tun::new(MTU, Arc::clone(&self.offloads));
        let link = Link::new(vec![at.ip()], at.port(), Arc::clone(&self.offloads));
        (Worker::new(tun, link, wiring), (commands, events_rx))
    }
}

fn near_inside() -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, 1)
}

fn far_inside(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 1, 1)) + number)
}

fn superpacket(to: Ipv4Addr) -> Vec<u8> {
    let len = HEADERS_BYTES + SEGMENTS * SEGMENT_BYTES;
    let mut bytes = vec![0x5a; len];
    bytes[..HEADERS_BYTES].fill(0);
    bytes[..10].copy_from_slice(&[0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 6]);
    bytes[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    bytes[12..16].copy_from_slice(&near_inside().octets());
    bytes[16..20].copy_from_slice(&to.octets());
    // Twelve bytes of options, and the flag of all segments but the first of a connection.
    bytes[32..34].copy_from_slice(&[0x80, 0x10]);
    bytes
}

impl<A: Aead> Pair<A> {
    /// Packets that have come out.
    fn packets(&self) -> u64 {
        self.arrived.rx_packets.load(Ordering::Relaxed)
    }

    /// Puts a superpacket in and carries everything as far as it goes in one turn of each.
    fn turn(&mut self) {
        let gso = Gso { transport: Transport::Tcp, segment_bytes: SEGMENT_BYTES as u16 };
        let meta = UnitMeta { gso: Some(gso), partial_checksum: Some(PartialChecksum { start: 20, offset: 16 }) };
        let now = self.clock.tick();
        let [near, far] = &mut self.ends;
        near.ports_mut().0.inject(&self.superpacket, meta);
        near.turn(now, Ready::BOTH);
        carry(near, far, self.addresses[1]);
        far.turn(now, Ready::BOTH);
        carry(far, near, self.addresses[0]);
        while far.ports_mut().0.take().is_some() {}
    }
}

fn carry<A: Aead>(from: &mut End<A>, into: &mut End<A>, address: SocketAddr) {
    let link = from.ports_mut().1;
    while let Some((way, datagram)) = link.depart() {
        if way.to == address {
            into.ports_mut().1.arrive(way, datagram);
        }
    }
}

/// Millions of packets that come out of all pairs together in a second, and in one of processor time of each.
#[derive(Clone, Copy, Default)]
struct Rate {
    real: f64,
    processor: f64,
}

/// Measures with each pair on a core of its own.
fn measure<A: Aead>(pairs: Vec<Pair<A>>, cores: &[usize], time: Duration) -> Result<Rate, Box<dyn Error>> {
    let (start, stop) = (Barrier::new(pairs.len() + 1), AtomicBool::new(false));
    let rates = thread::scope(|scope| {
        let (start, stop) = (&start, &stop);
        let threads: Vec<_> = pairs
            .into_iter()
            .zip(cores)
            .map(|(mut pair, &core)| {
                scope.spawn(move || {
                    let mut own = CpuSet::new();
                    let pinned = own.set(core).and_then(|()| sched_setaffinity(Pid::from_raw(0), &own));
                    // What is cold at first is not measured.
                    (0..200).for_each(|_| pair.turn());
                    start.wait();
                    let (before, since, busy_before) = (pair.packets(), Instant::now(), busy()?);
                    while !stop.load(Ordering::Relaxed) {
                        pair.turn();
                    }
                    let packets = (pair.packets() - before) as f64 / 1e6;
                    let spent = busy()?.saturating_sub(busy_before);
                    let real = packets / since.elapsed().as_secs_f64();
                    pinned.map(|()| Rate { real, processor: packets / spent.as_secs_f64() })
                })
            })
            .collect();
        start.wait();
        thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect::<Vec<_>>()
    });
    let mut all = Rate::default();
    for rate in rates {
        let Rate { real, processor } = rate?;
        (all.real, all.processor) = (all.real + real, all.processor + processor);
    }
    Ok(all)
}

/// Processor time of this thread.
fn busy() -> nix::Result<Duration> {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from)
}
