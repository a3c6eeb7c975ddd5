//! The journal as a file: where the writer's bytes go.

use crate::private_file::{Staged, make_private_dir, sync_dir_of};
use nix::fcntl::OFlag;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Name of the file in the state directory.
const FILE_NAME: &str = "journal";

/// A file above this is not a journal: it is written anew long before, at some megabytes.
const BYTES_MAX: u64 = 1 << 30;

/// Damaged files kept. More than this many times in a second is a loop, not damage.
const KEPT_A_SECOND_MAX: u32 = 8;

/// Where a journal is written.
pub(super) trait Medium: Send + 'static {
    /// Writes `bytes` at `offset`, the end.
    fn append(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Returns when everything written is on disk.
    fn sync(&mut self) -> io::Result<()>;

    /// Cuts the file to `length` bytes.
    fn cut(&mut self, length: u64) -> io::Result<()>;

    /// Brings `content` to disk beside the journal. Nothing has changed where that fails.
    fn stage(&mut self, content: &[u8]) -> io::Result<()>;

    /// Makes what was staged the whole content, at once and on disk.
    fn settle(&mut self) -> io::Result<()>;

    /// Keeps the content as it is under another name, which is returned.
    fn keep(&mut self) -> io::Result<PathBuf>;
}

/// The real one.
#[derive(Debug)]
pub(super) struct JournalFile {
    path: PathBuf,
    /// `None` before the first [`Medium::settle`] of a new store.
    file: Option<File>,
    staged: Option<Staged>,
}

impl JournalFile {
    /// Opens the journal in `dir`, which is made where it is missing. Returns the content of the file, if there is one.
    pub(super) fn open(dir: &Path) -> io::Result<(Self, Option<Vec<u8>>)> {
        make_private_dir(dir)?;
        let path = dir.join(FILE_NAME);
        let mut options = OpenOptions::new();
        let opened = options.read(true).write(true).custom_flags(OFlag::O_NOFOLLOW.bits()).open(&path);
        let mut file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok((Self { path, file: None, staged: None }, None));
            }
            Err(error) => return Err(error),
        };
        let meta = file.metadata()?;
        if !meta.is_file() || meta.len() > BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no journal"));
        }
        if meta.permissions().mode() & 0o077 != 0 {
            tracing::warn!(path = %path.display(), "the state journal was readable by others; now it is not");
            file.set_permissions(Permissions::from_mode(0o600))?;
        }
        let mut content = Vec::new();
        file.read_to_end(&mut content)?;
        Ok((Self { path, file: Some(file), staged: None }, Some(content)))
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn file(&self) -> io::Result<&File> {
        self.file.as_ref().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Medium for JournalFile {
    fn append(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file()?.write_all_at(bytes, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        let file = self.file()?;
        file.sync_data()?;
        // What is written to a file without a name is gone with the process.
        match file.metadata()?.nlink() {
            0 => Err(io::Error::new(io::ErrorKind::NotFound, "somebody removed the state journal")),
            _ => Ok(()),
        }
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.file()?.set_len(length)
    }

    fn stage(&mut self, content: &[u8]) -> io::Result<()> {
        if let Some(dir) = self.path.parent() {
            make_private_dir(dir)?;
        }
        self.staged = Some(Staged::write(&self.path, content)?);
        Ok(())
    }

    fn settle(&mut self) -> io::Result<()> {
        let staged = self.staged.take().ok_or(io::ErrorKind::NotFound)?;
        self.file = Some(staged.settle()?);
        sync_dir_of(&self.path)
    }

    fn keep(&mut self) -> io::Result<PathBuf> {
        // A second name, under which the file stays when the first is given to another.
        let secs = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut error = io::Error::from(io::ErrorKind::AlreadyExists);
        for number in 0..KEPT_A_SECOND_MAX {
            let kept = self.path.with_file_name(format!("{FILE_NAME}.damaged-{secs}-{number}"));
            match fs::hard_link(&self.path, &kept) {
                Ok(()) => return sync_dir_of(&kept).map(|()| kept),
                Err(failure) => error = failure,
            }
        }
        Err(error)
    }
}
