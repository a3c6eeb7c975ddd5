//! Bare devices as processes. Each test starts the test program again and again in the roles of launcher and device
//! process; in these roles the test is the program, around a device without a kernel.

use super::*;
use crate::temp_dir::TempDir;
use crate::uapi::testing::{FakeDevice, in_private_run};
use clap::Parser;
use ginnel_backends::device::DeviceState;
use ginnel_engine::command::DeviceUpdate;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::{Pid, getsid};
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

/// Set where a test is to be the program: the command line behind `ginnel device`.
const ARGS_VARIABLE: &str = "GINNEL_TEST_DEVICE_ARGS";
/// And its directory for control sockets.
const DIRECTORY_VARIABLE: &str = "GINNEL_TEST_DEVICE_DIRECTORY";

/// A change of the mark to this makes the device lose its interface.
const FATAL_MARK: u32 = 0xdead;
/// A device of this name cannot be opened.
const REFUSED: &str = "refused0";

#[test]
fn goes_to_the_background_when_ready() {
    test_or_program("goes_to_the_background_when_ready", |program| {
        let launched = program.run(&["wg0"]);
        assert!(launched.status.success(), "{launched:?}");
        let device = program.device("wg0");
        assert_eq!(device.ask("get=1\n\n"), "errno=0\n\n");
        assert_eq!(getsid(Some(device.pid)), Ok(device.pid), "a session of its own");
        assert_eq!(device.link("cwd"), Path::new("/"));
        for descriptor in ["fd/0", "fd/1", "fd/2"] {
            wait_until("the streams are given up", || device.link(descriptor) == Path::new("/dev/null"));
        }
        device.signal(Signal::SIGTERM);
        wait_until("the socket is removed", || !device.socket.exists());
        wait_until("the process ends", || device.is_gone());
    });
}

#[test]
fn keeps_its_errors_where_logs_are_asked_for() {
    test_or_program("keeps_its_errors_where_logs_are_asked_for", |program| {
        let log = program.directory.join("log");
        let stderr = std::fs::File::create(&log).unwrap();
        let status = program.command(&["wg0"]).env("LOG_LEVEL", "verbose").stderr(stderr).status().unwrap();
        assert!(status.success());
        let device = program.device("wg0");
        wait_until("the output is given up", || device.link("fd/1") == Path::new("/dev/null"));
        assert_eq!(device.link("fd/2"), log);
    });
}

#[test]
fn a_failing_start_fails_the_launcher_with_its_reason() {
    test_or_program("a_failing_start_fails_the_launcher_with_its_reason", |program| {
        let launched = program.run(&[REFUSED]);
        assert!(!launched.status.success());
        let errors = String::from_utf8_lossy(&launched.stderr).into_owned();
        assert!(errors.contains("the interface refused0 exists already"), "{errors}");
        assert!(!program.socket(REFUSED).exists());
    });
}

#[test]
fn a_second_device_of_a_name_is_refused() {
    test_or_program("a_second_device_of_a_name_is_refused", |program| {
        assert!(program.run(&["wg0"]).status.success());
        let first = program.device("wg0");
        let second = program.run(&["wg0"]);
        assert!(!second.status.success());
        let errors = String::from_utf8_lossy(&second.stderr).into_owned();
        assert!(errors.contains("a program answers at"), "{errors}");
        assert_eq!(first.ask("get=1\n\n"), "errno=0\n\n");
    });
}

#[test]
fn stays_in_the_foreground_when_told_and_ends_on_signals() {
    test_or_program("stays_in_the_foreground_when_told_and_ends_on_signals", |program| {
        for (args, variable, signal) in [
            (&["-f", "wg0"][..], "0", Signal::SIGTERM),
            (&["--foreground", "wg0"], "0", Signal::SIGINT),
            (&["wg0"], "1", Signal::SIGTERM),
        ] {
            let child = program.command(args).env("WG_PROCESS_FOREGROUND", variable).spawn().unwrap();
            let device = program.device("wg0");
            assert_eq!(device.pid.as_raw(), i32::try_from(child.id()).unwrap(), "{args:?}");
            device.signal(signal);
            assert!(finish(child).status.success(), "{args:?}");
            assert!(!device.socket.exists(), "{args:?}");
        }
    });
}

