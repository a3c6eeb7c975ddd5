//! One daemon per state directory, for as long as it lives: the kernel drops the lock with the process, however it ends.

use crate::private_file::make_private_dir;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Why a state directory is not ours.
#[derive(Debug, thiserror::Error)]
pub(super) enum LockError {
    #[error("another daemon{holder} uses {dir}: stop it first, or give this one a --data-dir of its own")]
    Held { dir: PathBuf, holder: String },
    #[error("the state directory {dir} cannot be used: {source}")]
    Unusable { dir: PathBuf, source: io::Error },
}

/// Held while the daemon runs.
#[derive(Debug)]
pub(super) struct InstanceLock(#[expect(dead_code, reason = "held, not used")] Flock<File>);

impl InstanceLock {
    /// Makes `dir`, for the owner only, and takes its lock.
    pub(super) fn take(dir: &Path) -> Result<Self, LockError> {
        let unusable = |source| LockError::Unusable { dir: dir.to_owned(), source };
        make_private_dir(dir).map_err(unusable)?;
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(dir.join("lock"));
        match Flock::lock(file.map_err(unusable)?, FlockArg::LockExclusiveNonblock) {
            Ok(mut lock) => {
                // The number is for people; the lock is what counts.
                let _ = lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id()));
                Ok(Self(lock))
            }
            Err((file, Errno::EWOULDBLOCK)) => Err(LockError::Held { dir: dir.to_owned(), holder: holder(file) }),
            Err((_, errno)) => Err(unusable(errno.into())),
        }
    }
}

fn holder(file: File) -> String {
    let mut text = String::new();
    let read = file.take(16).read_to_string(&mut text);
    let pid = text.trim();
    if read.is_ok() && !pid.is_empty() { format!(" (process {pid})") } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::temp_dir::TempDir;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn one_at_a_time() {
        let dir = TempDir::new();
        let state = dir.join("a/state");
        let first = InstanceLock::take(&state).unwrap();
        let error = InstanceLock::take(&state).unwrap_err().to_string();
        assert!(error.contains(&format!("(process {})", std::process::id())), "{error}");
        InstanceLock::take(&dir.join("b")).unwrap();
        drop(first);
        InstanceLock::take(&state).unwrap();
        assert_eq!(std::fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_directory_that_cannot_be_is_named() {
        let dir = TempDir::new();
        std::fs::write(dir.join("file"), "").unwrap();
        let error = InstanceLock::take(&dir.join("file/state")).unwrap_err();
        assert!(matches!(error, LockError::Unusable { .. }) && error.to_string().contains("file/state"));
    }
}
