//! What a link does with IPv6 on its own account, as far as only files under `/proc/sys` tell it.
//!
//! The kernel compares a path there with the entries of every namespace that was ever asked for it, one by one, before it
//! finds the one that counts: 0.25 ms beside a thousand containers. So the directory is looked up once and held.

use super::HostError;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::OnceLock;

/// Where every link that has IPv6 has a directory of settings.
const LINKS: &str = "/proc/sys/net/ipv6/conf";

/// The settings of the links of one network namespace. To be used in that namespace only: elsewhere the kernel forgets
/// what it looked up.
#[derive(Debug)]
pub(crate) struct LinksV6(Option<OwnedFd>);

impl LinksV6 {
    /// Those of the namespace of the current thread.
    pub(crate) fn open() -> Result<Self, HostError> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        match open(LINKS, flags, Mode::empty()) {
            Ok(directory) => Ok(Self(Some(directory))),
            // The kernel has no IPv6.
            Err(Errno::ENOENT) => Ok(Self(None)),
            Err(errno) => Err(HostError::errno(format!("open {LINKS}"), errno)),
        }
    }

    /// Has a link believe no router that announces itself: whoever shares the link could otherwise take the traffic of all
    /// others, and of the host. A link that is to carry IPv6 does so, also where new links are not meant to, as in the
    /// containers of some runtimes. The link should be down still.
    pub(crate) fn prepare(&self, link: &str, carries: bool) -> Result<(), HostError> {
        // The kernel takes its great lock to switch IPv6, so it is not told what it knows.
        if carries && self.is_set(link, "disable_ipv6")? {
            self.clear(link, "disable_ipv6")?;
        }
        self.clear(link, "accept_ra")
    }

    fn is_set(&self, link: &str, setting: &str) -> Result<bool, HostError> {
        let mut value = [0];
        let Some(mut file) = self.file(link, setting, OFlag::O_RDONLY)? else { return Ok(false) };
        let read = file.read(&mut value).map_err(|error| HostError::io(format!("read {setting} of {link}"), error))?;
        Ok(read == 1 && value != *b"0")
    }

    fn clear(&self, link: &str, setting: &str) -> Result<(), HostError> {
        let Some(mut file) = self.file(link, setting, OFlag::O_WRONLY)? else { return Ok(()) };
        file.write_all(b"0").map_err(|error| HostError::io(format!("set {setting} of {link}"), error))
    }

    /// `None` where the link has no IPv6, because the kernel has none or the MTU is too small for it.
    fn file(&self, link: &str, setting: &str, mode: OFlag) -> Result<Option<File>, HostError> {
        let Some(directory) = &self.0 else { return Ok(None) };
        match openat(directory, &*Path::new(link).join(setting), mode | OFlag::O_CLOEXEC, Mode::empty()) {
            Ok(file) => Ok(Some(file.into())),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(HostError::errno(format!("open {setting} of {link}"), errno)),
        }
    }
}

/// Whether this kernel has IPv6.
pub(crate) fn has_v6() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| Path::new(LINKS).exists())
}
