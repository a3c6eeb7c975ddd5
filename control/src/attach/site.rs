//! Where an attachment is made: the host on one side, the container on the other.

use crate::host::request::{Outcome, Request};
use crate::host::socket::{Exchange, Socket};
use crate::host::{Helper, HostError, Netns};
use std::fs;
use std::io;
use std::path::Path;

/// The two sides, as the steps of an attachment need them. Tests put one in between that fails.
pub(super) trait Site {
    /// Carries out requests on the host.
    fn host(&mut self, requests: &[Request]) -> Vec<Outcome>;

    /// Carries out requests in the container.
    fn inside(&mut self, requests: &[Request]) -> Vec<Outcome>;

    /// Has a link of the host believe no router that announces itself.
    fn distrust_routers(&mut self, link: &str) -> Result<(), HostError>;

    /// Has a link of the container believe no router that announces itself.
    fn distrust_routers_inside(&mut self, link: &str) -> Result<(), HostError>;

    /// The namespace of the container.
    fn netns(&self) -> &Netns;
}

/// The real one, for the time of one job.
pub(super) struct Kernel<'a> {
    helper: &'a mut Helper,
    netns: &'a Netns,
    inside: Socket,
}

impl<'a> Kernel<'a> {
    /// Opens the container's side.
    ///
    /// # Errors
    /// [`HostError::Denied`] where its namespace may not be entered.
    pub(super) fn open(helper: &'a mut Helper, netns: &'a Netns) -> Result<Self, HostError> {
        let inside = helper.inside(netns, Socket::open)??;
        Ok(Self { helper, netns, inside })
    }
}

impl Site for Kernel<'_> {
    fn host(&mut self, requests: &[Request]) -> Vec<Outcome> {
        self.helper.socket().exchange(requests)
    }

    fn inside(&mut self, requests: &[Request]) -> Vec<Outcome> {
        self.inside.exchange(requests)
    }

    fn distrust_routers(&mut self, link: &str) -> Result<(), HostError> {
        distrust_routers(link)
    }

    fn distrust_routers_inside(&mut self, link: &str) -> Result<(), HostError> {
        // `/proc/sys/net` is that of the namespace of the thread that opens a file there.
        self.helper.inside(self.netns, || distrust_routers(link))?
    }

    fn netns(&self) -> &Netns {
        self.netns
    }
}

/// Whoever shares a link could otherwise announce itself as a router and take the traffic of all others, and of the host.
/// To be called in the namespace of the link.
pub(super) fn distrust_routers(link: &str) -> Result<(), HostError> {
    let settings = Path::new("/proc/sys/net/ipv6/conf").join(link);
    match fs::write(settings.join("accept_ra"), "0") {
        // A kernel without IPv6 has no routers to believe.
        Err(error) if error.kind() == io::ErrorKind::NotFound && !Path::new("/proc/sys/net/ipv6").exists() => Ok(()),
        other => other.map_err(|error| HostError::io(format!("set accept_ra of {link}"), error)),
    }
}
