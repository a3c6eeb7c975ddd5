//! The judgement of the firewall without a kernel, for doubles of the host: it accepts and refuses what the real one does.

use super::desired::{Change, Desired};
use super::error::FirewallError;
use super::state::State;

/// What the firewall was asked for so far.
#[derive(Debug, Default)]
pub(crate) struct Judge(State);

impl Judge {
    /// One that was asked for `desired`.
    pub(crate) fn of(desired: &Desired) -> Result<Self, FirewallError> {
        State::of(desired).map(|(state, _)| Self(state))
    }

    /// Makes all of `changes`, or none.
    pub(crate) fn change(&mut self, changes: Vec<Change>) -> Result<(), FirewallError> {
        self.0.make_all(changes).map(drop)
    }

    /// What it brings about.
    #[cfg(test)]
    pub(crate) fn desired(&self) -> &Desired {
        self.0.desired()
    }
}
