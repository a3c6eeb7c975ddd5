//! What goes wrong: one thing after the other, sometimes two at once. After each, everything has to move again in the time
//! that WireGuard's timers explain.
//!
//! One of the nodes, the steady one, is not killed before the last fifth of a run: what leaks shows in a long life. And in
//! a long run sessions are left alone every now and then for long enough to be renewed in their time.

use super::lane::{Kind, Lane};
use super::scene::Scene;
use super::{Broken, Deed, Run};
use ginnel_control::lab::{UNDERLAY_LINK, ruleset};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

/// A peer that has lost its session is noticed 15 s after something was sent to it (keepalive and rekey timeouts), and a
/// handshake that got lost is tried again 5.3 s later; the rest is for a machine that is busy.
const PROBES_WITHIN: Duration = Duration::from_secs(30);

/// TCP waits twice as long after each loss, so it takes as long again as datagrams did not get through.
const STREAMS_WITHIN: Duration = Duration::from_secs(20);

/// What nothing explains, where nothing went wrong.
const QUIET_MAX: Duration = Duration::from_secs(8);

/// In how long others' damage to the rules has to be mended.
const HEALS_WITHIN: Duration = Duration::from_secs(2);

/// Of every so many seconds, sessions are left alone for so many: longer than a session lasts before it is renewed.
const ROUND: Duration = Duration::from_secs(300);
const LEFT_ALONE: Duration = Duration::from_secs(150);

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// The link to the other node is taken down and up.
    Flap,
    /// The node gets another address.
    Roam,
    /// Somebody throws the ruleset away.
    Flush,
    /// The peer is taken away and added again: sessions begin anew.
    Renew,
    /// The daemon is killed.
    Kill,
    /// It is ended in order.
    End,
    /// Both daemons are killed at once.
    KillBoth,
    /// A daemon is killed while the link is down.
    KillUnderFlap,
}

impl Trouble {
    const HARMLESS: [Self; 5] = [Self::Flap, Self::Flap, Self::Roam, Self::Flush, Self::Flush];
    const OF_SESSIONS: [Self; 5] = [Self::Renew, Self::Kill, Self::Kill, Self::End, Self::KillUnderFlap];

    fn name(self) -> &'static str {
        match self {
            Self::Flap => "flap",
            Self::Roam => "roam",
            Self::Flush => "flush",
            Self::Renew => "renew",
            Self::Kill => "kill",
            Self::End => "end",
            Self::KillBoth => "kill both",
            Self::KillUnderFlap => "kill, link down",
        }
    }
}

/// Whoever makes trouble.
pub struct Maker<'a> {
    run: &'a Run,
    scene: &'a Scene,
    lanes: &'a [Lane],
    rng: StdRng,
    steady: usize,
    time: Duration,
    rules: [[usize; 4]; 2],
    moves: u8,
}

