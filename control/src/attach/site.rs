//! Where an attachment is made: the host on one side, the container on the other.

use crate::host::ipv6::LinksV6;
use crate::host::request::{Outcome, Request};
use crate::host::socket::{Exchange, Socket};
use crate::host::{Helper, HostError, Netns};
/// The two sides, as the steps of an attachment need them. Tests put one in between that fails.
pub(super) trait Site {
    /// Carries out requests on the host.
    fn host(&mut self, requests: &[Request]) -> Vec<Outcome>;

    /// Carries out requests in the container.
    fn inside(&mut self, requests: &[Request]) -> Vec<Outcome>;

    /// See [`LinksV6::prepare`], for a link of the host.
    fn prepare_v6(&mut self, link: &str, carries: bool) -> Result<(), HostError>;

    /// The same for links of the container.
    fn prepare_v6_inside(&mut self, links: &[(&str, bool)]) -> Result<(), HostError>;

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
        self.helper.links_v6()?.prepare(link, carries)
    }

    fn prepare_v6_inside(&mut self, links: &[(&str, bool)]) -> Result<(), HostError> {
        self.helper.inside(self.netns, || {
            let settings = LinksV6::open()?;
            links.iter().try_for_each(|(link, carries)| settings.prepare(link, *carries))
        })?
    }

    fn netns(&self) -> &Netns {
        self.netns
    }
}
