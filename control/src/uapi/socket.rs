//! The socket file: `<directory>/<interface>.sock`, open to its owner alone, one per interface, gone with its server.
//!
//! The mode does not depend on the umask, which belongs to the whole process and cannot be changed safely among
//! threads. Linux gives the file the mode of the socket's own inode less the umask, so that is set before `bind`; the
//! file is never open to others, not even for a moment. What the umask took too much is put back afterwards.
//!
//! A file left by a server that died is replaced; one that is answered is not. Two servers that start at the same
//! moment over the same dead file may both succeed; the one whose file was replaced notices by [`SocketFile::is_ours`].

use super::limits::BACKLOG;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};
use nix::sys::stat::{Mode, fchmod};
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum UapiError {
    /// The interface name cannot be a file name.
    #[error("{0:?} cannot name a control socket: give the name of the interface, without '/'")]
    Name(String),
    /// The directory is missing and cannot be made.
    #[error("the directory {path} for control sockets cannot be made: {source}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A living program answers there.
    #[error("a program answers at {0} already: stop it, or choose another interface name")]
    InUse(PathBuf),
    /// The place is taken by a file of another kind.
    #[error("{0} is in the way and is no socket: remove it")]
    NotASocket(PathBuf),
    /// Another failure of the system.
    #[error("{action} {path}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A socket file that this process made. Dropping it removes the file, unless somebody else's has taken its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode. The listening socket keeps the inode alive, so no later file can have the same.
    identity: (u64, u64),
}