impl<'a> Maker<'a> {
    /// `rules` are those of the nodes while all is well; `time` is that of the run.
    pub fn new(
        run: &'a Run,
        scene: &'a Scene,
        lanes: &'a [Lane],
        rules: [[usize; 4]; 2],
        seed: u64,
        time: Duration,
    ) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let steady = rng.random_range(0..2);
        Self { run, scene, lanes, rng, steady, time, rules, moves: 0 }
    }

    /// The node that lives long.
    #[must_use]
    pub fn steady(&self) -> usize {
        self.steady
    }

    /// Makes trouble until no more changes are to be begun.
    pub fn work(mut self) -> Result<(), Broken> {
        let start = self.run.clock.now();
        while let Some(_change) = self.run.change() {
            let age = self.run.clock.now() - start;
            let (trouble, side) = self.draw(age);
            self.make(trouble, side).map_err(|broken| Broken(format!("{}: {broken}", trouble.name())))?;
            drop(_change);
            let pause = Duration::from_millis(self.rng.random_range(300..5_000));
            self.peace(pause)?;
        }
        Ok(())
    }

    fn draw(&mut self, age: Duration) -> (Trouble, usize) {
        let side = self.rng.random_range(0..2);
        let spared = self.time >= ROUND && age.as_secs() % ROUND.as_secs() < LEFT_ALONE.as_secs();
        if spared || self.rng.random_bool(0.5) {
            return (Trouble::HARMLESS[self.rng.random_range(0..Trouble::HARMLESS.len())], side);
        }
        let trouble = Trouble::OF_SESSIONS[self.rng.random_range(0..Trouble::OF_SESSIONS.len())];
        match (age * 5 > self.time * 4, trouble) {
            (_, Trouble::Renew) => (trouble, side),
            (true, Trouble::Kill) if self.rng.random_bool(0.5) => (Trouble::KillBoth, side),
            (true, _) => (trouble, side),
            (false, _) => (trouble, 1 - self.steady),
        }
    }

    fn make(&mut self, trouble: Trouble, side: usize) -> Result<(), Broken> {
        let node = &self.scene.sides[side].node;
        let down = Duration::from_millis(self.rng.random_range(0..2_000));
        if !Trouble::HARMLESS.contains(&trouble) {
            self.run.tear();
        }
        let start = self.run.clock.now();
        self.run.note(format_args!("{} of {}, {} ms", trouble.name(), node.name, down.as_millis()));
        match trouble {
            Trouble::Flap => self.flap(side, || {
                thread::sleep(down);
                Ok(())
            })?,
            Trouble::Roam => {
                self.moves = self.moves % 100 + 1;
                self.run.did(Deed::Roam, 1);
                node.move_to(Ipv4Addr::new(192, 0, 2, 100 + self.moves))?;
            }
            Trouble::Flush => self.flush(side)?,
            Trouble::Renew => {
                self.scene.part(side)?;
                thread::sleep(down / 10);
                self.scene.introduce(side)?;
            }
            Trouble::Kill => node.kill(down)?,
            Trouble::End => node.end(down, || super::audit::check_bare(&node.netns, node.name, false))?,
            Trouble::KillBoth => {
                let other = &self.scene.sides[1 - side].node;
                thread::scope(|scope| {
                    let killed = scope.spawn(|| other.kill(down));
                    node.kill(down)?;
                    killed.join().map_err(|_| Broken("a thread panicked".into()))?
                })?;
            }
            Trouble::KillUnderFlap => self.flap(side, || node.kill(down))?,
        }
        if !Trouble::HARMLESS.contains(&trouble) {
            self.run.tear();
        }
        self.recover(trouble.name(), start)?;
        if trouble == Trouble::Roam {
            // Whoever orders the overlay hears of it sooner or later.
            self.scene.introduce(1 - side)?;
        }
        Ok(())
    }

    fn flap(&self, side: usize, meanwhile: impl FnOnce() -> Result<(), Broken>) -> Result<(), Broken> {
        let netns = &self.scene.sides[side].node.netns;
        let set =
            |up| netns.configure(async |netlink| netlink.set_up(netlink.link(UNDERLAY_LINK).await?.index, up).await);
        self.run.did(Deed::Flap, 1);
        set(false)?;
        meanwhile()?;
        Ok(set(true)?)
    }

    fn flush(&self, side: usize) -> Result<(), Broken> {
        let node = &self.scene.sides[side].node;
        self.run.did(Deed::Flush, 1);
        ruleset::flush(&node.netns)?;
        let wanted = self.rules[side];
        self.run.within(HEALS_WITHIN, &format!("the rules of {} are back after a flush", node.name), || {
            let found = ruleset::count(&node.netns)?.constant;
            Ok((found != wanted).then(|| format!("tables, chains, rules and sets are {found:?}, not {wanted:?}")))
        })?;
        self.scene.check_fence(side)
    }

    /// Waits until all lanes have moved since what began at `start` was over.
    fn recover(&self, what: &'static str, start: Duration) -> Result<(), Broken> {
        let over = self.run.clock.now();
        let still = |kind| {
            let still = self.lanes.iter().filter(move |lane| lane.kind == kind && lane.moved() <= over);
            still.map(|lane| lane.name.as_str()).collect::<Vec<_>>()
        };
        let moves = |kind, within| {
            self.run.within(within, "traffic moves again", || {
                let still = still(kind);
                Ok((!still.is_empty() && !self.run.is_over()).then(|| format!("not on {}", still.join(", "))))
            })
        };
        moves(Kind::Probes, PROBES_WITHIN)?;
        let outage = self.run.clock.now() - start;
        moves(Kind::Stream, STREAMS_WITHIN + outage * 2)?;
        let took = self.run.clock.now() - over;
        self.run.note(format_args!("all lanes move {:.2} s behind it", took.as_secs_f64()));
        self.run.recovered(what, took);
        Ok(())
    }

    /// For so long nothing goes wrong, and nothing stands still.
    fn peace(&self, time: Duration) -> Result<(), Broken> {
        let since = self.run.clock.now();
        while !self.run.is_closing() && self.run.clock.now() < since + time {
            thread::sleep(Duration::from_millis(50));
            self.check_moving(since)?;
        }
        Ok(())
    }

    /// No lane stands still since `since` for which there is no reason.
    fn check_moving(&self, since: Duration) -> Result<(), Broken> {
        let now = self.run.clock.now();
        match self.lanes.iter().find(|lane| now > lane.moved().max(since) + QUIET_MAX) {
            Some(lane) => Err(Broken(format!("lane {} stands still for no reason", lane.name))),
            None => Ok(()),
        }
    }
}
