//! The identity of the node on disk: made once, kept for good.
//!
//! The file is readable by its owner only, is written beside its place and renamed into it after it reached the disk, and
//! is never overwritten: a file that holds no key is an error for a person to look at, since a new key would cut the node
//! off from every peer that knows the old one.

use crate::private_file::{self, make_private_dir};
use ginnel_engine::key::PrivateKey;
use nix::fcntl::OFlag;
use rand::TryRng;
use rand::rngs::SysRng;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Name of the file in the state directory.
const FILE_NAME: &str = "private.key";

/// More than a key and its line end, so that a longer file is seen to be something else.
const FILE_BYTES_MAX: u64 = 128;

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum KeyStoreError {
    /// The file is there and holds no key.
    #[error(
        "{0} does not hold a WireGuard private key: restore it from a backup, or remove it to start with a new identity, which every peer must then be told"
    )]
    Corrupt(PathBuf),
    /// The key of a service is stored as something that is none.
    #[error(
        "the state journal does not hold a WireGuard private key for this service: tear it down and set it up again"
    )]
    Stored,
    /// The system has no random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(String),
    /// The file cannot be read or written.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Where the identity is kept.
#[derive(Clone, Debug)]
pub struct KeyStore {
    dir: PathBuf,
}

impl KeyStore {
    /// A store in the state directory `dir`, which is made, mode 0700, when it is first needed.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The key of the file; a new one, written to it first, where there is no file. Blocks on the disk.
    ///
    /// # Errors
    /// [`KeyStoreError`]; an existing file is as before then.
    pub fn load_or_make(&self) -> Result<PrivateKey, KeyStoreError> {
        let path = self.dir.join(FILE_NAME);
        match read(&path)? {
            Some(key) => Ok(key),
            None => {
                let key = generate()?;
                self.write(&path, &key)?;
                tracing::info!(path = %path.display(), public_key = %key.public(), "made a new identity");
                Ok(key)
            }
        }
    }

    fn write(&self, path: &Path, key: &PrivateKey) -> Result<(), KeyStoreError> {
        make_private_dir(&self.dir).map_err(failed("make the directory", &self.dir))?;
        let text = Zeroizing::new(format!("{}\n", *Zeroizing::new(key.to_base64())));
        private_file::replace(path, text.as_bytes()).map_err(failed("write", path))
    }
}

fn read(path: &Path) -> Result<Option<PrivateKey>, KeyStoreError> {
    let opened =
        OpenOptions::new().read(true).custom_flags(OFlag::O_NOFOLLOW.bits() | OFlag::O_NONBLOCK.bits()).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("open", path)(error)),
    };
    let meta = file.metadata().map_err(failed("look at", path))?;
    if !meta.is_file() {
        return Err(KeyStoreError::Corrupt(path.to_owned()));
    }
    if meta.permissions().mode() & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "the private key was readable by others; now it is not");
        file.set_permissions(fs::Permissions::from_mode(0o600)).map_err(failed("protect", path))?;
    }
    let mut text = Zeroizing::new(String::with_capacity(FILE_BYTES_MAX as usize));
    match file.take(FILE_BYTES_MAX).read_to_string(&mut text) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Err(KeyStoreError::Corrupt(path.to_owned()));
        }
        Err(error) => return Err(failed("read", path)(error)),
    }
    PrivateKey::from_base64(text.trim()).map(Some).map_err(|_| KeyStoreError::Corrupt(path.to_owned()))
}

/// A new private key.
pub(super) fn generate() -> Result<PrivateKey, KeyStoreError> {
    let mut bytes = Zeroizing::new([0; 32]);
    SysRng.try_fill_bytes(bytes.as_mut_slice()).map_err(|error| KeyStoreError::Random(error.to_string()))?;
    Ok(PrivateKey::new(*bytes))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KeyStoreError {
    move |source| KeyStoreError::File { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::temp_dir::TempDir;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn the_key_stays_and_is_private() {
        let dir = TempDir::new();
        let store = KeyStore::new(dir.join("deep/state"));
        let key = store.load_or_make().unwrap();
        assert!(store.load_or_make().unwrap() == key);
        assert_eq!(mode(&dir.join("deep/state")), 0o700);
        assert_eq!(mode(&dir.join("deep/state/private.key")), 0o600);
        assert_eq!(fs::read_dir(dir.join("deep/state")).unwrap().count(), 1);
        let other = KeyStore::new(dir.join("other")).load_or_make().unwrap();
        assert!(other != key);
    }

    #[test]
    fn what_is_no_key_is_left_alone() {
        let dir = TempDir::new();
        let store = KeyStore::new(dir.path());
        let path = dir.join(FILE_NAME);
        for content in [b"".as_slice(), b"hello\n", b"\xff\xfe", &[b'A'; 4096], b"AAAA"] {
            fs::write(&path, content).unwrap();
            assert!(matches!(store.load_or_make(), Err(KeyStoreError::Corrupt(_))));
            assert_eq!(fs::read(&path).unwrap(), content);
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(store.load_or_make(), Err(KeyStoreError::Corrupt(_))));
        fs::remove_dir(&path).unwrap();
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert!(matches!(store.load_or_make(), Err(KeyStoreError::File { .. })));
    }

    #[test]
    fn a_crash_before_the_rename_and_a_lax_mode_are_mended() {
        let dir = TempDir::new();
        let store = KeyStore::new(dir.path());
        fs::write(dir.join("private.key.new"), "half a k").unwrap();
        let key = store.load_or_make().unwrap();
        fs::set_permissions(dir.join(FILE_NAME), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(store.load_or_make().unwrap() == key);
        assert_eq!(mode(&dir.join(FILE_NAME)), 0o600);
    }
}