#[test]
fn ends_with_its_interface() {
    test_or_program("ends_with_its_interface", |program| {
        let child = program.command(&["-f", "wg0"]).spawn().unwrap();
        let device = program.device("wg0");
        device.ask(&format!("set=1\nfwmark={FATAL_MARK}\n\n"));
        assert!(finish(child).status.success());
        assert!(!device.socket.exists());
    });
}

#[test]
fn ends_with_its_socket() {
    test_or_program("ends_with_its_socket", |program| {
        let child = program.command(&["-f", "wg0"]).spawn().unwrap();
        let device = program.device("wg0");
        std::fs::remove_file(&device.socket).unwrap();
        assert!(finish(child).status.success());
    });
}

#[test]
fn serves_wg_like_wg_quick_does() {
    test_or_program("serves_wg_like_wg_quick_does", |program| {
        let program = Program { test: program.test, directory: PathBuf::from(uapi::DIRECTORY) };
        in_private_run(move || {
            let wg = |arguments: &str| {
                let output = Command::new("/usr/bin/wg").args(arguments.split_whitespace()).output().unwrap();
                assert!(output.status.success(), "wg {arguments}: {output:?}");
                String::from_utf8(output.stdout).unwrap()
            };
            // Up: the implementation goes to the background, and the very next command configures it.
            assert!(program.run(&["wg0"]).status.success());
            std::fs::write("/var/run/conf", "[Interface]\nListenPort = 51820\nFwMark = 0xca6c\n").unwrap();
            wg("addconf wg0 /var/run/conf");
            let device = program.device("wg0");
            assert_eq!(wg("show wg0 listen-port"), "51820\n");
            assert_eq!(wg("show interfaces"), "wg0\n");
            // Down: the interface is deleted, and everything goes with it.
            device.ask(&format!("set=1\nfwmark={FATAL_MARK}\n\n"));
            wait_until("the process ends", || device.is_gone());
            assert_eq!(wg("show interfaces").trim(), "");
        });
    });
}

#[test]
fn command_lines() {
    let defaults = parse(&["wg0"]).unwrap();
    assert_eq!((defaults.foreground, defaults.mtu, defaults.workers), (false, 1420, 0));
    assert!(defaults.offload_off.is_empty());
    let full = ["-f", "--mtu", "9000", "--workers", "4", "--offload-off", "tun_tcp", "--offload-off", "tun_udp", "wg0"];
    let options = parse(&full).unwrap().options();
    assert_eq!((options.name.as_str(), options.mtu, options.workers, options.pinned), ("wg0", 9000, 4, false));
    assert_eq!(options.offloads_off, [Offload::TunTcp, Offload::TunUdp]);
    for wrong in [
        &[][..],
        &["wg0", "wg1"],
        &["--mtu", "100", "wg0"],
        &["--mtu", "65535", "wg0"],
        &["--workers", "257", "wg0"],
        &["--workers", "-1", "wg0"],
    ] {
        assert!(parse(wrong).is_err(), "{wrong:?}");
    }
    let error = parse(&["--offload-off", "everything", "wg0"]).unwrap_err().to_string();
    assert!(error.contains("link_segmentation"), "{error}");
}

fn parse(args: &[&str]) -> Result<DeviceArgs, clap::Error> {
    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: DeviceArgs,
    }
    Line::try_parse_from(["device"].iter().chain(args)).map(|line| line.args)
}

