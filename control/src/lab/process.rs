//! Daemons under test: started in a node, their words kept, ended with certainty. And the directories they work in.
//!
//! A [`Keeper`] knows all of both, so that nothing is left behind when the program ends: not by a return, not by an
//! error, not by Ctrl-C. (Only a killed program cannot keep that promise.)

use crate::host::{HostError, Netns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// What a daemon gets to end by itself before it is killed.
const GRACE: Duration = Duration::from_secs(3);

/// Bytes shown of the end of a log.
const TAIL_BYTES: usize = 2_000;

/// Keeps account of processes and directories. Clones keep the same account.
#[derive(Clone, Debug, Default)]
pub struct Keeper(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    closed: bool,
    children: Vec<Arc<Mutex<Child>>>,
    directories: Vec<PathBuf>,
}

/// A process of ours. Dropping it ends it.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    child: Arc<Mutex<Child>>,
    log: PathBuf,
}

/// A directory for sockets, data and logs, for its owner's eyes only. Dropping it removes it.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Keeper {
    /// Starts `command` in `netns`, without input, its output going to the file `log`. It gets a process group of its
    /// own, so that Ctrl-C at the terminal reaches only us, who end it in order.
    ///
    /// # Errors
    /// [`HostError::NotFound`] where the program is missing, [`HostError::Closed`] after [`Keeper::clear`].
    pub fn start(&self, netns: &Netns, command: &mut Command, log: &Path) -> Result<Process, HostError> {
        let open = || File::options().create(true).append(true).open(log);
        let what = || format!("open {}", log.display());
        let stdout = open().map_err(|error| HostError::io(what(), error))?;
        let stderr = open().map_err(|error| HostError::io(what(), error))?;
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).process_group(0);
        // The account stays locked over the start: a signal finds the process either kept or never started.
        let mut kept = lock(&self.0);
        if kept.closed {
            return Err(HostError::Closed { what: "start a process".into() });
        }
        let child = netns.spawn(command)?;
        let pid = child.id();
        let child = Arc::new(Mutex::new(child));
        kept.children.retain(|child| ended(child).is_none());
        kept.children.push(Arc::clone(&child));
        Ok(Process { pid, child, log: log.into() })
    }

    /// Makes a directory among the system's temporary files. Its path is short enough for Unix sockets in it.
    ///
    /// # Errors
    /// The error of making the directory.
    pub fn scratch(&self) -> io::Result<Scratch> {
        let path = std::env::temp_dir().join(format!("ginnel-lab-{:08x}", rand::random::<u32>()));
        let mut kept = lock(&self.0);
        DirBuilder::new().mode(0o700).create(&path)?;
        kept.directories.push(path.clone());
        Ok(Scratch(path))
    }

    /// Ends every process and removes every directory. Nothing can be started afterwards.
    pub fn clear(&self) {
        let mut kept = lock(&self.0);
        kept.closed = true;
        // All are asked before any is waited for.
        kept.children.iter().for_each(|child| ask(child));
        kept.children.drain(..).for_each(|child| end(&child));
        for directory in kept.directories.drain(..) {
            let _ = fs::remove_dir_all(directory);
        }
    }

    /// From now on SIGINT, SIGTERM and SIGHUP clear everything and end the program with status 130.
    ///
    /// # Errors
    /// The error of watching signals.
    pub fn clear_on_signal(&self) -> io::Result<()> {
        let keeper = self.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (mut interrupt, mut terminate, mut hangup) = {
            let _guard = runtime.enter();
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?)
        };
        thread::Builder::new().name("signals".into()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hangup.recv() => {}
                }
            });
            keeper.clear();
            std::process::exit(130);
        })?;
        Ok(())
    }
}

impl Process {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// How it ended, if it has.
    #[must_use]
    pub fn ended(&self) -> Option<ExitStatus> {
        ended(&self.child)
    }

    /// The end of what it said.
    #[must_use]
    pub fn last_words(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(TAIL_BYTES)..]).trim().to_owned()
    }

    /// Asks it to end, and kills it where it does not within a few seconds.
    pub fn stop(&self) {
        end(&self.child);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Scratch {
    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A panic elsewhere does not make the account wrong.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn ended(child: &Mutex<Child>) -> Option<ExitStatus> {
    lock(child).try_wait().ok().flatten()
}

fn ask(child: &Mutex<Child>) {
    let mut child = lock(child);
    // A child that has been waited for no longer owns its number.
    if let (Ok(None), Ok(pid)) = (child.try_wait(), i32::try_from(child.id())) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
}

fn end(child: &Mutex<Child>) {
    ask(child);
    let asked = Instant::now();
    while asked.elapsed() < GRACE {
        if ended(child).is_some() {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    let mut child = lock(child);
    let _ = child.kill();
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::rights_or_skip;
    use std::os::unix::fs::PermissionsExt;

    fn shell(keeper: &Keeper, script: &str, log: &Path) -> Process {
        let netns = Netns::create().unwrap();
        keeper.start(&netns, Command::new("sh").args(["-c", script]), log).unwrap()
    }

    #[test]
    fn a_process_is_heard_and_ended() {
        if !rights_or_skip() {
            return;
        }
        let keeper = Keeper::default();
        let scratch = keeper.scratch().unwrap();
        let log = scratch.path().join("log");
        let process = shell(&keeper, "echo ready; echo trouble >&2; exec sleep 60", &log);
        let start = Instant::now();
        while !process.last_words().contains("trouble") {
            assert!(start.elapsed() < Duration::from_secs(10));
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(process.last_words(), "ready\ntrouble");
        assert!(process.ended().is_none());
        let pid = process.pid();
        drop(process);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
        assert!(start.elapsed() < GRACE + Duration::from_secs(10));
    }

    #[test]
    fn a_deaf_process_is_killed() {
        if !rights_or_skip() {
            return;
        }
        let keeper = Keeper::default();
        let scratch = keeper.scratch().unwrap();
        let log = scratch.path().join("log");
        let process = shell(&keeper, "trap '' TERM; echo deaf; while :; do sleep 0.1; done", &log);
        while process.last_words().is_empty() {
            thread::sleep(Duration::from_millis(5));
        }
        process.stop();
        assert!(process.ended().is_some());
    }

    #[test]
    fn a_scratch_is_private_and_goes() {
        let keeper = Keeper::default();
        let scratch = keeper.scratch().unwrap();
        let path = scratch.path().to_owned();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        fs::write(path.join("file"), "x").unwrap();
        drop(scratch);
        assert!(!path.exists());
    }

    #[test]
    fn a_keeper_clears_everything() {
        if !rights_or_skip() {
            return;
        }
        let keeper = Keeper::default();
        let scratch = keeper.scratch().unwrap();
        let log = scratch.path().join("log");
        let processes = [shell(&keeper, "exec sleep 60", &log), shell(&keeper, "exec sleep 60", &log)];
        keeper.clear();
        assert!(processes.iter().all(|process| process.ended().is_some()));
        assert!(!scratch.path().exists());
        let late = keeper.start(&Netns::create().unwrap(), &mut Command::new("true"), Path::new("/dev/null"));
        assert!(matches!(late, Err(HostError::Closed { .. })));
    }
}
