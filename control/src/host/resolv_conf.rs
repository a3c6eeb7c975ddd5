//! `/etc/resolv.conf` of a container (resolv.conf(5)), which is written where whoever attaches it asks for that.
//!
//! The file is in the hands of the container, and we have rights that it has not. So its path is walked without a symbolic
//! link from the root directory that its process has, and nothing but a plain file is written: neither a link to another
//! file nor a pipe is a way to have us write elsewhere or wait. A container that has the host's root directory is refused:
//! its file is the host's.

use super::{Process, ProcessId};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, stat};
use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

/// Where it is, from the root directory on.
const PATH: &str = "etc/resolv.conf";

/// Who may read one that was not there.
const MODE: Mode = Mode::from_bits_truncate(0o644);

/// Why it was not written.
#[derive(Debug, thiserror::Error)]
pub enum ResolvConfError {
    /// The container has the host's files.
    #[error(
        "it has the root directory of the host, whose /etc/resolv.conf is left alone: attach it without resolv_conf"
    )]
    OfHost,
    /// The way to it, or the file, is something else.
    #[error(
        "/etc/resolv.conf in it is no plain file, or behind a symbolic link, which is not followed: put a file there, or \
         attach it without resolv_conf"
    )]
    NotPlain,
    /// A right is missing.
    #[error(
        "the kernel refuses it: to look at the container takes CAP_SYS_PTRACE, and the file has to belong to the user of the \
         daemon"
    )]
    Denied,
    /// The container has ended.
    #[error("it has ended")]
    Gone,
    /// Another failure.
    #[error("{action}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The file's text: whom to ask, and where short names are looked for.
#[must_use]
pub fn text(server: IpAddr, domain: Option<&str>) -> String {
    let mut text = format!("# Written by ginnel when this container was attached.\nnameserver {server}\n");
    if let Some(domain) = domain {
        // Writing to a string does not fail.
        let _ = writeln!(text, "search {}", domain.trim_end_matches('.'));
    }
    text
}

/// Writes `text` for the container whose process this is. May block for as long as the container's file system does.
///
/// # Errors
/// [`ResolvConfError`]; the file is as it was unless writing itself failed.
pub fn write(of: ProcessId, text: &str) -> Result<(), ResolvConfError> {
    let process = Process::open(of.pid).ok().filter(|process| process.id() == of).ok_or(ResolvConfError::Gone)?;
    let root = format!("/proc/{}/root", of.pid);
    let root = open(root.as_str(), OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
    let root = root.map_err(failed("open its root directory"))?;
    // Only now is it certain whose it is.
    if process.has_ended().unwrap_or(true) {
        return Err(ResolvConfError::Gone);
    }
    let look = failed("look at root directories");
    if same(&fstat(&root).map_err(&look)?, &stat("/").map_err(&look)?) {
        return Err(ResolvConfError::OfHost);
    }
    let file = match open_in(&root, OFlag::empty()) {
        Err(Errno::ENOENT) => open_in(&root, OFlag::O_CREAT | OFlag::O_EXCL).and_then(|file| {
            // Whatever our umask is.
            fchmod(&file, MODE)?;
            Ok(file)
        }),
        found => found,
    };
    let file = file.map_err(failed("open it"))?;
    let kind = SFlag::from_bits_truncate(fstat(&file).map_err(failed("look at it"))?.st_mode) & SFlag::S_IFMT;
    if kind != SFlag::S_IFREG {
        return Err(ResolvConfError::NotPlain);
    }
    let file = File::from(file);
    // Overwritten, then cut: nobody finds it empty.
    let written = file.write_all_at(text.as_bytes(), 0).and_then(|()| file.set_len(text.len() as u64));
    written.map_err(|source| ResolvConfError::System { action: "write it", source })
}

/// Mounts are crossed: container engines mount a file there.
fn open_in(root: &impl AsFd, more: OFlag) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC | OFlag::O_NOCTTY | OFlag::O_NONBLOCK | more;
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
    let how = OpenHow::new().flags(flags).resolve(resolve);
    // A mode without O_CREAT is an error (openat2(2)).
    let how = if more.contains(OFlag::O_CREAT) { how.mode(MODE) } else { how };
    openat2(root, PATH, how)
}