/// Runs `test`; or, in a process that the test started, the program.
fn test_or_program(name: &'static str, test: impl FnOnce(&Program)) {
    let Ok(args) = std::env::var(ARGS_VARIABLE) else {
        let temp = TempDir::new();
        return test(&Program { test: name, directory: temp.path().to_owned() });
    };
    // Whatever goes wrong with the test, its processes are not for long.
    std::thread::spawn(|| {
        std::thread::sleep(Duration::from_secs(60));
        std::process::exit(3);
    });
    let args: Vec<_> = args.split_whitespace().collect();
    let directory = std::env::var_os(DIRECTORY_VARIABLE).expect("set together with the arguments");
    let args = parse(&args).expect("the test knows the options");
    if let Err(error) = run_with(&args, &Environment::read(), Path::new(&directory), TestDevice::open) {
        panic!("{error}");
    }
}

/// The test program in the role of `ginnel device`.
struct Program {
    test: &'static str,
    directory: PathBuf,
}

impl Program {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--quiet", "--nocapture", "--exact", &format!("bare::tests::{}", self.test)])
            .env(ARGS_VARIABLE, args.join(" "))
            .env(DIRECTORY_VARIABLE, &self.directory)
            .env_remove("LOG_LEVEL")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    /// Runs to the end. A background process that kept one of our pipes would hang this.
    fn run(&self, args: &[&str]) -> Output {
        finish(self.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    fn socket(&self, interface: &str) -> PathBuf {
        self.directory.join(format!("{interface}.sock"))
    }

    /// The process behind a control socket, once it answers.
    fn device(&self, interface: &str) -> DeviceProcess {
        let socket = self.socket(interface);
        wait_until("the device answers", || UnixStream::connect(&socket).is_ok());
        let stream = UnixStream::connect(&socket).unwrap();
        let pid = Pid::from_raw(getsockopt(&stream, PeerCredentials).unwrap().pid());
        DeviceProcess { socket, pid }
    }
}

/// A device process. Dropping it ends the process.
struct DeviceProcess {
    socket: PathBuf,
    pid: Pid,
}

impl DeviceProcess {
    fn ask(&self, request: &str) -> String {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        // The device may end over the request.
        let _ = stream.read_to_string(&mut answer);
        answer
    }

    fn link(&self, name: &str) -> PathBuf {
        std::fs::read_link(format!("/proc/{}/{name}", self.pid)).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill(self.pid, signal).unwrap();
    }

    /// Ended, whether or not somebody has collected its status.
    fn is_gone(&self) -> bool {
        std::fs::read_to_string(format!("/proc/{}/stat", self.pid))
            .map_or(true, |stat| stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')))
    }
}

impl Drop for DeviceProcess {
    fn drop(&mut self) {
        // The socket is the device's as long as it lives, so its number cannot belong to another process.
        if UnixStream::connect(&self.socket).is_ok() {
            let _ = kill(self.pid, Signal::SIGKILL);
        }
    }
}

fn finish(child: Child) -> Output {
    child.wait_with_output().unwrap()
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(20), "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A device without a kernel that loses its interface on demand.
struct TestDevice {
    fake: FakeDevice,
    events: Mutex<Option<Receiver<Event>>>,
    sender: Mutex<Sender<Event>>,
}

impl TestDevice {
    fn open(options: &DeviceOptions) -> Result<Self, DeviceError> {
        if options.name == REFUSED {
            return Err(DeviceError::Exists(options.name.clone()));
        }
        let (sender, events) = channel();
        let fake = FakeDevice::new(&options.name);
        Ok(Self { fake, events: Mutex::new(Some(events)), sender: Mutex::new(sender) })
    }
}

impl Configurable for TestDevice {
    fn apply(&self, update: DeviceUpdate) -> Result<(), DeviceError> {
        if update.fwmark == Some(FATAL_MARK) {
            let _ = self.sender.lock().unwrap().send(Event::PortClosed { errno: 77 });
        }
        self.fake.apply(update)
    }

    fn state(&self) -> DeviceState {
        self.fake.state()
    }
}

impl BareDevice for TestDevice {
    fn name(&self) -> String {
        self.state().name
    }

    fn take_events(&self) -> Option<Receiver<Event>> {
        self.events.lock().unwrap().take()
    }
}
