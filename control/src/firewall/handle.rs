//! The firewall as its owner has it.

use super::desired::{Change, Desired};
use super::error::FirewallError;
use super::guard::Guard;
use super::health::{Drops, Health};
use super::inner::Inner;
use super::limits::INSTANCE_BYTES_MAX;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The firewall of one instance in one network namespace: that of the thread that started it.
///
/// Calls block for the time of a batch, a fraction of a millisecond, or while a repair is under way, some milliseconds. They
/// may come from any thread. When one returns, its rules hold: a container is fenced first and attached then. Connections of
/// a container or port that goes end some milliseconds later, in any case before its address is somebody else's.
///
/// Dropping it ends the watch and leaves the rules, so that containers stay fenced while a daemon is replaced; the next
/// [`Firewall::apply`] under the same name takes them over. [`Firewall::stop`] removes them.
#[derive(Debug)]
pub struct Firewall {
    inner: Arc<Mutex<Inner>>,
    guard: Mutex<Option<Guard>>,
}

impl Firewall {
    /// Starts the firewall called `instance`. Nothing is changed before the first [`Firewall::apply`] or
    /// [`Firewall::change`].
    ///
    /// # Errors
    /// [`FirewallError::Instance`], or [`FirewallError::Nft`] where the kernel has no netfilter.
    pub fn start(instance: &str) -> Result<Self, FirewallError> {
        check_instance(instance)?;
        let port = Arc::new(AtomicU32::new(0));
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let wake = Arc::new(EventFd::from_flags(flags).map_err(|errno| FirewallError::Guard(errno.into()))?);
        let inner = Arc::new(Mutex::new(Inner::open(instance, Arc::clone(&wake), Arc::clone(&port))?));
        let guard = Guard::start(instance, Arc::clone(&inner), wake, port)?;
        Ok(Self { inner, guard: Mutex::new(Some(guard)) })
    }

    /// Makes the ruleset what `desired` says, whatever it was, and tells whether anything was to be done.
    ///
    /// # Errors
    /// [`FirewallError`]; what was asked for before stays in force.
    pub fn apply(&self, desired: &Desired) -> Result<bool, FirewallError> {
        self.inner().apply(desired)
    }

    /// Makes all of `changes` at once, in their order, or none of them. Changing what is so already is no error.
    ///
    /// # Errors
    /// [`FirewallError`] of the first change that cannot be made.
    pub fn change(&self, changes: impl IntoIterator<Item = Change>) -> Result<(), FirewallError> {
        self.inner().change(changes.into_iter().collect())
    }

    /// How it is.
    #[must_use]
    pub fn health(&self) -> Health {
        self.inner().health()
    }

    /// How many packets were dropped, and why, since the rules were made.
    ///
    /// # Errors
    /// [`FirewallError`] where the kernel cannot be asked.
    pub fn drops(&self) -> Result<Drops, FirewallError> {
        self.inner().drops()
    }

    /// Removes every rule of ours, from the chains of others, too. Asking twice is no error.
    ///
    /// # Errors
    /// [`FirewallError`] where something could not be removed; then it is still watched over.
    pub fn stop(&self) -> Result<(), FirewallError> {
        self.inner().stop()?;
        let guard = self.guard.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(guard);
        Ok(())
    }

    /// A panic elsewhere does not make what is noted wrong: it is compared with the kernel at the next repair.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check_instance(instance: &str) -> Result<(), FirewallError> {
    let usable = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if (1..=INSTANCE_BYTES_MAX).contains(&instance.len()) && instance.bytes().all(usable) {
        Ok(())
    } else {
        Err(FirewallError::Instance(instance.into()))
    }
}
