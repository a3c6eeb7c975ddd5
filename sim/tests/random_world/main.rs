//! Random worlds: nodes that roam, restart, forget each other and change their keys, on a network that loses, delays,
//! reorders and repeats, while packets go in all directions. Everything follows from one seed.
//!
//! What has to hold, always:
//! - a packet that is delivered was sent, by that node to this one, and is delivered once;
//! - no node speaks for another: packets with a source of somebody else are never delivered;
//! - everything that arrives is delivered or dropped under a name, and only under those listed here;
//! - no counter of a session is used twice, and no session is used after its time;
//! - once the world is kind again, everybody reaches everybody within what the protocol's timers allow, and nothing is
//!   lost any more but at the end of a session from before.
//!
//! A failure prints its seed. `GINNEL_SIM_SEED=n` runs that world alone, `GINNEL_SIM_SEEDS=n` runs so many.

mod chaos;
mod ledger;
mod wire;

use chaos::Chaos;
use std::env;

/// Worlds of a run without settings.
const SEEDS: u64 = 240;

/// Tests the worlds are shared by, so that they run side by side.
const SHARES: u64 = 4;

#[test]
fn worlds_of_the_first_share() {
    run_share(0);
}

#[test]
fn worlds_of_the_second_share() {
    run_share(1);
}

#[test]
fn worlds_of_the_third_share() {
    run_share(2);
}

#[test]
fn worlds_of_the_fourth_share() {
    run_share(3);
}

#[test]
fn a_seed_is_a_world() {
    let traces = [7, 7, 8].map(|seed| Chaos::new(seed).run());
    assert_eq!(traces[0], traces[1], "the same seed made two worlds");
    assert_ne!(traces[0], traces[2]);
}

fn run_share(share: u64) {
    let setting = |name| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds: Vec<_> = match setting("GINNEL_SIM_SEED") {
        Some(seed) if share == 0 => vec![seed],
        Some(_) => return,
        None => (0..setting("GINNEL_SIM_SEEDS").unwrap_or(SEEDS)).filter(|seed| seed % SHARES == share).collect(),
    };
    for seed in seeds {
        let told = TellSeed(seed);
        Chaos::new(seed).run();
        drop(told);
    }
}

/// Says on the way out of a panic which world it was.
struct TellSeed(u64);

impl Drop for TellSeed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("this was world {0}; GINNEL_SIM_SEED={0} runs it again", self.0);
        }
    }
}
