//! Why a request to the host's network configuration failed, in the terms of a caller who wants to act on it.

use nix::errno::Errno;
use std::io;

/// A failed request. `what` names the request, such as `create link gnl0`.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The object is there already.
    #[error("{what}: it exists already")]
    Exists {
        /// The request.
        what: String,
    },
    /// The link, address, route or namespace is not there.
    #[error("{what}: there is no such object")]
    NotFound {
        /// The request.
        what: String,
    },
    /// The right to do it is missing.
    #[error(
        "{what}: not permitted; it needs CAP_NET_ADMIN, and to enter a network namespace CAP_SYS_ADMIN and a unit without \
         RestrictNamespaces=: run as root or in a user namespace of your own"
    )]
    Denied {
        /// The request.
        what: String,
    },
    /// The namespaces of a process may not be looked at (ptrace(2), "Ptrace access mode checking").
    #[error(
        "{what}: the kernel refuses it without CAP_SYS_PTRACE: add CAP_SYS_PTRACE to CapabilityBoundingSet= and \
         AmbientCapabilities= of the unit, or pass the network namespace as a path or a descriptor"
    )]
    Ptrace {
        /// The request.
        what: String,
    },
    /// An object that should be ours is somebody else's, and was left alone.
    #[error("{what}: {reason}; it was left alone: rename or remove it if nothing needs it")]
    Foreign {
        /// The request.
        what: String,
        /// How that shows.
        reason: String,
    },
    /// Too many requests wait.
    #[error("{what}: too many requests wait for the kernel; it hangs or is overloaded: see `dmesg`, try again later")]
    Busy {
        /// The request.
        what: String,
    },
    /// The kernel does not have the feature, such as a kind of link.
    #[error("{what}: this kernel does not support it; load the module or use a kernel that has it")]
    Unsupported {
        /// The request.
        what: String,
    },
    /// A setting may not be written.
    #[error("{what}: /proc/sys is read-only here; set ProtectKernelTunables=no in the unit, or mount it writable")]
    ReadOnly {
        /// The request.
        what: String,
    },
    /// A path or descriptor that leads elsewhere.
    #[error("this is no network namespace: pass /proc/<pid>/ns/net, a file under /run/netns, or a descriptor of one")]
    NotNetns,
    /// Not an interface name.
    #[error("{0:?} is no interface name: it needs 1 to 15 bytes without '/', ':', '%' or white space")]
    Name(String),
    /// Not the name of an instance.
    #[error("{0:?} is no name of an instance: it needs 1 to 120 bytes without ':' or white space")]
    Instance(String),
    /// Not the name of an object.
    #[error("{0:?} cannot mark a link: it is empty, too long (an alias has 255 bytes) or has control characters")]
    Object(String),
    /// The kernel refused for another reason, or could not be asked.
    #[error("{what}: {source}")]
    System {
        /// The request.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// What the request goes through has ended: a netlink connection, usually because its runtime did, or a keeper.
    #[error("{what}: its connection or keeper has ended; open another")]
    Closed {
        /// The request.
        what: String,
    },
    /// The kernel's answer could not be understood.
    #[error("{what}: unexpected answer of the kernel: {detail}")]
    Answer {
        /// The request.
        what: String,
        /// What was wrong with it.
        detail: String,
    },
}

impl HostError {
    /// Whether the object was not there: what a caller that removes things takes for success.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether the object was there already.
    #[must_use]
    pub fn is_exists(&self) -> bool {
        matches!(self, Self::Exists { .. })
    }

    /// Sorts an `errno` of the request `what`.
    pub(crate) fn errno(what: impl Into<String>, errno: Errno) -> Self {
        let what = what.into();
        match errno {
            Errno::EEXIST => Self::Exists { what },
            // A route that is not there answers ESRCH, an address EADDRNOTAVAIL, a link ENODEV or ENXIO.
            Errno::ENOENT | Errno::ENODEV | Errno::ENXIO | Errno::ESRCH | Errno::EADDRNOTAVAIL => {
                Self::NotFound { what }
            }
            Errno::EPERM | Errno::EACCES => Self::Denied { what },
            // Nothing but settings is written to files here.
            Errno::EROFS => Self::ReadOnly { what },
            Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT | Errno::ENOSYS => Self::Unsupported { what },
            other => Self::System { what, source: other.into() },
        }
    }

    /// Sorts an I/O error of the request `what`.
    pub(crate) fn io(what: impl Into<String>, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(code) => Self::errno(what, Errno::from_raw(code)),
            None => Self::System { what: what.into(), source },
        }
    }

    /// An answer of the kernel that does not fit the request `what`.
    pub(crate) fn answer(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Answer { what: what.into(), detail: detail.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errnos_become_what_callers_ask_for() {
        assert!(HostError::errno("x", Errno::EEXIST).is_exists());
        assert!(HostError::errno("x", Errno::ESRCH).is_not_found());
        let denied = HostError::io("set link up", io::Error::from_raw_os_error(1));
        assert!(denied.to_string().contains("set link up") && denied.to_string().contains("CAP_NET_ADMIN"), "{denied}");
        let other = HostError::errno("set MTU", Errno::EINVAL);
        assert!(other.to_string().contains("Invalid argument"), "{other}");
    }
}
