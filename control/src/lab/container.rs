//! A stand-in for a container: a process with a network namespace of its own and nothing in it.

use super::traffic::End;
use crate::host::{HostError, Netns};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::net::IpAddr;
use std::panic::resume_unwind;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::{fs, io, thread};

/// A process that waits in a namespace of its own. Dropping it ends the process, and the namespace with it unless somebody
/// else holds it; so does the death of this program, by whatever cause.
#[derive(Debug)]
pub struct Container {
    child: Child,
    netns: Netns,
}

impl Container {
    /// Starts one.
    ///
    /// # Errors
    /// [`HostError::Denied`] without the rights for namespaces, [`HostError::NotFound`] without `cat(1)`.
    pub fn start() -> Result<Self, HostError> {
        Self::wait_in(Netns::create()?)
    }

    fn wait_in(netns: Netns) -> Result<Self, HostError> {
        // It waits for the end of a pipe that only we could write to, and has nothing to say.
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped());
        Ok(Self { child: netns.spawn(&mut command)?, netns })
    }

    /// Starts one with a root directory of its own, which gets the programs of the host and nothing else.
    ///
    /// # Errors
    /// As [`Container::start`].
    pub fn start_rooted(root: &Path) -> Result<Self, HostError> {
        let netns = Netns::create()?;
        // On a thread, as it is for good.
        let start = || {
            enter_root(root).map_err(|error| HostError::io("make a root directory", error))?;
            Self::wait_in(netns)
        };
        thread::scope(|scope| scope.spawn(start).join()).unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its namespace.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The container as an end of traffic.
    #[must_use]
    pub fn end(&self, ip: IpAddr) -> End {
        End { netns: self.netns.clone(), ip }
    }

    /// Ends its process, and leaves the namespace to whoever holds it.
    pub fn kill(&mut self) {
        // It has ended already otherwise.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes `root` the root directory of this thread and of what it starts, in mounts of their own.
fn enter_root(root: &Path) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)?;
    for name in ["usr", "bin", "lib", "lib64"] {
        let (there, here) = (Path::new("/").join(name), root.join(name));
        match fs::symlink_metadata(&there) {
            // As /bin is to /usr/bin.
            Ok(found) if found.is_symlink() => std::os::unix::fs::symlink(fs::read_link(&there)?, &here)?,
            Ok(_) => {
                fs::create_dir(&here)?;
                mount(Some(&there), &here, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)?;
            }
            Err(_) => {}
        }
    }
    std::os::unix::fs::chroot(root)?;
    std::env::set_current_dir("/")
}

impl Drop for Container {
    fn drop(&mut self) {
        self.kill();
    }
}
