//! Network namespaces without names: a namespace lives as long as a descriptor, a process or a socket holds it, so
//! nothing is left behind when its owner dies.
//!
//! A thread that has entered a namespace is never reused: every entry happens on a thread made for it. This keeps
//! runtime workers, and whatever they do next, in the namespace they belong to.

use super::{HostError, Netlink};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::fstat;
use nix::sys::statfs::{FsType, fstatfs};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

/// The file system of namespaces (`NSFS_MAGIC` of `linux/magic.h`).
const NSFS_MAGIC: FsType = FsType(0x6e73_6673);

/// What tells a network namespace from others that exist at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NetnsId {
    device: u64,
    inode: u64,
}

impl NetnsId {
    /// Its number, as `/proc/<pid>/ns/net` and `lsns` show it. Another namespace may get it afterwards.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.inode
    }
}

/// A network namespace, held open. Clones hold the same one.
#[derive(Clone, Debug)]
pub struct Netns(Arc<OwnedFd>);

impl Netns {
    /// Makes a new namespace. It has a loopback link, which is down.
    ///
    /// # Errors
    /// [`HostError::Denied`] without `CAP_SYS_ADMIN` in the current user namespace.
    pub fn create() -> Result<Self, HostError> {
        let what = "create a network namespace";
        on_fresh_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| HostError::errno(what, errno))?;
            Self::current()
        })?
    }

    /// The namespace of the current thread.
    ///
    /// # Errors
    /// [`HostError::NotFound`] where `/proc` is not mounted.
    pub fn current() -> Result<Self, HostError> {
        Self::open("/proc/thread-self/ns/net")
    }

    /// The namespace of the process that has this number at the moment. A [`super::Process`] makes sure which that is.
    ///
    /// # Errors
    /// [`HostError::NotFound`] where there is no such process, [`HostError::Ptrace`] where it may not be looked at.
    pub fn of_process(pid: u32) -> Result<Self, HostError> {
        Self::open(&format!("/proc/{pid}/ns/net")).map_err(|error| match error {
            HostError::Denied { what } => HostError::Ptrace { what },
            other => other,
        })
    }

    /// The namespace that is mounted at `path`, such as `/run/netns/blue`.
    ///
    /// # Errors
    /// [`HostError::NotFound`] where there is no file, [`HostError::NotNetns`] where it is another one.
    pub fn at_path(path: &Path) -> Result<Self, HostError> {
        let what = || format!("open {}", path.display());
        // Without waiting for the other end of a pipe somebody put there.
        let file = File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path);
        Self::try_from(OwnedFd::from(file.map_err(|error| HostError::io(what(), error))?))
    }

    /// What tells it from every other namespace for as long as it is held.
    ///
    /// # Errors
    /// [`HostError::System`] where the kernel could not be asked.
    pub fn id(&self) -> Result<NetnsId, HostError> {
        let stat = fstat(self).map_err(|errno| HostError::errno("look at a network namespace", errno))?;
        Ok(NetnsId { device: stat.st_dev, inode: stat.st_ino })
    }

    /// Runs `work` in the namespace, on a thread of its own, and waits for it. What `work` opens stays in the namespace
    /// and may be used from anywhere. A panic of `work` goes on in the caller.
    ///
    /// # Errors
    /// [`HostError::Denied`] where the namespace may not be entered.
    pub fn run_in<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, HostError> {
        on_fresh_thread(|| {
            self.enter()?;
            Ok(work())
        })?
    }

    /// Runs asynchronous work in the namespace on a small tokio runtime of its own, and waits for it.
    ///
    /// # Errors
    /// As [`Netns::run_in`], and [`HostError::System`] where the runtime cannot be made.
    pub fn block_on<T: Send>(&self, work: impl AsyncFnOnce() -> T + Send) -> Result<T, HostError> {
        self.run_in(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| HostError::io("start a runtime", error))?;
            Ok(runtime.block_on(work()))
        })?
    }

    /// Runs netlink requests in the namespace and waits for them.
    ///
    /// # Errors
    /// As [`Netns::block_on`], and whatever `work` returns.
    pub fn configure<T: Send>(
        &self,
        work: impl AsyncFnOnce(&Netlink) -> Result<T, HostError> + Send,
    ) -> Result<T, HostError> {
        self.block_on(async || work(&Netlink::open()?).await)?
    }

    /// Starts a thread that does `work` in the namespace.
    ///
    /// # Errors
    /// [`HostError::System`] where no thread can be started. That the namespace may not be entered is the result of the
    /// thread.
    pub fn spawn_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<Result<T, HostError>>, HostError> {
        let netns = self.clone();
        thread::Builder::new()
            .spawn(move || {
                netns.enter()?;
                Ok(work())
            })
            .map_err(|error| HostError::io("start a thread", error))
    }

    /// Starts a process in the namespace. The thread that does it is gone afterwards, so a parent-death signal must not
    /// be asked for.
    ///
    /// # Errors
    /// [`HostError::NotFound`] where the program is missing, and as [`Netns::run_in`].
    pub fn spawn(&self, command: &mut Command) -> Result<Child, HostError> {
        let what = format!("start {}", command.get_program().display());
        self.run_in(|| command.spawn())?.map_err(|error| HostError::io(what, error))
    }

    /// Brings the loopback link up.
    ///
    /// # Errors
    /// [`HostError`] where the namespace may not be changed.
    pub fn bring_lo_up(&self) -> Result<(), HostError> {
        self.configure(async |netlink| {
            let lo = netlink.link("lo").await?;
            netlink.set_up(lo.index, true).await
        })
    }

    fn open(path: &str) -> Result<Self, HostError> {
        let file = File::open(path).map_err(|error| HostError::io(format!("open {path}"), error))?;
        Ok(Self(Arc::new(file.into())))
    }

    /// Moves the current thread there.
    pub(super) fn enter(&self) -> Result<(), HostError> {
        setns(&*self.0, CloneFlags::CLONE_NEWNET).map_err(|errno| match errno {
            Errno::EINVAL => HostError::NotNetns,
            other => HostError::errno("enter a network namespace", other),
        })
    }
}

