//! The socket of the daemon: where orders come from, open to its owner and one group.

use super::access::Principal;
use crate::socket_file::{Access, ListenError, SocketFile, listen};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::{AcceptConn, SockType};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use tokio::net::UnixListener;

/// Mode of the socket unless told otherwise: owner and group may connect.
pub const SOCKET_MODE: u32 = 0o660;

/// Connections the kernel queues while the accept loop is busy or pausing; above every burst a node produces.
const BACKLOG: i32 = 1024;

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
    /// What the service manager handed over cannot be used.
    #[error(
        "the service manager handed over something that is no listening stream socket with a path: look at the .socket unit"
    )]
    Inherited,
    /// A system call failed.
    #[error("cannot {action} {path}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl BindError {
    fn new(path: &Path, error: ListenError) -> Self {
        let path = path.to_owned();
        match error {
            ListenError::InUse => Self::InUse(path),
            ListenError::NotASocket => Self::NotASocket(path),
            ListenError::TooLong => Self::TooLong(path),
            ListenError::Directory(source) => Self::System { action: "make the directory of", path, source },
            ListenError::System(action, source) => Self::System { action, path, source },
        }
    }
}

/// A listening socket and its file. Dropping it removes the file if it is still the one that was made here.
#[derive(Debug)]
pub struct BoundSocket {
    /// Before the listener: see [`SocketFile`]. None where the service manager owns it.
    file: Option<SocketFile>,
    path: PathBuf,
    listener: UnixListener,
}

impl BoundSocket {
    /// Listens on `path`, mode 0660, owned by `group` where a group of that name exists. Parent directories are made. To
    /// be called within a tokio runtime.
    ///
    /// # Errors
    /// [`BindError`]; a living daemon's socket is left alone.
    pub fn bind(path: &Path, group: Option<&str>) -> Result<Self, BindError> {
        Self::bind_with(path, group, SOCKET_MODE)
    }

    /// The same with another mode.
    ///
    /// # Errors
    /// As [`BoundSocket::bind`].
    pub fn bind_with(path: &Path, group: Option<&str>, mode: u32) -> Result<Self, BindError> {
        let access = Access { mode, group, backlog: BACKLOG };
        let (listener, file) = listen(path, access).map_err(|error| BindError::new(path, error))?;
        Self::new(listener, Some(file), path)
    }

    /// Takes over a socket that listens already. Its file is left alone, now and at the end. To be called within a tokio
    /// runtime.
    ///
    /// # Errors
    /// [`BindError`] where it is no listening Unix socket with a path.
    pub fn adopt(descriptor: OwnedFd) -> Result<Self, BindError> {
        let listens = getsockopt(&descriptor, AcceptConn).unwrap_or(false);
        let stream = getsockopt(&descriptor, SockType) == Ok(nix::sys::socket::SockType::Stream);
        let listener = std::os::unix::net::UnixListener::from(descriptor);
        let path = listener.local_addr().ok().and_then(|address| address.as_pathname().map(Path::to_owned));
        let (Some(path), true, true) = (path, listens, stream) else { return Err(BindError::Inherited) };
        let system = |source| BindError::System { action: "wait on", path: path.clone(), source };
        listener.set_nonblocking(true).map_err(system)?;
        Self::new(listener, None, &path)
    }

    fn new(
        listener: std::os::unix::net::UnixListener,
        file: Option<SocketFile>,
        path: &Path,
    ) -> Result<Self, BindError> {
        let system = |source| BindError::System { action: "wait on", path: path.to_owned(), source };
        let listener = UnixListener::from_std(listener).map_err(system)?;
        Ok(Self { file, path: path.to_owned(), listener })
    }

    /// Whether the file of the socket has gone or been replaced, so that nobody can find it.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.file.as_ref().is_some_and(|file| !file.is_ours())
    }

    /// The listener.
    #[must_use]
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// Whom the file lets in, besides root: its owner, and its group where the mode says so.
    #[must_use]
    pub fn lets_in(&self) -> Vec<Principal> {
        let Ok(file) = fs::metadata(self.path()) else { return Vec::new() };
        let group = (file.mode() & 0o020 != 0).then_some(Principal::Group(file.gid()));
        [Principal::User(0), Principal::User(file.uid())].into_iter().chain(group).collect()
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::temp_dir::TempDir;
    use std::os::unix::fs::PermissionsExt;
    use tokio::net::UnixStream;

    #[tokio::test]
    async fn owner_and_group_may_connect_until_it_is_dropped() {
        let dir = TempDir::new();
        let path = dir.join("run/s.sock");
        let bound = BoundSocket::bind(&path, Some("a-group-nobody-has")).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o660);
        UnixStream::connect(bound.path()).await.unwrap();
        drop(bound);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_socket_that_listens_is_taken_over_and_left_behind() {
        let dir = TempDir::new();
        let path = dir.join("s");
        let made = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let bound = BoundSocket::adopt(made.into()).unwrap();
        assert_eq!(bound.path(), path);
        UnixStream::connect(&path).await.unwrap();
        let (_stream, _) = bound.listener().accept().await.unwrap();
        drop(bound);
        assert!(path.exists());
        let (near, _far) = std::os::unix::net::UnixStream::pair().unwrap();
        for wrong in [near.into(), std::fs::File::open("/dev/null").unwrap().into()] {
            assert!(matches!(BoundSocket::adopt(wrong), Err(BindError::Inherited)));
        }
    }

    #[tokio::test]
    async fn the_file_tells_whom_it_lets_in() {
        let dir = TempDir::new();
        let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let lets_in = |mode| BoundSocket::bind_with(&dir.join("s"), None, mode).unwrap().lets_in();
        let owners = [Principal::User(0), Principal::User(uid)];
        assert_eq!(lets_in(0o660), [&owners[..], &[Principal::Group(gid)]].concat());
        assert_eq!(lets_in(0o600), owners);
        assert_eq!(lets_in(0o606), owners);
    }

    #[tokio::test]
    async fn refusals_say_what_to_do() {
        let dir = TempDir::new();
        let path = dir.join("s");
        let refusal = |path: &Path| BoundSocket::bind(path, None).unwrap_err().to_string();
        let _first = BoundSocket::bind(&path, None).unwrap();
        assert!(refusal(&path).contains("already listening"));
        std::fs::write(dir.join("file"), "").unwrap();
        assert!(refusal(&dir.join("file")).contains("is no socket"));
        assert!(refusal(&dir.join("file/s")).starts_with("cannot make the directory of"));
        assert!(refusal(&dir.join(&"x".repeat(200))).contains("too long"));
    }
}
