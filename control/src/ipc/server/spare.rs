//! A descriptor kept for the moment in which there is none: with it, a connection can be accepted and closed.

use nix::errno::Errno;
use std::fs::File;
use std::io;

/// The descriptor, or none for a moment.
#[derive(Debug)]
pub(super) struct Spare(Option<File>);

impl Spare {
    pub(super) fn new() -> Self {
        let mut spare = Self(None);
        spare.take_back();
        spare
    }

    /// Whether it is of use against this failure of `accept`.
    pub(super) fn helps(error: &io::Error) -> bool {
        [Errno::EMFILE, Errno::ENFILE].iter().any(|errno| error.raw_os_error() == Some(*errno as i32))
    }

    pub(super) fn is_ready(&self) -> bool {
        self.0.is_some()
    }

    /// Frees it; false where it was not there.
    pub(super) fn give_up(&mut self) -> bool {
        self.take_back();
        self.0.take().is_some()
    }

    /// Keeps one again; false where somebody else was faster.
    pub(super) fn take_back(&mut self) -> bool {
        if self.0.is_none() {
            self.0 = File::open("/dev/null").ok();
        }
        self.0.is_some()
    }
}
