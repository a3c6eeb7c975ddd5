//! Files and directories that are nobody else's business: keys, state, records of what belongs to whom.
//!
//! A file is written beside its place and renamed into it once it is on disk, so at every moment there is the old one or
//! the new one, whole. Two writers of one file at once are not provided for: the state directory has one daemon.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Makes `dir` and its missing parents; `dir` itself, if it is made here, for its owner only.
///
/// # Errors
/// What the system says.
pub(crate) fn make_private_dir(dir: &Path) -> io::Result<()> {
    if let Some(parent) = dir.parent() {
        fs::create_dir_all(parent)?;
    }
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        made => made,
    }
}

/// A file that is on disk beside the place it is for.
#[derive(Debug)]
pub(crate) struct Staged {
    file: File,
    staged: PathBuf,
    place: PathBuf,
}

impl Staged {
    /// Writes `content` to disk beside `place`, mode 0600.
    ///
    /// # Errors
    /// What the system says; `place` is as before.
    pub(crate) fn write(place: &Path, content: &[u8]) -> io::Result<Self> {
        let mut name = place.file_name().map(OsString::from).unwrap_or_default();
        name.push(".new");
        let staged = place.with_file_name(name);
        // What an earlier crash left here never came to its place.
        match fs::remove_file(&staged) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&staged)?;
        let written = file.write_all(content).and_then(|()| file.sync_all());
        if let Err(error) = written {
            // It may be what fills the disk.
            let _ = fs::remove_file(&staged);
            return Err(error);
        }
        Ok(Self { file, staged, place: place.to_owned() })
    }

    /// Moves the file into its place and returns it. That outlives a crash once the directory is on disk, see
    /// [`sync_dir_of`].
    ///
    /// # Errors
    /// What the system says; `place` is as before.
    pub(crate) fn settle(self) -> io::Result<File> {
        fs::rename(&self.staged, &self.place)?;
        Ok(self.file)
    }
}

/// Brings the directory of `path` to disk: names given and taken there last.
///
/// # Errors
/// What the system says.
pub(crate) fn sync_dir_of(path: &Path) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir)?.sync_all()
}

/// Makes `content` the content of the file at `path`, whole and on disk.
///
/// # Errors
/// What the system says; the content is the old one, or the new one that may not outlive a crash.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    Staged::write(path, content)?.settle()?;
    sync_dir_of(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::temp_dir::TempDir;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn content_is_replaced_whole_and_is_private() {
        let dir = TempDir::new();
        make_private_dir(&dir.join("deep/state")).unwrap();
        make_private_dir(&dir.join("deep/state")).unwrap();
        let path = dir.join("deep/state/file");
        fs::write(dir.join("deep/state/file.new"), "of a crash").unwrap();
        for content in ["first", "second"] {
            replace(&path, content.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(&dir.join("deep/state")), mode(&path)), (0o700, 0o600));
        assert_eq!(fs::read_dir(dir.join("deep/state")).unwrap().count(), 1);
    }

    #[test]
    fn the_place_is_as_before_until_the_file_settles() {
        let dir = TempDir::new();
        let path = dir.join("file");
        fs::write(&path, "old").unwrap();
        let staged = Staged::write(&path, b"new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        staged.settle().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        fs::create_dir(dir.join("taken.new")).unwrap();
        assert!(replace(&dir.join("taken"), b"x").is_err() && !dir.join("taken").exists());
        assert!(replace(&dir.join("none/file"), b"x").is_err());
    }
}
