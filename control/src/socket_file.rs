//! A listening Unix socket as a file: who may be there already, whose it is, and that it goes when we do.
//!
//! A file left by a server that died is replaced; one that is answered is not, nor is a file of another kind. Nothing can
//! connect before `listen`, so owner and mode hold from the first connection on. The mode does not depend on the umask,
//! which belongs to the whole process and cannot be changed safely among threads: Linux gives the file the mode of the
//! socket's own inode less the umask, so that is set before `bind`, and what the umask took too much is put back after.
//!
//! Two servers that start in the same microseconds over one dead file may both succeed; the one whose file was replaced
//! notices by [`SocketFile::is_ours`].

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen as start, socket};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Group, chown};
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// Why there is no socket. The path is known to the caller, and so is what to do about it.
#[derive(Debug)]
pub(crate) enum ListenError {
    /// A living program answers there.
    InUse,
    /// The place is taken by a file of another kind.
    NotASocket,
    /// The path does not fit into a socket address.
    TooLong,
    /// The directory is missing and cannot be made.
    Directory(io::Error),
    /// Another failure of the system, and what was tried; the path completes the phrase.
    System(&'static str, io::Error),
}

/// Who may connect, and how many may wait to be accepted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access<'a> {
    /// Mode of the file.
    pub(crate) mode: u32,
    /// Group to give it to, where there is one of that name.
    pub(crate) group: Option<&'a str>,
    /// Connections the kernel queues; it cuts this to `net.core.somaxconn`.
    pub(crate) backlog: i32,
}

/// A socket file that this process made. Dropping it removes the file, unless somebody else's has taken its place.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// Device and inode. The listening socket keeps the inode alive, so no later file can have the same.
    identity: (u64, u64),
}

impl SocketFile {
    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file is still there, and still the one that was made.
    pub(crate) fn is_ours(&self) -> bool {
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

/// Listens at `path`, without blocking. Missing directories are made.
///
/// # Errors
/// [`ListenError`]; no file is left behind then.
pub(crate) fn listen(path: &Path, access: Access<'_>) -> Result<(UnixListener, SocketFile), ListenError> {
    let failed = |action| move |errno: Errno| ListenError::System(action, errno.into());
    let address = UnixAddr::new(path).map_err(|_| ListenError::TooLong)?;
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(ListenError::Directory)?;
    }
    let listener = unbound().map_err(failed("make a socket for"))?;
    fchmod(&listener, Mode::from_bits_truncate(access.mode)).map_err(failed("restrict access to"))?;
    let bound = match bind(listener.as_raw_fd(), &address) {
        Err(Errno::EADDRINUSE) => {
            remove_dead(path, &address)?;
            bind(listener.as_raw_fd(), &address)
        }
        other => other,
    };
    bound.map_err(|errno| if errno == Errno::EADDRINUSE { ListenError::InUse } else { failed("bind")(errno) })?;
    let file = identity(path)
        .map(|identity| SocketFile { path: path.to_owned(), identity })
        .map_err(|source| ListenError::System("find the socket just made at", source))?;
    if let Some(group) = access.group {
        give_to(path, group);
    }
    fs::set_permissions(path, Permissions::from_mode(access.mode))
        .map_err(|source| ListenError::System("set the mode of", source))?;
    start(&listener, Backlog::new(access.backlog).unwrap_or(Backlog::MAXCONN)).map_err(failed("listen at"))?;
    Ok((UnixListener::from(listener), file))
}

fn unbound() -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(AddressFamily::Unix, SockType::Stream, flags, None)
}

/// Removes the socket file of a server that no longer runs.
fn remove_dead(path: &Path, address: &UnixAddr) -> Result<(), ListenError> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(ListenError::NotASocket),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(ListenError::System("look at", error)),
        _ => {}
    }
    // Without blocking: a living server whose backlog is full must not hold us up.
    let probe = unbound().map_err(|errno| ListenError::System("make a socket for", errno.into()))?;
    match connect(probe.as_raw_fd(), address) {
        Ok(()) | Err(Errno::EAGAIN) => Err(ListenError::InUse),
        Err(Errno::ENOENT) => Ok(()),
        Err(Errno::ECONNREFUSED) => match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(ListenError::System("remove the dead socket", error))
            }
            _ => {
                tracing::info!(path = %path.display(), "removed a socket nobody listens on");
                Ok(())
            }
        },
        Err(errno) => Err(ListenError::System("see whether anybody listens on", errno.into())),
    }
}

