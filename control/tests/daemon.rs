//! The real `ginneld` on a real kernel, driven over its socket as an orchestrator does.
//!
//! ```text
//! daemon 1, 10.200.1.1 ── wg ══ underlay ══ wg ── daemon 2, 10.200.2.1
//! ```

mod common;

use common::{PATIENCE, has_link, on_own_ground, until};
use ginnel_control::ipc::wire::{PeerScope, Request};
use ginnel_control::lab::orchestrator::{Orchestrator, Overlay};
use ginnel_control::lab::process::{Keeper, Process, Scratch};
use ginnel_control::lab::traffic::{Amount, End, TcpPlan, tcp, wait_reachable};
use ginnel_control::lab::{Lab, LabOptions, Node};
use ipnet::IpNet;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

const GINNELD: &str = env!("CARGO_BIN_EXE_ginneld");
const PORT: u16 = 51_420;

/// A daemon and what it was told.
struct Daemon {
    process: Process,
    orchestrator: Orchestrator,
    place: Place,
    interface: String,
    public_key: String,
}

/// Where a daemon lives.
#[derive(Clone)]
struct Place {
    node: Node,
    number: u8,
    directory: PathBuf,
}

impl Place {
    fn slice(&self) -> IpNet {
        IpNet::new_assert(Ipv4Addr::new(10, 200, self.number, 0).into(), 24)
    }

    fn end(&self) -> End {
        End { netns: self.node.netns.clone(), ip: Ipv4Addr::new(10, 200, self.number, 1).into() }
    }

    fn socket(&self) -> PathBuf {
        self.directory.join(format!("{}.sock", self.number))
    }

    /// Starts a daemon here.
    fn launch(&self, keeper: &Keeper) -> Process {
        let mut command = Command::new(GINNELD);
        command.arg("--data-dir").arg(self.directory.join(format!("{}.data", self.number)));
        command.arg("--socket").arg(self.socket()).env_remove("RUST_LOG");
        let log = self.directory.join(format!("{}.log", self.number));
        keeper.start(&self.node.netns, &mut command, &log).expect("the daemon starts")
    }

    /// Starts a daemon here and has it bring up the overlay.
    fn start(&self, keeper: &Keeper) -> Daemon {
        self.drive(self.launch(keeper))
    }

    /// Has a daemon bring up the overlay.
    fn drive(&self, process: Process) -> Daemon {
        let mut orchestrator = Orchestrator::connect(&self.socket(), PATIENCE).expect("the daemon answers");
        let overlay = Overlay {
            deployment: "test".into(),
            instance: self.number.to_string(),
            cluster: "10.200.0.0/16".parse().expect("a prefix"),
            slice: self.slice(),
            port: PORT,
        };
        let interface = orchestrator.set_up(self.number.into(), &overlay).expect("the overlay comes up");
        let public_key = orchestrator.status().expect("a status").public_key.expect("a key");
        Daemon { process, orchestrator, place: self.clone(), interface, public_key }
    }
}

impl Daemon {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.pid().try_into().expect("numbers are small")), signal).expect("it runs");
    }

    fn meet(&mut self, other: &Daemon) {
        let endpoint = SocketAddr::new(other.place.node.underlay_v4.into(), PORT);
        let added = self.orchestrator.add_peer(&other.public_key, endpoint, &[other.place.slice()], 25);
        added.expect("the peer is added");
    }
}

/// Two nodes, and a directory that goes with them.
struct Stage {
    places: [Place; 2],
    keeper: Keeper,
    _scratch: Scratch,
    _lab: Lab,
}

impl Stage {
    fn build() -> Self {
        let lab = Lab::build(LabOptions::default()).expect("a laboratory");
        let keeper = Keeper::default();
        let scratch = keeper.scratch().expect("a directory");
        let place = |number: u8| Place {
            node: lab.nodes()[usize::from(number) - 1].clone(),
            number,
            directory: scratch.path().to_owned(),
        };
        Self { places: [1, 2].map(place), keeper, _scratch: scratch, _lab: lab }
    }

    /// Both daemons, introduced to each other.
    fn start(&self) -> [Daemon; 2] {
        let [mut a, mut b] = [0, 1].map(|at| self.places[at].start(&self.keeper));
        a.meet(&b);
        b.meet(&a);
        self.wait_connected();
        [a, b]
    }