fn same(one: &FileStat, other: &FileStat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}

fn failed(action: &'static str) -> impl Fn(Errno) -> ResolvConfError {
    move |errno| match errno {
        // A link; a directory; a pipe that nobody reads, or a socket.
        Errno::ELOOP | Errno::EISDIR | Errno::ENXIO => ResolvConfError::NotPlain,
        Errno::EACCES | Errno::EPERM => ResolvConfError::Denied,
        Errno::ESRCH => ResolvConfError::Gone,
        other => ResolvConfError::System { action, source: other.into() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::container::Container;
    use crate::lab::rights_or_skip;
    use crate::temp_dir::TempDir;
    use nix::unistd::mkfifo;
    use std::fs;
    use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, symlink};

    const TEXT: &str = "nameserver 10.200.5.1\n";

    #[test]
    fn texts() {
        let server = "10.200.5.1".parse().unwrap();
        assert!(text(server, None).ends_with("\nnameserver 10.200.5.1\n"));
        assert!(text(server, Some("prod.local.")).ends_with("\nnameserver 10.200.5.1\nsearch prod.local\n"));
    }

    #[test]
    fn a_file_is_written_and_nothing_else() {
        if !rights_or_skip() {
            return;
        }
        let dir = TempDir::new();
        let container = Container::start_rooted(dir.path()).unwrap();
        let process = Process::open(container.pid()).unwrap().id();
        let path = dir.path().join("etc/resolv.conf");
        // There is no directory for it.
        assert!(matches!(write(process, TEXT), Err(ResolvConfError::System { action: "open it", .. })));
        fs::create_dir(dir.path().join("etc")).unwrap();
        write(process, TEXT).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), TEXT);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        // One that was there, and longer.
        fs::write(&path, "nameserver 192.0.2.1\n".repeat(9)).unwrap();
        write(process, TEXT).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), TEXT);
        // What would lead elsewhere.
        let victim = dir.path().join("victim");
        fs::write(&victim, "left alone").unwrap();
        fs::remove_file(&path).unwrap();
        symlink("../victim", &path).unwrap();
        assert!(matches!(write(process, TEXT), Err(ResolvConfError::NotPlain)));
        fs::remove_file(&path).unwrap();
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        assert!(matches!(write(process, TEXT), Err(ResolvConfError::NotPlain)));
        // Also where somebody reads it.
        let _reader = File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&path).unwrap();
        assert!(matches!(write(process, TEXT), Err(ResolvConfError::NotPlain)));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(write(process, TEXT), Err(ResolvConfError::NotPlain)));
        fs::remove_dir(&path).unwrap();
        fs::remove_dir(dir.path().join("etc")).unwrap();
        symlink("/", dir.path().join("etc")).unwrap();
        assert!(matches!(write(process, TEXT), Err(ResolvConfError::NotPlain)));
        assert_eq!(fs::read_to_string(&victim).unwrap(), "left alone");
    }

    #[test]
    fn the_hosts_own_is_left_alone() {
        if !rights_or_skip() {
            return;
        }
        let container = Container::start().unwrap();
        let process = Process::open(container.pid()).unwrap().id();
        assert!(matches!(write(process, TEXT), Err(ResolvConfError::OfHost)));
    }

    #[test]
    fn one_that_has_ended_is_told() {
        if !rights_or_skip() {
            return;
        }
        let mut container = Container::start().unwrap();
        let process = Process::open(container.pid()).unwrap().id();
        container.kill();
        assert!(matches!(write(process, TEXT), Err(ResolvConfError::Gone)));
    }
}
