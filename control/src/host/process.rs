//! Processes of others, whose number means the same one for as long as it is held.
//!
//! A process id alone is a poor name: the kernel gives it to another process once its owner has been waited for. A
//! [`Process`] holds a pidfd, which never changes hands and by which [`super::Endings`] notices its end, and a
//! [`ProcessId`] adds the time the process started, so that it can be written down and compared after a restart of the
//! daemon. The times of another boot mean nothing; neither do links of another boot.

use super::{HostError, Netns};
use ginnel_backends::linux::open_pidfd;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Where the time of the start is in `/proc/pid/stat`, counted from behind the name: field 22 of proc(5), less the two
/// fields before.
const START_FIELD: usize = 19;

/// What tells a process from every other of this boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProcessId {
    /// Its number.
    pub pid: u32,
    /// When it started, in clock ticks since boot (proc(5), `starttime`).
    pub started: u64,
}

/// A process, held by a descriptor.
#[derive(Debug)]
pub struct Process {
    id: ProcessId,
    pidfd: OwnedFd,
}

impl Process {
    /// Takes hold of the process with this number.
    ///
    /// # Errors
    /// [`HostError::NotFound`] where there is none, also where it ended and has not been waited for;
    /// [`HostError::Unsupported`] before Linux 5.3.
    pub fn open(pid: u32) -> Result<Self, HostError> {
        let what = || format!("find process {pid}");
        let pidfd = open_pidfd(pid).map_err(|error| HostError::io(what(), error))?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).map_err(|error| HostError::io(what(), error))?;
        let started = start(&stat).ok_or_else(|| HostError::answer(what(), "/proc/pid/stat has no start time"))?;
        let process = Self { id: ProcessId { pid, started }, pidfd };
        // Only now is it certain that the file was that of the process held, and not of a successor.
        if process.has_ended()? { Err(HostError::NotFound { what: what() }) } else { Ok(process) }
    }

    /// What tells it from others.
    #[must_use]
    pub fn id(&self) -> ProcessId {
        self.id
    }

    /// Whether it has ended.
    ///
    /// # Errors
    /// [`HostError::System`] where the kernel could not be asked.
    pub fn has_ended(&self) -> Result<bool, HostError> {
        let mut wanted = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut wanted, PollTimeout::ZERO);
        ready.map(|ready| ready > 0).map_err(|errno| HostError::errno(format!("watch process {}", self.id.pid), errno))
    }

    /// Its network namespace.
    ///
    /// # Errors
    /// [`HostError::NotFound`] where it has ended, [`HostError::Ptrace`] where the namespace may not be looked at.
    pub fn netns(&self) -> Result<Netns, HostError> {
        let netns = Netns::of_process(self.id.pid)?;
        if self.has_ended()? {
            return Err(HostError::NotFound { what: format!("find process {}", self.id.pid) });
        }
        Ok(netns)
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// The name is in brackets and may hold anything, brackets and blanks included.
fn start(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(START_FIELD)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::rights_or_skip;
    use std::process::{Child, Command};
    use std::time::{Duration, Instant};

    /// Set where a test runs a second time.
    const INSIDE: &str = "GINNEL_TEST_INSIDE";

    fn sleeper() -> Child {
        Command::new("sleep").arg("60").spawn().unwrap()
    }

    fn end(mut child: Child) {
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_process_that_ended_is_gone_before_anybody_waited_for_it() {
        let mut child = sleeper();
        let process = Process::open(child.id()).unwrap();
        assert!(!process.has_ended().unwrap());
        child.kill().unwrap();
        let start = Instant::now();
        while !process.has_ended().unwrap() {
            assert!(start.elapsed() < Duration::from_secs(30));
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(process.netns().unwrap_err().is_not_found());
        assert!(Process::open(child.id()).unwrap_err().is_not_found());
        child.wait().unwrap();
        assert!(process.has_ended().unwrap());
    }

    /// Runs this test again as `wrapper … <test>`, where the variable is set.
    fn again_under(wrapper: &[&str], test: &str) {
        let mut command = Command::new(wrapper[0]);
        command.args(&wrapper[1..]).arg(std::env::current_exe().unwrap());
        let run = command.args(["--exact", "--nocapture", test]).env(INSIDE, "1").output().unwrap();
        let words = format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
        assert!(run.status.success() && words.contains("1 passed"), "{words}");
    }

    #[test]
    fn a_number_given_again_is_another_process() {
        if std::env::var_os(INSIDE).is_none() {
            if rights_or_skip() {
                // In a PID namespace of its own the next number can be chosen.
                let test = "host::process::tests::a_number_given_again_is_another_process";
                again_under(&["unshare", "--pid", "--fork", "--mount-proc"], test);
            }
            return;
        }
        let child = sleeper();
        let pid = child.id();
        let first = Process::open(pid).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        end(child);
        let child = loop {
            fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).unwrap();
            let child = sleeper();
            if child.id() == pid {
                break child;
            }
            end(child);
        };
        let second = Process::open(pid).unwrap();
        assert_eq!(first.id().pid, second.id().pid);
        assert_ne!(first.id(), second.id());
        assert!(first.has_ended().unwrap() && !second.has_ended().unwrap());
        assert!(first.netns().unwrap_err().is_not_found() && second.netns().is_ok());
        end(child);
    }

    #[test]
    fn a_namespace_that_may_not_be_looked_at_says_what_is_missing() {
        if std::env::var_os(INSIDE).is_none() {
            if rights_or_skip() {
                // As a daemon whose unit grants the rights to configure networks and no others.
                let child = sleeper();
                let test = "host::process::tests::a_namespace_that_may_not_be_looked_at_says_what_is_missing";
                let pid = format!("GINNEL_TEST_PID={}", child.id());
                let wrapper = ["env", &pid, "setpriv", "--bounding-set=-all,+net_admin,+sys_admin"];
                again_under(&wrapper, test);
                end(child);
            }
            return;
        }
        let pid = std::env::var("GINNEL_TEST_PID").unwrap().parse().unwrap();
        let error = Process::open(pid).unwrap().netns().unwrap_err();
        assert!(matches!(error, HostError::Ptrace { .. }), "{error}");
        assert!(error.to_string().contains("CAP_SYS_PTRACE"));
    }

    #[test]
    fn a_held_process_is_told_from_its_successor() {
        let child = sleeper();
        let first = Process::open(child.id()).unwrap();
        let again = Process::open(child.id()).unwrap();
        assert_eq!(first.id(), again.id());
        std::thread::sleep(Duration::from_millis(20));
        let other = sleeper();
        let second = Process::open(other.id()).unwrap();
        assert_ne!(first.id().started, second.id().started);
        end(child);
        end(other);
        assert!(first.has_ended().unwrap() && first.netns().unwrap_err().is_not_found());
    }

    #[test]
    fn names_do_not_confuse_the_start_time() {
        let rest = (3..=52).map(|field| field.to_string()).collect::<Vec<_>>().join(" ");
        for name in ["sleep", "a b", "x) S 1 2 3", "(((", "\n"] {
            assert_eq!(start(&format!("77 ({name}) {rest}\n")), Some(22), "{name:?}");
        }
        for broken in ["", "77", "77 (x)", "77 (x) S 1"] {
            assert_eq!(start(broken), None, "{broken:?}");
        }
    }
}