    #[track_caller]
    fn wait_connected(&self) {
        let [a, b] = [0, 1].map(|at| self.places[at].end());
        wait_reachable(&a, &b, PATIENCE).expect("they talk");
    }

    /// The same while interface, address and route come one after the other.
    #[track_caller]
    fn until_connected(&self) {
        let [a, b] = [0, 1].map(|at| self.places[at].end());
        until("the overlay is there again", || wait_reachable(&a, &b, Duration::from_secs(1)).is_ok());
    }

    #[track_caller]
    fn transfer(&self) {
        let [a, b] = [0, 1].map(|at| self.places[at].end());
        let plan = TcpPlan { streams: 2, amount: Amount::Bytes(2_000_000), verify: true };
        for (from, to) in [(&a, &b), (&b, &a)] {
            assert_eq!(tcp(from, to, &plan).expect("every byte arrives").bytes, 4_000_000);
        }
    }
}

#[test]
fn an_overlay_carries_traffic_and_goes_with_its_daemon() {
    on_own_ground(&[], || {
        let stage = Stage::build();
        let [a, mut b] = stage.start();
        stage.transfer();
        let netns = &stage.places[0].node.netns;
        assert!(has_link(netns, &a.interface));
        // Asked to end by a signal, and by a request.
        a.signal(Signal::SIGTERM);
        b.orchestrator.call(Request::Shutdown).expect("it agrees");
        for daemon in [&a, &b] {
            until("the daemon ends", || daemon.process.ended().is_some());
            assert!(daemon.process.ended().is_some_and(|status| status.success()), "{}", daemon.process.last_words());
            assert!(!has_link(&daemon.place.node.netns, &daemon.interface) && !daemon.place.socket().exists());
        }
    });
}

#[test]
fn a_killed_daemon_comes_back_as_who_it_was() {
    on_own_ground(&[], || {
        let stage = Stage::build();
        let [mut a, b] = stage.start();
        for _ in 0..3 {
            a.signal(Signal::SIGKILL);
            until("the daemon is gone", || a.process.ended().is_some());
            // Nobody tells it anything.
            let process = stage.places[0].launch(&stage.keeper);
            stage.until_connected();
            stage.transfer();
            let mut again = stage.places[0].drive(process);
            assert_eq!((&again.public_key, &again.interface), (&a.public_key, &a.interface));
            again.meet(&b);
            stage.transfer();
            a = again;
        }
    });
}

#[test]
fn a_removed_interface_is_made_again() {
    on_own_ground(&[], || {
        let stage = Stage::build();
        let [a, _b] = stage.start();
        let netns = &stage.places[0].node.netns;
        for _ in 0..3 {
            let deleted = netns.configure(async |netlink| netlink.delete_link_named(&a.interface).await);
            assert!(deleted.expect("it can be deleted"));
            stage.until_connected();
            stage.transfer();
        }
    });
}

/// What stops the tunnel for good, or the daemon, in the one this replaces.
#[test]
fn peers_change_under_traffic() {
    on_own_ground(&[], || {
        let stage = Stage::build();
        let [mut a, b] = stage.start();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let traffic = scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    stage.transfer();
                }
            });
            let other = "4AElotbq1WFIQS1gXC08H4KIZU0ufarA+N6/FDl3elI=";
            for round in 0..50 {
                a.meet(&b);
                let endpoint = "192.0.2.77:51420".parse().expect("an address");
                let prefix: IpNet = "10.200.77.0/24".parse().expect("a prefix");
                a.orchestrator.add_peer(other, endpoint, &[prefix], 25).expect("the peer is added");
                for pubkey in [other.to_owned(), b.public_key.clone()] {
                    let cidr = "10.200.99.0/24".to_owned();
                    let request = Request::AddAllowedIp { pubkey, cidr, scope: PeerScope::Global };
                    a.orchestrator.call(request).expect("the prefix moves");
                }
                if round % 2 == 0 {
                    let request = Request::RemovePeer { pubkey: other.to_owned(), scope: PeerScope::Global };
                    a.orchestrator.call(request).expect("the peer goes");
                }
            }
            stop.store(true, Ordering::Relaxed);
            if let Err(panic) = traffic.join() {
                std::panic::resume_unwind(panic);
            }
        });
        stage.transfer();
        assert!(a.process.ended().is_none());
    });
}