impl SocketFile {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file is still there, and still the one that was made.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        identity(&self.path).is_ok_and(|identity| identity == self.identity)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_ours() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Listens, without blocking, at the control socket of `interface` in `directory`, which is made where it is missing.
///
/// # Errors
/// [`UapiError`]; no file is left behind then.
pub fn listen_at(directory: &Path, interface: &str) -> Result<(UnixListener, SocketFile), UapiError> {
    if interface.is_empty() || interface.starts_with('.') || interface.contains(['/', '\0']) {
        return Err(UapiError::Name(interface.to_owned()));
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(directory)
        .map_err(|source| UapiError::Directory { path: directory.to_owned(), source })?;
    let path = directory.join(format!("{interface}.sock"));
    let failed = |action| {
        let path = path.clone();
        move |errno: Errno| UapiError::System { action, path, source: errno.into() }
    };

    let address = UnixAddr::new(&path).map_err(failed("naming the control socket"))?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let listener = socket(AddressFamily::Unix, SockType::Stream, flags, None).map_err(failed("making a socket for"))?;
    fchmod(&listener, OWNER_ONLY).map_err(failed("restricting access to"))?;
    match bind(listener.as_raw_fd(), &address) {
        Err(Errno::EADDRINUSE) => {
            remove_dead(&path, &address)?;
            bind(listener.as_raw_fd(), &address)
        }
        other => other,
    }
    .map_err(failed("making the control socket"))?;
    let file = identity(&path)
        .map(|identity| SocketFile { path: path.clone(), identity })
        .map_err(|source| UapiError::System { action: "looking at", path: path.clone(), source })?;
    fs::set_permissions(&path, Permissions::from_mode(OWNER_ONLY.bits())).map_err(|source| UapiError::System {
        action: "restricting access to",
        path: path.clone(),
        source,
    })?;
    let backlog = Backlog::new(BACKLOG).unwrap_or(Backlog::MAXCONN);
    listen(&listener, backlog).map_err(failed("listening at"))?;
    Ok((UnixListener::from(listener), file))
}

const OWNER_ONLY: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR);

/// Removes the socket file of a server that no longer runs.
fn remove_dead(path: &Path, address: &UnixAddr) -> Result<(), UapiError> {
    let failed = |action, source| UapiError::System { action, path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(UapiError::NotASocket(path.to_owned())),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("looking at", error)),
        _ => {}
    }
    // Without blocking: a living server whose backlog is full must not hold us up.
    let probe: OwnedFd =
        socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)
            .map_err(|errno| failed("making a socket for", errno.into()))?;
    match connect(probe.as_raw_fd(), address) {
        Ok(()) | Err(Errno::EAGAIN) => Err(UapiError::InUse(path.to_owned())),
        Err(Errno::ENOENT) => Ok(()),
        Err(Errno::ECONNREFUSED) => match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("removing the dead socket", error)),
            _ => Ok(()),
        },
        Err(errno) => Err(failed("trying", errno.into())),
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::temp_dir::TempDir;
    use nix::sys::stat::umask;
    use std::os::unix::net::UnixStream;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn the_socket_is_for_its_owner_and_goes_with_it() {
        let temp = TempDir::new();
        let directory = temp.path().join("run/wireguard");
        let (_listener, file) = listen_at(&directory, "wg0").unwrap();
        assert_eq!(file.path(), directory.join("wg0.sock"));
        assert_eq!(mode(file.path()), 0o600);
        assert!(directory.is_dir() && file.is_ours());
        let path = file.path().to_owned();
        drop(file);
        assert!(!path.exists() && directory.is_dir());
    }

    #[test]
    fn the_mode_does_not_depend_on_the_umask() {
        let temp = TempDir::new();
        let path = temp.path().to_owned();
        // A thread with its own file system attributes has an umask of its own.
        let thread = std::thread::spawn(move || {
            if let Err(errno) = nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS) {
                return println!("skipped: no umask of one's own: {errno}");
            }
            for mask in [0o000, 0o777] {
                umask(Mode::from_bits_truncate(mask));
                let (_listener, file) = listen_at(&path, "wg0").unwrap();
                assert_eq!(mode(file.path()), 0o600, "umask {mask:o}");
            }
        });
        thread.join().unwrap();
    }

    #[test]
    fn a_living_socket_is_refused_and_left_alone() {
        let temp = TempDir::new();
        let (_listener, file) = listen_at(temp.path(), "wg0").unwrap();
        assert!(matches!(listen_at(temp.path(), "wg0"), Err(UapiError::InUse(path)) if path == file.path()));
        assert!(file.is_ours());
    }

    #[test]
    fn a_living_socket_with_a_full_backlog_is_refused_at_once() {
        let temp = TempDir::new();
        let (_listener, file) = listen_at(temp.path(), "wg0").unwrap();
        let address = UnixAddr::new(file.path()).unwrap();
        let mut waiting = Vec::new();
        loop {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let client = socket(AddressFamily::Unix, SockType::Stream, flags, None).unwrap();
            if connect(client.as_raw_fd(), &address).is_err() {
                break;
            }
            waiting.push(client);
        }
        assert!(matches!(listen_at(temp.path(), "wg0"), Err(UapiError::InUse(_))), "after {} clients", waiting.len());
    }

    #[test]
    fn a_dead_socket_is_replaced() {
        let temp = TempDir::new();
        let path = temp.path().join("wg0.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(UnixStream::connect(&path).is_err() && path.exists());
        let (_listener, file) = listen_at(temp.path(), "wg0").unwrap();
        assert!(UnixStream::connect(file.path()).is_ok());
    }

    #[test]
    fn a_file_of_another_kind_is_refused_and_kept() {
        let temp = TempDir::new();
        let path = temp.path().join("wg0.sock");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(listen_at(temp.path(), "wg0"), Err(UapiError::NotASocket(_))));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn the_file_of_a_successor_is_not_removed() {
        let temp = TempDir::new();
        let (_listener, file) = listen_at(temp.path(), "wg0").unwrap();
        fs::remove_file(file.path()).unwrap();
        assert!(!file.is_ours());
        let (_successor, successor) = listen_at(temp.path(), "wg0").unwrap();
        assert!(!file.is_ours() && successor.is_ours());
        drop(file);
        assert!(successor.is_ours());
    }

    #[test]
    fn names_and_places_that_cannot_be_are_refused() {
        let temp = TempDir::new();
        for name in ["", "a/b", "..", ".hidden", "a\0b"] {
            assert!(matches!(listen_at(temp.path(), name), Err(UapiError::Name(_))), "{name:?}");
        }
        let deep = temp.path().join("d".repeat(100));
        assert!(matches!(listen_at(&deep, "wg0"), Err(UapiError::System { .. })));
        fs::write(temp.path().join("file"), "").unwrap();
        assert!(matches!(listen_at(&temp.path().join("file"), "wg0"), Err(UapiError::Directory { .. })));
    }
}
