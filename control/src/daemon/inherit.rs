//! Sockets that the service manager opened for the daemon (sd_listen_fds(3)): orders wait in them while it starts.

use crate::ipc::socket::{BindError, BoundSocket};
use ginnel_backends::linux::local::take_inherited;
use std::os::fd::OwnedFd;

/// Descriptors taken at most. One is used.
const DESCRIPTORS_MAX: usize = 16;

/// The socket for orders, if one was handed over.
///
/// # Errors
/// Where what was handed over cannot be used.
pub(super) fn socket() -> Result<Option<BoundSocket>, BindError> {
    let variable = |name| std::env::var(name).unwrap_or_default();
    let count = count(&variable("LISTEN_PID"), &variable("LISTEN_FDS"), std::process::id());
    if count == 0 {
        return Ok(None);
    }
    choose(take_inherited(count), &variable("LISTEN_FDNAMES")).map(BoundSocket::adopt).transpose()
}

/// How many descriptors were left for the process `pid`.
fn count(listen_pid: &str, listen_fds: &str, pid: u32) -> usize {
    let meant = listen_pid.parse() == Ok(pid);
    listen_fds.parse::<usize>().ok().filter(|_| meant).unwrap_or(0).min(DESCRIPTORS_MAX)
}

/// The one named for this daemon, else the first; the others are closed.
fn choose(descriptors: Vec<OwnedFd>, names: &str) -> Option<OwnedFd> {
    let named = names.split(':').position(|name| name == "ginneld" || name == "ginneld.socket");
    let at = named.filter(|at| *at < descriptors.len()).unwrap_or(0);
    descriptors.into_iter().nth(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsRawFd;

    #[test]
    fn only_what_is_meant_for_this_process_is_taken() {
        assert_eq!(count("7", "2", 7), 2);
        assert_eq!(count("7", "100", 7), DESCRIPTORS_MAX);
        for (pid, fds) in [("8", "2"), ("", ""), ("7", ""), ("7", "-1"), ("x", "2")] {
            assert_eq!(count(pid, fds, 7), 0, "{pid:?} {fds:?}");
        }
    }

    #[test]
    fn the_socket_is_found_by_its_name_or_its_place() {
        for (names, at) in [("", 0), ("a:ginneld", 1), ("ginneld.socket:b", 0), ("a:b:ginneld", 0), ("unknown", 0)] {
            let descriptors: Vec<OwnedFd> = (0..2).map(|_| File::open("/dev/null").unwrap().into()).collect();
            let numbers: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
            assert_eq!(choose(descriptors, names).unwrap().as_raw_fd(), numbers[at], "{names:?}");
        }
        assert!(choose(Vec::new(), "x").is_none());
    }
}
