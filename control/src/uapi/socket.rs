//! The socket file of an interface: `<directory>/<interface>.sock`, open to its owner alone.

use super::limits::BACKLOG;
use crate::socket_file::{Access, ListenError, SocketFile, listen};
use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum UapiError {
    /// The interface name cannot be a file name.
    #[error("{0:?} cannot name a control socket: give the name of the interface, without '/'")]
    Name(String),
    /// The directory is missing and cannot be made.
    #[error("the directory for the control socket {path} cannot be made: {source}")]
    Directory {
        /// The socket that was to be in it.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The path does not fit into a socket address.
    #[error("the path {0} is too long for a socket (107 bytes at most): choose a directory with a shorter one")]
    TooLong(PathBuf),
    /// A living program answers there.
    #[error("a program answers at {0} already: stop it, or choose another interface name")]
    InUse(PathBuf),
    /// The place is taken by a file of another kind.
    #[error("{0} is in the way and is no socket: remove it")]
    NotASocket(PathBuf),
    /// Another failure of the system.
    #[error("cannot {action} {path}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl UapiError {
    fn new(path: PathBuf, error: ListenError) -> Self {
        match error {
            ListenError::InUse => Self::InUse(path),
            ListenError::NotASocket => Self::NotASocket(path),
            ListenError::TooLong => Self::TooLong(path),
            ListenError::Directory(source) => Self::Directory { path, source },
            ListenError::System(action, source) => Self::System { action, path, source },
        }
    }
}

/// Listens, without blocking, at the control socket of `interface` in `directory`, which is made where it is missing.
///
/// # Errors
/// [`UapiError`]; no file is left behind then.
pub(super) fn listen_at(directory: &Path, interface: &str) -> Result<(UnixListener, SocketFile), UapiError> {
    if interface.is_empty() || interface.starts_with('.') || interface.contains(['/', '\0']) {
        return Err(UapiError::Name(interface.to_owned()));
    }
    let path = directory.join(format!("{interface}.sock"));
    let owner_only = Access { mode: 0o600, group: None, backlog: BACKLOG };
    listen(&path, owner_only).map_err(|error| UapiError::new(path, error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::temp_dir::TempDir;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_socket_is_for_its_owner_and_goes_with_it() {
        let temp = TempDir::new();
        let directory = temp.path().join("run/wireguard");
        let (_listener, file) = listen_at(&directory, "wg0").unwrap();
        assert_eq!(file.path(), directory.join("wg0.sock"));
        assert_eq!(fs::metadata(file.path()).unwrap().permissions().mode() & 0o7777, 0o600);
        let path = file.path().to_owned();
        drop(file);
        assert!(!path.exists() && directory.is_dir());
    }

    #[test]
    fn names_and_places_that_cannot_be_are_refused() {
        let temp = TempDir::new();
        for name in ["", "a/b", "..", ".hidden", "a\0b"] {
            assert!(matches!(listen_at(temp.path(), name), Err(UapiError::Name(_))), "{name:?}");
        }
        let (_listener, file) = listen_at(temp.path(), "wg0").unwrap();
        assert!(matches!(listen_at(temp.path(), "wg0"), Err(UapiError::InUse(path)) if path == file.path()));
        assert!(matches!(listen_at(&temp.path().join("d".repeat(100)), "wg0"), Err(UapiError::TooLong(_))));
        fs::write(temp.path().join("wg1.sock"), "").unwrap();
        assert!(matches!(listen_at(temp.path(), "wg1"), Err(UapiError::NotASocket(_))));
        assert!(matches!(listen_at(&temp.path().join("wg1.sock"), "wg0"), Err(UapiError::Directory { .. })));
    }
}
