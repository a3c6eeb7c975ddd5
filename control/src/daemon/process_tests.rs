//! The daemon as a process, with doubles for device and host: signals, exit status, what is left behind.
//!
//! Each test starts this test binary again, told by the environment to be the daemon.

use super::*;
use crate::ipc::client::Client;
use crate::ipc::wire::{Request, Response, SetupGlobalOverlay};
use crate::node::fake::Lab;
use crate::temp_dir::TempDir;
use nix::sys::signal::{self as send, Signal as Number};
use nix::unistd::Pid;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

const DIR: &str = "GINNEL_TEST_DAEMON_DIR";
const HANGING: &str = "GINNEL_TEST_DAEMON_HANGS";

struct Process(Child);

impl Process {
    fn start(dir: &TempDir, hanging: bool) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "daemon::process_tests::being_the_daemon"]).env(DIR, dir.path());
        if hanging {
            command.env(HANGING, "1");
        }
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    fn signal(&self, number: Number) {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).unwrap());
        send::kill(pid, number).unwrap();
    }

    async fn end(&mut self) -> (ExitStatus, Duration) {
        let start = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return (status, start.elapsed());
            }
            assert!(start.elapsed() < Duration::from_secs(20), "the daemon does not end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn setup_in(dir: &Path) -> Setup {
    let args = DaemonArgs {
        config: Some(dir.join("ginneld.toml")),
        data_dir: Some(dir.join("state")),
        socket: Some(dir.join("s")),
        uapi_dir: Some(dir.join("wireguard")),
        ..DaemonArgs::default()
    };
    let file = setup::read_file(&args).unwrap_or_default();
    let setup = Setup::new(&args, &file, System::Ginnel, &Surroundings::default());
    Setup { group: "a-group-nobody-has".into(), teardown_time: Duration::from_millis(500), ..setup }
}

fn setup() -> Request {
    Request::SetupGlobalOverlay(SetupGlobalOverlay {
        deployment: "prod".into(),
        instance_id: "0".into(),
        cluster_cidr: "10.200.0.0/16".into(),
        slice_cidr: None,
        wg_port: 51420,
        host_adapter_mandatory: false,
        nat: None,
    })
}

async fn connect(dir: &TempDir) -> Client {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match Client::connect(dir.join("s")).await {
            Ok(client) => return client,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The daemon of the other tests; by itself it checks that a path which cannot be bound is an error.
#[test]
fn being_the_daemon() {
    let lab = Lab::default();
    let Some(dir) = std::env::var_os(DIR) else {
        let dir = TempDir::new();
        std::fs::write(dir.join("s"), "no socket").unwrap();
        let error = run_with(&setup_in(dir.path()), None, lab.clone(), || Ok(lab)).unwrap_err();
        assert!(matches!(error, DaemonError::Bind(BindError::NotASocket(_))));
        return;
    };
    if std::env::var_os(HANGING).is_some() {
        lab.close_gate();
    }
    run_with(&setup_in(Path::new(&dir)), None, lab.clone(), || Ok(lab.clone())).unwrap();
    if std::env::var_os(HANGING).is_none() {
        assert!(lab.world().links.is_empty(), "an interface was left");
    }
}

#[tokio::test]
async fn every_signal_ends_it_cleanly_every_time() {
    for round in 0..10 {
        let dir = TempDir::new();
        let mut process = Process::start(&dir, false);
        let mut client = connect(&dir).await;
        assert!(matches!(client.call(setup()).await.unwrap(), Response::BridgeName { .. }));
        process.signal(if round % 2 == 0 { Number::SIGTERM } else { Number::SIGINT });
        let (status, time) = process.end().await;
        assert!(status.success(), "{status}");
        assert!(time < Duration::from_secs(5), "{time:?}");
        assert!(!dir.join("s").exists());
        assert!(dir.join("state/private.key").exists());
    }
}

#[tokio::test]
async fn the_shutdown_request_is_answered_and_ends_it() {
    let dir = TempDir::new();
    let mut process = Process::start(&dir, false);
    let mut client = connect(&dir).await;
    client.call(setup()).await.unwrap();
    assert_eq!(client.call(Request::Shutdown).await.unwrap(), Response::Ok);
    assert!(process.end().await.0.success());
    assert!(!dir.join("s").exists());
}

#[tokio::test]
async fn a_setup_that_hangs_does_not_hold_up_the_end() {
    for second_signal in [false, true] {
        let dir = TempDir::new();
        let mut process = Process::start(&dir, true);
        let mut client = connect(&dir).await;
        let hanging = tokio::spawn(async move { client.call(setup()).await });
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(!hanging.is_finished());
        process.signal(Number::SIGTERM);
        if second_signal {
            tokio::time::sleep(Duration::from_millis(50)).await;
            process.signal(Number::SIGTERM);
        }
        let (status, time) = process.end().await;
        assert!(status.success(), "{status}");
        assert!(time < Duration::from_secs(5), "{time:?}");
        assert!(hanging.await.unwrap().is_err());
    }
}

#[tokio::test]
async fn a_second_daemon_refuses_and_the_first_goes_on() {
    let dir = TempDir::new();
    let _first = Process::start(&dir, false);
    let mut client = connect(&dir).await;
    // Same state directory, then a state directory of its own and the same socket.
    let mut second = Process::start(&dir, false);
    assert!(!second.end().await.0.success());
    let elsewhere = Setup { state_dir: dir.join("other"), ..setup_in(dir.path()) };
    let lab = Lab::default();
    let outcome =
        tokio::task::spawn_blocking(move || run_with(&elsewhere, None, lab.clone(), || Ok(lab))).await.unwrap();
    assert!(matches!(outcome, Err(DaemonError::Bind(BindError::InUse(_)))));
    assert!(client.call(Request::Status).await.is_ok());
    assert!(Client::connect(dir.join("s")).await.unwrap().call(Request::Status).await.is_ok());
}

#[tokio::test]
async fn what_a_killed_daemon_leaves_does_not_hinder_the_next() {
    let dir = TempDir::new();
    let mut killed = Process::start(&dir, false);
    connect(&dir).await;
    killed.signal(Number::SIGKILL);
    assert!(!killed.end().await.0.success());
    assert!(dir.join("s").exists());
    let mut next = Process::start(&dir, false);
    let deadline = Instant::now() + Duration::from_secs(20);
    while connect(&dir).await.call(Request::Status).await.is_err() {
        assert!(Instant::now() < deadline);
    }
    next.signal(Number::SIGTERM);
    assert!(next.end().await.0.success());
}
