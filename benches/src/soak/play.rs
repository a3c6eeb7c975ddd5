//! A whole run, from empty networks to empty networks.

use super::audit::{self, Census, Weight};
use super::churn::{Addresses, Churn};
use super::node::{Node, QUARANTINE_SECS};
use super::scene::Scene;
use super::trouble::Maker;
use super::{Broken, Deed, Run, noise};
use ginnel_control::ipc::wire::{ObjectKind, Objects};
use ginnel_control::lab::process::Keeper;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

/// Workers on each node that attach and detach.
const WORKERS: u16 = 2;

/// What a daemon may have grown by: caches and tables that fill up to a bound.
const GROWTH_MAX: u64 = 4 << 20;

/// Addresses rest and are forgotten, for which they are looked at every 30 s.
const FORGOTTEN_WITHIN: Duration = Duration::from_secs(QUARANTINE_SECS + 40);

/// Sessions are renewed after two minutes: a handshake that comes so long after the last force is their own.
const RENEWED_AFTER: Duration = Duration::from_secs(100);

/// What is to be done.
pub struct Plan {
    /// The program `ginnel`.
    pub program: PathBuf,
    /// What fixes it.
    pub seed: u64,
    /// How long.
    pub time: Duration,
}

/// What was weighed, a minute each.
struct Sample {
    side: usize,
    life: u32,
    weight: Weight,
    resting: usize,
}

/// Does it.
///
/// # Errors
/// The first invariant that was found broken.
pub fn play(plan: &Plan, keeper: &Keeper) -> Result<(), Broken> {
    // The clock ticks until the program ends.
    let run: &'static Run = Box::leak(Box::default());
    thread::spawn(|| {
        loop {
            run.clock.tick();
        }
    });
    let scratch = keeper.scratch().map_err(|error| Broken(format!("make a directory: {error}")))?;
    let (lab, nodes) = Scene::start(&plan.program, scratch.path(), keeper, run)?;
    let idle = [Weight::of(nodes[0].life().0)?, Weight::of(nodes[1].life().0)?];
    let mut scene = Scene::set_up(lab, nodes)?;
    let outcome = perform(run, plan, &scene).and_then(|()| strike(run, &mut scene, &idle));
    outcome.map_err(|broken| {
        println!("what was done last:\n{}", run.notes().join("\n"));
        let words =
            scene.sides.iter().map(|side| format!("\n{} said last: {}", side.node.name, side.node.last_words()));
        Broken(format!("{broken}{}", words.collect::<String>()))
    })
}

/// All that goes on at the same time.
fn perform(run: &'static Run, plan: &Plan, scene: &Scene) -> Result<(), Broken> {
    let lanes = scene.lanes();
    let mut rng = StdRng::seed_from_u64(plan.seed);
    let addresses = [Addresses::default(), Addresses::default()];
    let census = [Census::take(&scene.sides[0].node)?, Census::take(&scene.sides[1].node)?];
    let rules = [0, 1].map(|side: usize| census[side].rules.constant);
    let maker = Maker::new(run, scene, &lanes, rules, rng.random(), plan.time);
    let steady = maker.steady();
    println!("{} lives long", scene.sides[steady].node.name);
    let samples = thread::scope(|scope| {
        for lane in &lanes {
            let seed = rng.random();
            scope.spawn(move || run.watch(|| lane.carry(run, seed)));
        }
        scope.spawn(move || run.watch(|| maker.work()));
        for (side, addresses) in scene.sides.iter().zip(&addresses) {
            for number in 0..WORKERS {
                let churn = Churn::new(run, side, addresses, number, rng.random());
                scope.spawn(move || run.watch(|| churn.work()));
            }
        }
        let seed = rng.random();
        scope.spawn(move || run.watch(|| noise::make(run, scene, seed)));
        let mut samples = Vec::new();
        run.watch(|| {
            samples = watch(run, plan, scene, &census)?;
            Ok(())
        });
        run.end();
        samples
    });
    run.verdict()?;
    for (what, mut times) in run.recoveries() {
        times.sort();
        let show = |at: usize| format!("{:.1} s", times[at].as_secs_f64());
        println!(
            "{what:16} {:4} times, traffic on all lanes {} later, {} at most",
            times.len(),
            show(times.len() / 2),
            show(times.len() - 1)
        );
    }
    println!("stood still for {:.1} s", run.clock.lost().as_secs_f64());
    check_growth(&samples, steady)
}

/// Looks at both nodes all the time, and once a minute closely.
fn watch(run: &Run, plan: &Plan, scene: &Scene, census: &[Census; 2]) -> Result<Vec<Sample>, Broken> {
    let mut samples: Vec<Sample> = Vec::new();
    let mut heard = BTreeMap::new();
    // Until the end of the first minute lazy things are made.
    let mut descriptors = [None; 2];
    let start = run.clock.now();
    let mut minute = 0;
    while !run.is_over() && run.clock.now() < start + plan.time {
        thread::sleep(Duration::from_millis(500));
        for side in &scene.sides {
            side.node.check_alive()?;
        }
        if run.clock.now() >= start + Duration::from_secs(60) * (minute + 1) {
            minute += 1;
            let pause = run.pause();
            if run.is_over() {
                break;
            }
            for (side, sample) in look(run, scene, census, &descriptors)?.into_iter().enumerate() {
                descriptors[side] = Some(sample.weight.lasting());
                samples.push(sample);
            }
            drop(pause);
            report(run, scene, census, minute, &samples);
        }
        hear(run, scene, &mut heard)?;
    }
    run.close();
    drop(run.pause());
    Ok(samples)
}

