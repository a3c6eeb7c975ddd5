//! Network namespaces without names: a namespace lives as long as a descriptor, a process or a socket holds it, so
//! nothing is left behind when its owner dies.
//!
//! A thread that has entered a namespace is never reused: every entry happens on a thread made for it. This keeps
//! runtime workers, and whatever they do next, in the namespace they belong to.

use super::{HostError, Netlink};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

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

    /// The namespace of a process.
    ///
    /// # Errors
    /// [`HostError::NotFound`] where there is no such process, [`HostError::Denied`] where it is somebody else's.
    pub fn of_process(pid: u32) -> Result<Self, HostError> {
        Self::open(&format!("/proc/{pid}/ns/net"))
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
        setns(&*self.0, CloneFlags::CLONE_NEWNET).map_err(|errno| HostError::errno("enter a network namespace", errno))
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
    use crate::lab::rights_or_skip;
    use nix::sys::stat::fstat;
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    fn inode(netns: &Netns) -> u64 {
        fstat(netns).unwrap().st_ino
    }

    #[test]
    fn a_new_namespace_is_another_and_the_caller_stays() {
        if !rights_or_skip() {
            return;
        }
        let before = inode(&Netns::current().unwrap());
        let netns = Netns::create().unwrap();
        let inside = netns.run_in(|| inode(&Netns::current().unwrap())).unwrap();
        assert_eq!(inside, inode(&netns));
        assert_ne!(inside, before);
        assert_eq!(inode(&Netns::current().unwrap()), before);
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
        let found = inode(&Netns::of_process(child.id()).unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found, inode(&netns));
        let missing = netns.spawn(&mut Command::new("/nonexistent/program")).unwrap_err();
        assert!(missing.is_not_found(), "{missing}");
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
