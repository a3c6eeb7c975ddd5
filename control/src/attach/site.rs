//! Where an attachment is made: the host on one side, the container on the other.

use crate::host::request::{Outcome, Request};
use crate::host::socket::{Exchange, Socket};
use crate::host::{Helper, HostError, Netns};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What can be set of IPv6.
const SETTINGS: &str = "/proc/sys/net/ipv6";

/// The two sides, as the steps of an attachment need them. Tests put one in between that fails.
pub(super) trait Site {
    /// Carries out requests on the host.
    fn host(&mut self, requests: &[Request]) -> Vec<Outcome>;

    /// Carries out requests in the container.
    fn inside(&mut self, requests: &[Request]) -> Vec<Outcome>;

    /// See [`prepare_v6`], for a link of the host.
    fn prepare_v6(&mut self, link: &str, carries: bool) -> Result<(), HostError>;

    /// See [`prepare_v6`], for a link of the container.
    fn prepare_v6_inside(&mut self, link: &str, carries: bool) -> Result<(), HostError>;

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

    fn prepare_v6(&mut self, link: &str, carries: bool) -> Result<(), HostError> {
        prepare_v6(link, carries)
    }

    fn prepare_v6_inside(&mut self, link: &str, carries: bool) -> Result<(), HostError> {
        // `/proc/sys/net` is that of the namespace of the thread that opens a file there.
        self.helper.inside(self.netns, || prepare_v6(link, carries))?
    }

    fn netns(&self) -> &Netns {
        self.netns
    }
}

/// Has a link believe no router that announces itself: whoever shares the link could otherwise take the traffic of all
/// others, and of the host. A link that is to carry IPv6 does so, also where new links are not meant to, as in the
/// containers of some runtimes. To be called in the namespace of the link, while that is down.
pub(super) fn prepare_v6(link: &str, carries: bool) -> Result<(), HostError> {
    // The kernel takes its great lock to switch IPv6, so it is not told what it knows.
    if carries && fs::read(setting(link, "disable_ipv6")).is_ok_and(|value| value.starts_with(b"1")) {
        clear(link, "disable_ipv6")?;
    }
    clear(link, "accept_ra")
}

/// Whether the kernel has IPv6.
pub(super) fn has_v6() -> bool {
    Path::new(SETTINGS).exists()
}

fn clear(link: &str, name: &str) -> Result<(), HostError> {
    match fs::write(setting(link, name), "0") {
        // The link has no IPv6: the kernel has none, or the MTU is too small for it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(|error| HostError::io(format!("set {name} of {link}"), error)),
    }
}

fn setting(link: &str, name: &str) -> PathBuf {
    [SETTINGS, "conf", link, name].iter().collect()
}