/// Hands the file to `group`. Failing is not fatal: whoever owns it can still connect.
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

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::temp_dir::TempDir;
    use nix::sys::stat::umask;
    use std::os::unix::net::UnixStream;

    const PRIVATE: Access<'static> = Access { mode: 0o600, group: None, backlog: 4 };

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn mode_and_directories_are_made_and_the_file_goes_with_its_owner() {
        let dir = TempDir::new();
        let path = dir.join("run/deep/s.sock");
        for wanted in [0o600, 0o660] {
            let (_listener, file) = listen(&path, Access { mode: wanted, ..PRIVATE }).unwrap();
            assert_eq!((mode(file.path()), file.is_ours()), (wanted, true));
            UnixStream::connect(&path).unwrap();
            drop(file);
            assert!(!path.exists() && path.parent().unwrap().is_dir());
        }
    }

    #[test]
    fn the_mode_does_not_depend_on_the_umask() {
        let dir = TempDir::new();
        let path = dir.join("s");
        // A thread with its own file system attributes has an umask of its own.
        let thread = std::thread::spawn(move || {
            if let Err(errno) = nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS) {
                return println!("skipped: no umask of one's own: {errno}");
            }
            for mask in [0o000, 0o777] {
                umask(Mode::from_bits_truncate(mask));
                let (_listener, file) = listen(&path, PRIVATE).unwrap();
                assert_eq!(mode(file.path()), 0o600, "umask {mask:o}");
            }
        });
        thread.join().unwrap();
    }

    #[test]
    fn the_file_is_given_to_the_group() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: needs root to give a file to another group");
            return;
        }
        let Ok(Some(group)) = Group::from_name("daemon") else {
            println!("skipped: no group to give the socket to");
            return;
        };
        let dir = TempDir::new();
        for (name, gid) in [("daemon", group.gid.as_raw()), ("a-group-nobody-has", nix::unistd::getegid().as_raw())] {
            let (_listener, file) = listen(&dir.join("s"), Access { group: Some(name), ..PRIVATE }).unwrap();
            assert_eq!(fs::metadata(file.path()).unwrap().gid(), gid, "{name}");
        }
    }

    #[test]
    fn a_living_socket_is_refused_and_left_alone_even_with_a_full_backlog() {
        let dir = TempDir::new();
        let path = dir.join("s");
        let (_listener, file) = listen(&path, PRIVATE).unwrap();
        let refused = || matches!(listen(&path, PRIVATE), Err(ListenError::InUse));
        assert!(refused() && file.is_ours());
        let address = UnixAddr::new(&path).unwrap();
        let mut waiting = Vec::new();
        loop {
            let client = unbound().unwrap();
            if connect(client.as_raw_fd(), &address).is_err() {
                break;
            }
            waiting.push(client);
        }
        assert!(refused() && file.is_ours(), "after {} clients", waiting.len());
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_file_of_another_kind_is_not() {
        let dir = TempDir::new();
        let path = dir.join("s");
        drop(UnixListener::bind(&path).unwrap());
        assert!(UnixStream::connect(&path).is_err() && path.exists());
        let (_listener, file) = listen(&path, PRIVATE).unwrap();
        assert!(UnixStream::connect(file.path()).is_ok());
        drop(file);
        let not_a_socket = || matches!(listen(&path, PRIVATE), Err(ListenError::NotASocket));
        fs::write(&path, "precious").unwrap();
        assert!(not_a_socket());
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(not_a_socket() && path.is_dir());
        fs::remove_dir(&path).unwrap();
        // Links are not followed: to a file, to nothing, to a dead socket, to a living one.
        let dead = dir.join("dead");
        drop(UnixListener::bind(&dead).unwrap());
        let _living = UnixListener::bind(dir.join("living")).unwrap();
        fs::write(dir.join("file"), "precious").unwrap();
        for target in ["file", "nothing", "dead", "living"] {
            std::os::unix::fs::symlink(dir.join(target), &path).unwrap();
            assert!(not_a_socket(), "{target}");
            assert_eq!(fs::read_link(&path).unwrap(), dir.join(target));
            fs::remove_file(&path).unwrap();
        }
        assert!(dead.exists() && dir.join("living").exists() && !dir.join("nothing").exists());
    }

    #[test]
    fn the_file_of_a_successor_is_not_removed() {
        let dir = TempDir::new();
        let path = dir.join("s");
        let (_listener, file) = listen(&path, PRIVATE).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(!file.is_ours());
        let (_successor, successor) = listen(&path, PRIVATE).unwrap();
        assert!(!file.is_ours() && successor.is_ours());
        drop(file);
        assert!(successor.is_ours());
    }

    #[test]
    fn places_that_cannot_be_are_refused() {
        let dir = TempDir::new();
        assert!(matches!(listen(&dir.join(&"d".repeat(200)), PRIVATE), Err(ListenError::TooLong)));
        fs::write(dir.join("file"), "").unwrap();
        assert!(matches!(listen(&dir.join("file/s"), PRIVATE), Err(ListenError::Directory(_))));
    }
}
