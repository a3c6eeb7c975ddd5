//! A stand-in for a container: a process with a network namespace of its own and nothing in it.

use super::traffic::End;
use crate::host::{HostError, Netns};
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};

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
        let netns = Netns::create()?;
        // It waits for the end of a pipe that only we could write to.
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        Ok(Self { child: netns.spawn(&mut command)?, netns })
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

impl Drop for Container {
    fn drop(&mut self) {
        self.kill();
    }
}