/// A descriptor that somebody passed.
impl TryFrom<OwnedFd> for Netns {
    type Error = HostError;

    fn try_from(fd: OwnedFd) -> Result<Self, HostError> {
        // The kernel has its namespaces in a file system of their own; which kind of namespace it is shows on entering.
        let kind = fstatfs(&fd).map_err(|errno| HostError::errno("look at a network namespace", errno))?;
        if kind.filesystem_type() == NSFS_MAGIC { Ok(Self(Arc::new(fd))) } else { Err(HostError::NotNetns) }
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn on_fresh_thread<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, HostError> {
    thread::scope(|scope| {
        let thread =
            thread::Builder::new().spawn_scoped(scope, work).map_err(|error| HostError::io("start a thread", error))?;
        thread.join().map_or_else(|panic| std::panic::resume_unwind(panic), Ok)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Process;
    use crate::lab::rights_or_skip;
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    #[test]
    fn a_new_namespace_is_another_and_the_caller_stays() {
        if !rights_or_skip() {
            return;
        }
        let current = || Netns::current().unwrap().id().unwrap();
        let before = current();
        let netns = Netns::create().unwrap();
        let inside = netns.run_in(current).unwrap();
        assert_eq!(inside, netns.id().unwrap());
        assert_ne!(inside, before);
        assert_eq!(current(), before);
    }

    #[test]
    fn sockets_opened_inside_work_outside() {
        if !rights_or_skip() {
            return;
        }
        let netns = Netns::create().unwrap();
        netns.bring_lo_up().unwrap();
        let listener = netns.run_in(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let client = netns.run_in(|| TcpStream::connect(address)).unwrap();
        assert!(client.is_ok());
        assert!(listener.accept().is_ok());
        let stranger = Netns::create().unwrap();
        assert!(stranger.run_in(|| TcpStream::connect(address)).unwrap().is_err());
    }

    #[test]
    fn children_start_inside() {
        if !rights_or_skip() {
            return;
        }
        let netns = Netns::create().unwrap();
        let mut child = netns.spawn(Command::new("sleep").arg("20")).unwrap();
        let found = Netns::of_process(child.id()).unwrap().id().unwrap();
        let process = Process::open(child.id()).unwrap();
        assert_eq!(process.netns().unwrap().id().unwrap(), found);
        let path = format!("/proc/{}/ns/net", child.id());
        assert_eq!(Netns::at_path(path.as_ref()).unwrap().id().unwrap(), found);
        let other_kind = Netns::at_path(format!("/proc/{}/ns/uts", child.id()).as_ref()).unwrap();
        assert!(matches!(other_kind.run_in(|| ()), Err(HostError::NotNetns)));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(Netns::of_process(child.id()).unwrap_err().is_not_found());
        assert_eq!(found, netns.id().unwrap());
        let missing = netns.spawn(&mut Command::new("/nonexistent/program")).unwrap_err();
        assert!(missing.is_not_found(), "{missing}");
    }

    #[test]
    fn a_file_that_is_no_namespace_is_refused() {
        assert!(matches!(Netns::at_path("/dev/null".as_ref()), Err(HostError::NotNetns)));
        assert!(Netns::at_path("/nonexistent/netns".as_ref()).unwrap_err().is_not_found());
        let passed = Netns::try_from(OwnedFd::from(File::open("/proc/self/stat").unwrap()));
        assert!(matches!(passed, Err(HostError::NotNetns)));
    }

    #[test]
    fn results_and_panics_come_back() {
        if !rights_or_skip() {
            return;
        }
        let netns = Netns::create().unwrap();
        assert_eq!(netns.block_on(async || 7).unwrap(), 7);
        let text = netns.spawn_thread(|| "done").unwrap().join().unwrap().unwrap();
        assert_eq!(text, "done");
        let panicked = std::panic::catch_unwind(|| netns.run_in(|| panic!("inside")));
        assert!(panicked.is_err());
    }
}
