//! The socket as a file: who may be there already, whose it is, and that it goes when we do.
//!
//! Order of binding: look for a living daemon on the path, remove only a socket nobody answers on, bind, give owner,
//! group and mode, listen. Nothing can connect before `listen`, so the mode holds from the first connection on; the mode
//! is also set on the descriptor before `bind`, so that no umask makes the file wider for a moment.
//!
//! Two daemons started on one path within the microseconds between look and bind are not told apart here; the lock on the
//! data directory is what keeps instances single.

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Group, chown};
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};

/// Mode of the socket: owner and group may give orders.
const SOCKET_MODE: u32 = 0o660;

/// Connections the kernel queues while the accept loop is busy or pausing; above every burst a node produces, and the
/// kernel cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 1024;

/// How long a daemon may take to accept before it counts as alive but busy.
const ALIVE_PATIENCE: Duration = Duration::from_secs(2);

/// Why the socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// A daemon answers there.
    #[error("a daemon is already listening on {0}: stop it first, or name another --socket")]
    InUse(PathBuf),
    /// Something else has that name.
    #[error("{0} exists and is no socket: remove it, or name another --socket")]
    NotASocket(PathBuf),
    /// The path does not fit into a socket address.
    #[error("the socket path {0} is too long (107 bytes at most): name a shorter one with --socket")]
    TooLong(PathBuf),
    /// A system call failed.
    #[error("{action} {path}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A listening socket and its file. Dropping it removes the file if it is still the one that was made here.
#[derive(Debug)]
pub struct BoundSocket {
    listener: UnixListener,
    file: SocketFile,
}

impl BoundSocket {
    /// Listens on `path`, mode 0660, owned by `group` where a group of that name exists. Parent directories are made.
    ///
    /// # Errors
    /// [`BindError`]; a living daemon's socket is left alone.
    pub async fn bind(path: &Path, group: Option<&str>) -> Result<Self, BindError> {
        let failed = |action| move |source| BindError::System { action, path: path.to_owned(), source };
        let address = UnixAddr::new(path).map_err(|_| BindError::TooLong(path.to_owned()))?;
        clear(path).await?;
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(parent);
            made.map_err(failed("cannot make the directory of"))?;
        }
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)
            .map_err(|errno| failed("cannot make a socket for")(errno.into()))?;
        // Only some kernels take the mode here; the one set on the file below is what counts.
        let _ = fchmod(&socket, Mode::from_bits_truncate(SOCKET_MODE));
        bind(socket.as_raw_fd(), &address).map_err(|errno| match errno {
            nix::errno::Errno::EADDRINUSE => BindError::InUse(path.to_owned()),
            errno => failed("cannot bind")(errno.into()),
        })?;
        let file = SocketFile::new(path).map_err(failed("cannot find the socket just made at"))?;
        if let Some(group) = group {
            give_to(path, group);
        }
        fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE)).map_err(failed("cannot set the mode of"))?;
        let backlog = Backlog::new(BACKLOG).unwrap_or(Backlog::MAXCONN);
        listen(&socket, backlog).map_err(|errno| failed("cannot listen on")(errno.into()))?;
        let listener = UnixListener::from_std(socket.into()).map_err(failed("cannot wait on"))?;
        Ok(Self { listener, file })
    }

    /// The listener.
    #[must_use]
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.file.path
    }
}

/// Makes room at `path`: nothing there is fine, a dead socket is removed, everything else stays and is an error.
async fn clear(path: &Path) -> Result<(), BindError> {
    let failed = |action| move |source| BindError::System { action, path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("cannot look at")(error)),
        Ok(meta) if !meta.file_type().is_socket() => return Err(BindError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    match tokio::time::timeout(ALIVE_PATIENCE, UnixStream::connect(path)).await {
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!(path = %path.display(), "removing a socket nobody listens on");
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("cannot remove")(error)),
                _ => Ok(()),
            }
        }
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // A full accept queue and a slow daemon are still a daemon.
        Ok(Ok(_)) | Err(_) => Err(BindError::InUse(path.to_owned())),
        Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => Err(BindError::InUse(path.to_owned())),
        Ok(Err(error)) => Err(failed("cannot tell whether a daemon listens on")(error)),
    }
}

/// Hands the socket to `group`. Failing is not fatal: whoever owns the file can still connect.
fn give_to(path: &Path, group: &str) {
    match Group::from_name(group) {
        Ok(Some(found)) => {
            if let Err(errno) = chown(path, None, Some(found.gid)) {
                tracing::warn!(group, %errno, "the socket stays with the group of the process: CAP_CHOWN is missing");
            }
        }
        Ok(None) => tracing::debug!(group, "no such group; the socket stays with the group of the process"),
        Err(errno) => tracing::warn!(group, %errno, "the group database cannot be read"),
    }
}

#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), identity: identity(path)? })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|now| now == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|meta| (meta.dev(), meta.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::temp_dir::TempDir;

    #[tokio::test]
    async fn mode_and_directories_are_made_and_the_file_goes_with_the_owner() {
        let dir = TempDir::new();
        let path = dir.join("run/deep/s.sock");
        let bound = BoundSocket::bind(&path, Some("a-group-nobody-has")).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o660);
        UnixStream::connect(bound.path()).await.unwrap();
        drop(bound);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn the_socket_is_given_to_the_group() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: needs root to give a file to another group");
            return;
        }
        let Ok(Some(group)) = Group::from_name("daemon") else {
            println!("skipped: no group to give the socket to");
            return;
        };
        let dir = TempDir::new();
        let bound = BoundSocket::bind(&dir.join("s"), Some("daemon")).await.unwrap();
        assert_eq!(fs::metadata(bound.path()).unwrap().gid(), group.gid.as_raw());
    }

    #[tokio::test]
    async fn a_living_daemon_keeps_its_socket() {
        let dir = TempDir::new();
        let path = dir.join("s");
        let first = BoundSocket::bind(&path, None).await.unwrap();
        assert!(matches!(BoundSocket::bind(&path, None).await, Err(BindError::InUse(_))));
        UnixStream::connect(first.path()).await.unwrap();
    }

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_anything_else_is_not() {
        let dir = TempDir::new();
        let path = dir.join("s");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(BoundSocket::bind(&path, None).await.unwrap());
        fs::write(&path, "precious").unwrap();
        assert!(matches!(BoundSocket::bind(&path, None).await, Err(BindError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn a_successor_on_the_same_path_is_not_unlinked() {
        let dir = TempDir::new();
        let path = dir.join("s");
        let first = BoundSocket::bind(&path, None).await.unwrap();
        fs::remove_file(&path).unwrap();
        let second = BoundSocket::bind(&path, None).await.unwrap();
        drop(first);
        UnixStream::connect(second.path()).await.unwrap();
    }

    #[tokio::test]
    async fn a_path_too_long_is_named() {
        let dir = TempDir::new();
        let path = dir.join(&"x".repeat(200));
        assert!(matches!(BoundSocket::bind(&path, None).await, Err(BindError::TooLong(_))));
    }
}
