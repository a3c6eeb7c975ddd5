//! The real `ginneld` without a right or a place that it needs: each lack is told in words that say what to do, and what works
//! without it goes on.

mod common;

use common::PATIENCE;
use common::machine::{Daemon, in_private_machine, installed_as, link};
use ginnel_backends::linux::drop_from_bound;
use ginnel_control::daemon::Exit;
use ginnel_control::ipc::wire::{PeerScope, Request};
use ginnel_control::lab::container::Container;
use ginnel_control::lab::orchestrator::{Orchestrator, Overlay};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::json;
use std::fs;
use std::path::Path;
use std::thread;

const DATA: &str = "/var/run/data";
const SOCKET: &str = "/var/run/orders/s";
const CAP_NET_ADMIN: u8 = 12;
const CAP_SYS_PTRACE: u8 = 19;
const CAP_SYS_ADMIN: u8 = 21;
const CAP_BPF: u8 = 39;

/// Starts a daemon from a thread of which `deprive` has taken something. What it takes is the thread's own, mounts included.
fn start_deprived(deprive: impl FnOnce() + Send, args: &[&str]) -> Daemon {
    fs::create_dir_all("/var/run/orders").unwrap();
    let program = installed_as("ginneld");
    let mut all = vec!["--data-dir", DATA, "--socket", SOCKET];
    all.extend(args);
    let start = || {
        unshare(CloneFlags::CLONE_NEWNS).expect("the mounts are the test's own");
        deprive();
        Daemon::start(&program, &all)
    };
    thread::scope(|scope| scope.spawn(start).join()).expect("the daemon starts")
}

fn without(capabilities: &'static [u8]) -> impl FnOnce() + Send {
    move || capabilities.iter().for_each(|number| drop_from_bound(*number).expect("root may give capabilities up"))
}

fn read_only(path: &str) {
    fs::create_dir_all(path).unwrap();
    let path = Path::new(path);
    let again = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(Some(path), path, None::<&Path>, MsFlags::MS_BIND, None::<&Path>).unwrap();
    mount(None::<&Path>, path, None::<&Path>, again, None::<&Path>).unwrap();
}

fn connect() -> Orchestrator {
    Orchestrator::connect(Path::new(SOCKET), PATIENCE).expect("the daemon answers")
}

fn set_up(orchestrator: &mut Orchestrator) -> Result<String, String> {
    let overlay = Overlay {
        deployment: "test".into(),
        instance: "0".into(),
        cluster: "10.200.0.0/16".parse().unwrap(),
        slice: "10.200.5.0/28".parse().unwrap(),
        port: 51_420,
    };
    orchestrator.set_up(1, &overlay).map_err(|error| error.to_string())
}

fn attach(orchestrator: &mut Orchestrator, container: &Container) -> Result<(), String> {
    let mode = json!({"op": "setup_service_overlay", "service": "web", "mode": "auto"});
    let attach = json!({"op": "attach_container", "handle": {"platform": "linux_pid", "pid": container.pid()},
        "service": "web", "join_global": false, "ephemeral": true});
    for request in [mode, attach] {
        let request: Request = serde_json::from_value(request).unwrap();
        orchestrator.call(request).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// The capabilities of a process, as the kernel tells them.
fn effective(daemon: &Daemon) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap()
}

#[test]
fn it_runs_with_seven_capabilities_and_no_dumps() {
    in_private_machine(|| {
        let daemon = start_deprived(|| {}, &[]);
        set_up(&mut connect()).unwrap();
        let kept = [0, 2, 10, CAP_NET_ADMIN, CAP_SYS_PTRACE, CAP_SYS_ADMIN, CAP_BPF];
        let allowed = kept.iter().fold(0, |set, number| set | 1_u64 << number);
        assert_eq!(effective(&daemon) & !allowed, 0);
        assert!(effective(&daemon) >> CAP_NET_ADMIN & 1 == 1);
        let limits = fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).unwrap();
        let cores = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(cores.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"]);
    });
}

#[test]
fn without_net_admin_setup_says_so() {
    in_private_machine(|| {
        let _daemon = start_deprived(without(&[CAP_NET_ADMIN]), &[]);
        let mut orchestrator = connect();
        let refusal = set_up(&mut orchestrator).unwrap_err();
        assert!(refusal.contains("CAP_NET_ADMIN"), "{refusal}");
        orchestrator.status().expect("it goes on");
    });
}

#[test]
fn without_the_rights_for_containers_attach_says_which_and_the_overlay_works() {
    in_private_machine(|| {
        let container = Container::start().unwrap();
        for (capability, name) in [(&[CAP_SYS_ADMIN], "CAP_SYS_ADMIN"), (&[CAP_SYS_PTRACE], "CAP_SYS_PTRACE")] {
            let daemon = start_deprived(without(capability), &[]);
            let mut orchestrator = connect();
            let name_of_link = set_up(&mut orchestrator).unwrap();
            assert!(link(&name_of_link).is_some());
            let refusal = attach(&mut orchestrator, &container).unwrap_err();
            assert!(refusal.contains(name), "{refusal}");
            assert!(daemon.log().contains(name), "{}", daemon.log());
            orchestrator.call(Request::Shutdown).unwrap();
        }
    });
}

#[test]
fn without_bpf_packets_are_steered_by_the_kernel_alone() {
    in_private_machine(|| {
        let _daemon = start_deprived(without(&[CAP_BPF, CAP_SYS_ADMIN]), &["--workers", "2"]);
        let mut orchestrator = connect();
        set_up(&mut orchestrator).unwrap();
        let status = orchestrator.status().unwrap();
        let steering = status.offloads.iter().find(|offload| offload.name == "tun_steering").unwrap();
        assert_eq!((steering.state.as_str(), steering.reason.is_some()), ("off", true), "{steering:?}");
        let key = "CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=";
        let endpoint = "192.0.2.1:51420".parse().unwrap();
        orchestrator.add_peer(key, endpoint, &["10.200.9.0/28".parse().unwrap()], 25).unwrap();
        orchestrator.call(Request::RemovePeer { pubkey: key.into(), scope: PeerScope::Global }).unwrap();
    });
}

#[test]
fn without_a_tun_device_setup_says_what_to_do() {
    in_private_machine(|| {
        let hide = || mount(Some("tmpfs"), "/dev/net", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        let daemon = start_deprived(hide, &[]);
        let mut orchestrator = connect();
        let refusal = set_up(&mut orchestrator).unwrap_err();
        assert!(refusal.contains("/dev/net/tun") && refusal.contains("load the tun module"), "{refusal}");
        orchestrator.status().expect("it goes on");
        drop(daemon);
    });
}

#[test]
fn a_read_only_data_directory_is_told_by_name() {
    in_private_machine(|| {
        let mut daemon = start_deprived(|| read_only(DATA), &[]);
        let (status, _) = daemon.end();
        assert_eq!(status.code(), Some(Exit::Failed.status().into()));
        let log = daemon.log();
        assert!(log.contains(DATA) && log.contains("cannot be used") && log.contains("ead-only"), "{log}");
    });
}

#[test]
fn a_directory_in_which_no_socket_can_be_made_is_told_by_name() {
    in_private_machine(|| {
        let mut daemon = start_deprived(|| read_only("/var/run/orders"), &[]);
        let (status, _) = daemon.end();
        assert_eq!(status.code(), Some(Exit::Failed.status().into()));
        let log = daemon.log();
        assert!(log.contains("/var/run/orders/s") && log.contains("ead-only"), "{log}");
    });
}
