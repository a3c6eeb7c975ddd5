//! A daemon that is killed at any moment, again and again, on a real kernel: whatever it was doing, the next start finds
//! what was confirmed, brings the kernel to exactly that before anybody asks, and touches nothing of others.
//!
//! ```text
//! operations ─► daemon ── kill −9 at a random moment ─► start (some starts are killed, too) ─► journal  ∈ what it may be
//!      └─► model: the states it may be in                                                  ├─► kernel   = journal
//!                                                                                          ├─► answers  = journal
//!                                                                                          └─► look-alikes as they were
//! ```
//!
//! The operations and the planned moments are the same each time, so that a change fails for what it does; where exactly a
//! kill strikes is up to the machine. `GINNEL_TEST_SEED` asks for others. A failure shows what was done.

#[path = "../common/mod.rs"]
mod common;
mod kernel;
#[path = "../common/model/mod.rs"]
mod model;

use common::machine::{Daemon, in_private_machine, installed_as};
use common::until;
use common::wire::Wire;
use ginnel_control::lab::container::Container;
use kernel::LookAlikes;
use model::{Choices, Operation, Workload, World};
use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

const SOCKET: &str = "/var/run/zlayer-overlayd.sock";

/// Kills in each of the parallel campaigns: 60 in all, 200 with `GINNEL_TEST_SLOW=1`.
fn kills_wanted() -> u32 {
    if std::env::var_os("GINNEL_TEST_SLOW").is_some() { 50 } else { 15 }
}

/// Containers that are attached and end.
const CONTAINERS: usize = 4;

/// Operations of one life, at most.
const OPERATIONS_MAX: u32 = 8;

/// The longest operations take a few milliseconds, most some tenths, a start some tens; kills are spread over either, more
/// of them early in an operation.
const OPERATION_TIME: Duration = Duration::from_millis(5);
const START_TIME: Duration = Duration::from_millis(40);

#[test]
fn nothing_is_lost_first_campaign() {
    campaign(0);
}

#[test]
fn nothing_is_lost_second_campaign() {
    campaign(1);
}

#[test]
fn nothing_is_lost_third_campaign() {
    campaign(2);
}

#[test]
fn nothing_is_lost_fourth_campaign() {
    campaign(3);
}

fn campaign(number: u64) {
    let seed = std::env::var("GINNEL_TEST_SEED").map_or(1, |seed| seed.parse::<u64>().expect("a seed is a number"));
    in_private_machine(|| {
        Campaign {
            rng: StdRng::seed_from_u64(seed.wrapping_mul(4).wrapping_add(number)),
            program: installed_as("zlayer-overlayd"),
            look_alikes: LookAlikes::plant(),
            world: World::default(),
            containers: (0..CONTAINERS).map(|_| Container::start().unwrap()).collect(),
            answered: 0,
            interrupted: 0,
        }
        .run();
    });
}

struct Campaign {
    rng: StdRng,
    program: PathBuf,
    look_alikes: LookAlikes,
    world: World,
    containers: Vec<Container>,
    answered: u32,
    interrupted: u32,
}

impl Campaign {
    fn run(&mut self) {
        let mut kills = 0;
        while kills < kills_wanted() {
            let (mut daemon, mut wire) = self.start(&mut kills);
            for _ in 0..self.rng.random_range(0..OPERATIONS_MAX) {
                let operation = self.draw();
                println!("{}", operation.request());
                let answer = wire.ask(&operation.request());
                self.world = self.world.answered(&operation, &answer);
            }
            if self.rng.random_bool(0.03) {
                let answer = wire.ask(&Operation::Shutdown.request());
                self.world = self.world.answered(&Operation::Shutdown, &answer);
                assert!(daemon.end().0.success());
                continue;
            }
            // Of two, one that takes longer, if there is one.
            let operation = Some(self.draw()).filter(Operation::is_long).unwrap_or_else(|| self.draw());
            match self.rng.random_range(0..10) {
                // A signal is an end with nothing in progress: all goes from the kernel and nothing from the disk.
                0 => self.terminate(daemon),
                _ => {
                    kills += 1;
                    self.kill_during(daemon, &mut wire, &operation);
                }
            }
        }
        drop(self.start(&mut kills));
        println!(
            "{kills} kills: {} before an answer, {} behind one, the others at a start",
            self.interrupted, self.answered
        );
    }

    fn draw(&mut self) -> Operation {
        let pids: Vec<_> = self.containers.iter().map(Container::pid).collect();
        let bytes: [u8; 10] = self.rng.random();
        Operation::draw(&mut Choices::new(&bytes), self.world.state(), &Workload::all(&pids))
    }

    /// Starts a daemon, after some that are killed while they start, and looks at everything.
    fn start(&mut self, kills: &mut u32) -> (Daemon, Wire) {
        while self.rng.random_bool(0.2) {
            let mut daemon = Daemon::start(&self.program, &[]);
            std::thread::sleep(START_TIME.mul_f64(self.rng.random()));
            daemon.signal(Signal::SIGKILL);
            daemon.end();
            println!("killed at a start");
            *kills += 1;
        }
        if self.rng.random_bool(0.2) {
            // One ends while nobody watches.
            let number = self.rng.random_range(0..CONTAINERS);
            let ended = std::mem::replace(&mut self.containers[number], Container::start().unwrap());
            println!("the container {} ended", ended.pid());
            self.world = self.world.ended(&format!("linux_pid:{}", ended.pid()));
        }
        let daemon = Daemon::start(&self.program, &[]);
        let mut wire = Wire::connect(SOCKET);
        // The first answer comes when all is up.
        let status = wire.status();
        let tables = kernel::journal();
        self.world = self.world.found(&tables);
        kernel::check(&tables);
        model::check_status(&tables, &status);
        self.look_alikes.check();
        (daemon, wire)
    }

    fn kill_during(&mut self, mut daemon: Daemon, wire: &mut Wire, operation: &Operation) {
        println!("killed during {}", operation.request());
        wire.send_request(&operation.request());
        std::thread::sleep(OPERATION_TIME.mul_f64(self.rng.random::<f64>().powi(4)));
        daemon.signal(Signal::SIGKILL);
        daemon.end();
        self.world = match wire.receive_answer() {
            // What was answered holds.
            Some(answer) => {
                self.answered += 1;
                self.world.answered(operation, &answer)
            }
            None => {
                self.interrupted += 1;
                self.world.interrupted(operation)
            }
        };
    }

    fn terminate(&mut self, mut daemon: Daemon) {
        println!("told to end");
        daemon.signal(Signal::SIGTERM);
        assert!(daemon.end().0.success());
        until("nothing of ours is left", || kernel::links_of_ours().is_empty());
        kernel::check_rules(&BTreeSet::new());
        self.look_alikes.check();
    }
}