/// What is there, while nobody changes anything.
fn look(
    run: &Run,
    scene: &Scene,
    census: &[Census; 2],
    descriptors: &[Option<usize>; 2],
) -> Result<Vec<Sample>, Broken> {
    let mut samples = Vec::new();
    for (side, it) in scene.sides.iter().enumerate() {
        let weight = audit::settle(run, &it.node, &census[side], descriptors[side])?;
        let resting = audit::resting(&mut it.node.caller())?;
        samples.push(Sample { side, life: it.node.life().1, weight, resting });
    }
    Ok(samples)
}

fn report(run: &Run, scene: &Scene, census: &[Census; 2], minute: u32, samples: &[Sample]) {
    let done = |deed| run.done(deed);
    let mut line = format!(
        "min {minute:2}: {:.2} GB, {} attaches ({} deaths), {} kills, {} ends, {} flushes, {} flaps, {} roams, {} handshakes ({} of their own), {} lookups, {} junk",
        done(Deed::Bytes) as f64 / 1e9,
        done(Deed::Attach),
        done(Deed::Death),
        done(Deed::Kill),
        done(Deed::End),
        done(Deed::Flush),
        done(Deed::Flap),
        done(Deed::Roam),
        done(Deed::Handshake),
        done(Deed::Rekey),
        done(Deed::Lookup),
        done(Deed::Junk),
    );
    for sample in samples.iter().rev().take(2).rev() {
        let census = &census[sample.side];
        line += &format!(
            "; {} (life {}): {:.1} MiB, {} fds, {} threads, {} leases and {} that rest, {} links, {} rules and elements",
            scene.sides[sample.side].node.name,
            sample.life,
            sample.weight.rss as f64 / f64::from(1 << 20),
            sample.weight.descriptors(),
            sample.weight.threads,
            census.leases.len(),
            sample.resting,
            census.links.len(),
            census.rules.all(),
        );
    }
    println!("{line}");
}

/// Counts handshakes.
fn hear(run: &Run, scene: &Scene, heard: &mut BTreeMap<(usize, String), u64>) -> Result<(), Broken> {
    for (side, it) in scene.sides.iter().enumerate() {
        let Objects::Peers(peers) = it.node.caller().list(ObjectKind::Peers)? else { continue };
        for peer in peers {
            let at = peer.last_handshake_unix_secs.unwrap_or_default();
            let before = heard.insert((side, peer.public_key), at);
            if at != 0 && before.is_some_and(|before| before != at) {
                run.did(Deed::Handshake, 1);
                if run.clock.now() > run.torn() + RENEWED_AFTER {
                    run.did(Deed::Rekey, 1);
                }
            }
        }
    }
    Ok(())
}

/// The end: everything goes, and nothing is left.
fn strike(run: &Run, scene: &mut Scene, idle: &[Weight; 2]) -> Result<(), Broken> {
    scene.tear_down()?;
    for (side, it) in scene.sides.iter().enumerate() {
        let node = &it.node;
        audit::check_bare(&node.netns, node.name, true)?;
        run.within(FORGOTTEN_WITHIN, &format!("all addresses of {} are back", node.name), || {
            let Objects::Leases(items) = node.caller().list(ObjectKind::Leases)? else { return Ok(None) };
            let held: Vec<_> = items.iter().filter(|item| item.owner.is_some()).collect();
            Ok((!items.is_empty()).then(|| format!("{} are listed, first {:?}", items.len(), held.first())))
        })?;
        let weight = audit::weigh(run, node, Some(idle[side].lasting()))?;
        println!(
            "{} with nothing set up: {:.1} MiB, {} fds, {} threads; at the start {:.1} MiB, {} fds, {} threads",
            node.name,
            weight.rss as f64 / f64::from(1 << 20),
            weight.descriptors(),
            weight.threads,
            idle[side].rss as f64 / f64::from(1 << 20),
            idle[side].descriptors(),
            idle[side].threads,
        );
        node.finish()?;
        audit::check_bare(&node.netns, node.name, false)?;
        check_files(node)?;
    }
    Ok(())
}

/// No socket is left open, no socket file either.
fn check_files(node: &Node) -> Result<(), Broken> {
    let sockets = audit::sockets(&node.netns)?;
    let left = std::fs::read_dir(node.file("wg")).map(Iterator::count).unwrap_or_default();
    if sockets.is_empty() && left == 0 && !node.file("sock").exists() {
        return Ok(());
    }
    let sock = node.file("sock").exists();
    Err(Broken(format!("{} left sockets {sockets:?}, {left} files for wg, its own: {sock}", node.name)))
}

/// The daemon that lived long did not grow: the last third of its first life against the first behind the first minute.
fn check_growth(samples: &[Sample], steady: usize) -> Result<(), Broken> {
    let life = samples.iter().filter(|sample| sample.side == steady).map(|sample| sample.life).min();
    let rss = samples.iter().filter(|sample| sample.side == steady && Some(sample.life) == life);
    let rss: Vec<_> = rss.skip(1).map(|sample| sample.weight.rss).collect();
    if rss.len() < 3 {
        println!("too short to tell whether memory grows");
        return Ok(());
    }
    let middle = |part: &[u64]| {
        let mut part = part.to_vec();
        part.sort_unstable();
        part[part.len() / 2]
    };
    let third = rss.len() / 3;
    let (before, after) = (middle(&rss[..third]), middle(&rss[rss.len() - third..]));
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!("memory of the one that lives long: {:.1} MiB, then {:.1} MiB", mib(before), mib(after));
    if after > before + GROWTH_MAX.max(before / 10) {
        return Err(Broken(format!("memory grew from {:.1} to {:.1} MiB", mib(before), mib(after))));
    }
    Ok(())
}
