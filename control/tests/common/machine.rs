//! A machine of a test's own, on which a daemon finds `/var/run`, `/var/lib` and the network of a fresh host, and leaves
//! nothing behind. And the daemons that run on it.

use super::{PATIENCE, on_own_ground};
use ginnel_control::host::{HostError, LinkInfo, Netlink, Netns};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Home of the daemons.
pub const HOME: &str = "/var/run/home";

/// Runs `test` on a machine of its own: `/var/run`, `/var/lib` and network. Prints why where that cannot be had.
pub fn in_private_machine(test: impl FnOnce() + Send) {
    on_own_ground(&[], || {
        let (kind, flags) = (Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV);
        mount(kind, "/var/lib", kind, flags, None::<&str>).expect("these mounts are the test's own");
        test();
    });
}

/// Asks the kernel of this machine.
pub fn ask_kernel<T: Send>(work: impl AsyncFnOnce(&Netlink) -> Result<T, HostError> + Send) -> T {
    Netns::current()
        .and_then(|netns| netns.configure(work))
        .expect("the network of the test's own machine is open to it")
}

/// The interface called `name`, if there is one.
pub fn link(name: &str) -> Option<LinkInfo> {
    ask_kernel(async |netlink| netlink.find_link(name).await)
}

/// The program under test, installed under `name`.
pub fn installed_as(name: &str) -> PathBuf {
    let path = Path::new("/var/run/bin").join(name);
    fs::create_dir_all("/var/run/bin").unwrap();
    match std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_ginneld"), &path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => panic!("{error}"),
        _ => path,
    }
}

/// A daemon. Dropping it kills it.
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts `program`; it may take a moment until it is ready.
    pub fn start(program: &Path, args: &[&str]) -> Self {
        Self::start_with(program, args, &[])
    }

    /// Starts `program` with variables of its environment.
    pub fn start_with(program: &Path, args: &[&str], variables: &[(&str, &str)]) -> Self {
        let log =
            (0..).map(|number| PathBuf::from(format!("/var/run/log.{number}"))).find(|path| !path.exists()).unwrap();
        let mut command = Command::new(program);
        for variable in ["ZLAYER_DATA_DIR", "RUST_LOG", "NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_PID"] {
            command.env_remove(variable);
        }
        // Log files of the drop-in go there.
        command.env("HOME", HOME);
        command.args(args).envs(variables.iter().copied()).stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.stderr(File::create(&log).unwrap()).spawn().unwrap();
        Self { child, log }
    }

    /// What it has said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// Waits for its end. Returns how it ended and how long that took.
    pub fn end(&mut self) -> (ExitStatus, Duration) {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status, start.elapsed());
            }
            assert!(start.elapsed() < PATIENCE, "the daemon does not end:\n{}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            println!("the daemon said:\n{}", self.log());
        }
    }
}
