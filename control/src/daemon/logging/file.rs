//! Log files: one a day, JSON lines, the oldest removed. Named as `zlayer-overlayd` names them: stem, dot, UTC date.
//!
//! Never in a directory that everybody may write to, nor through a link: somebody else could have put it there.

use super::LogFilesSetup;
use super::record::Record;
use crate::utc::{Date, date, day};
use nix::fcntl::OFlag;
use nix::unistd::geteuid;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The files of a daemon.
pub(super) struct LogFiles {
    setup: LogFilesSetup,
    today: Option<(Date, File)>,
}

impl LogFiles {
    pub(super) fn new(setup: &LogFilesSetup) -> Self {
        Self { setup: setup.clone(), today: None }
    }

    /// Opens the file of the day, and removes those that are too many.
    ///
    /// # Errors
    /// What is wrong with the place, in words.
    pub(super) fn open(&mut self, now: SystemTime) -> Result<(), String> {
        let dir = &self.setup.dir;
        let date = date(now);
        let file = safe_dir(dir).and_then(|()| {
            let flags = OFlag::O_NOFOLLOW.bits();
            let mut options = OpenOptions::new();
            options.append(true).create(true).mode(0o600).custom_flags(flags).open(self.path(date))
        });
        match file {
            Ok(file) => self.today = Some((date, file)),
            Err(error) => return Err(format!("no log files in {}: {error}", dir.display())),
        }
        self.prune();
        Ok(())
    }

    /// Writes a line to the file of its day.
    pub(super) fn write(&mut self, record: &Record) {
        if self.today.as_ref().is_none_or(|(day, _)| *day != date(record.time)) {
            // A day without room for its file is told by the console; the next line tries again.
            self.today = None;
            let _ = self.open(record.time);
        }
        if let Some((_, file)) = &mut self.today {
            let _ = file.write_all(record.json().as_bytes());
        }
    }

    fn path(&self, date: Date) -> PathBuf {
        self.setup.dir.join(format!("{}.{}", self.setup.stem, day(date)))
    }

    fn prune(&self) {
        let Ok(entries) = fs::read_dir(&self.setup.dir) else { return };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut ours: Vec<_> = names.filter(|name| self.is_ours(name)).collect();
        ours.sort_unstable();
        let surplus = ours.len().saturating_sub(self.setup.keep);
        for name in &ours[..surplus] {
            let _ = fs::remove_file(self.setup.dir.join(name));
        }
    }

    fn is_ours(&self, name: &str) -> bool {
        let date = name.strip_prefix(self.setup.stem).and_then(|rest| rest.strip_prefix('.'));
        date.is_some_and(|date| {
            date.len() == 10
                && date.bytes().enumerate().all(|(at, byte)| match at {
                    4 | 7 => byte == b'-',
                    _ => byte.is_ascii_digit(),
                })
        })
    }
}

/// Makes `dir` where it is missing, and refuses one that others can change.
fn safe_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o750).create(dir)?;
    let found = fs::symlink_metadata(dir)?;
    let refuse = |why: &str| Err(io::Error::other(why.to_owned()));
    if !found.is_dir() {
        return refuse("it is no directory");
    }
    if found.mode() & 0o002 != 0 {
        return refuse("everybody may write to it");
    }
    if ![0, geteuid().as_raw()].contains(&found.uid()) {
        return refuse("it belongs to another user");
    }
    // A parent that everybody may write to is safe only where the sticky bit keeps others from moving what is in it.
    for parent in fs::canonicalize(dir)?.ancestors().skip(1) {
        if fs::metadata(parent)?.mode() & 0o1002 == 0o002 {
            return refuse("everybody may write to a directory above it");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::temp_dir::TempDir;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;
    use std::time::{Duration, UNIX_EPOCH};
    use tracing::Level;

    const DAY: Duration = Duration::from_secs(86_400);

    fn files(dir: &Path, keep: usize) -> LogFiles {
        LogFiles::new(&LogFilesSetup { dir: dir.to_owned(), stem: "overlayd.log", keep })
    }

    fn record(day: u32) -> Record {
        Record { time: UNIX_EPOCH + DAY * day, ..Record::own(Level::INFO, format!("day {day}")) }
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_a_day_and_the_oldest_go() {
        let dir = TempDir::new();
        let place = dir.join("a/logs");
        let mut log = files(&place, 3);
        log.open(UNIX_EPOCH).unwrap();
        fs::write(place.join("overlayd.log.notes"), "").unwrap();
        fs::write(place.join("other.log.1970-01-01"), "").unwrap();
        for day in 0..5 {
            log.write(&record(day));
            log.write(&record(day));
        }
        let expected = [
            "other.log.1970-01-01",
            "overlayd.log.1970-01-03",
            "overlayd.log.1970-01-04",
            "overlayd.log.1970-01-05",
            "overlayd.log.notes",
        ];
        assert_eq!(names(&place), expected);
        let text = fs::read_to_string(place.join("overlayd.log.1970-01-05")).unwrap();
        assert_eq!(text.lines().count(), 2);
        assert!(text.contains("\"msg\":\"day 4\""), "{text}");
        assert_eq!(fs::metadata(place.join("overlayd.log.1970-01-05")).unwrap().mode() & 0o777, 0o600);
        // A restart goes on in the same file.
        let mut again = files(&place, 3);
        again.open(UNIX_EPOCH + DAY * 4).unwrap();
        again.write(&record(4));
        assert_eq!(fs::read_to_string(place.join("overlayd.log.1970-01-05")).unwrap().lines().count(), 3);
    }

    #[test]
    fn places_that_others_can_change_are_refused() {
        let dir = TempDir::new();
        let open = |path: &Path| files(path, 1).open(UNIX_EPOCH);
        let open_to_all = dir.join("open");
        fs::create_dir(&open_to_all).unwrap();
        fs::set_permissions(&open_to_all, Permissions::from_mode(0o777)).unwrap();
        assert!(open(&open_to_all).unwrap_err().contains("everybody may write to it"));
        assert!(open(&open_to_all.join("below")).unwrap_err().contains("above it"));
        std::os::unix::fs::symlink("/tmp", dir.join("link")).unwrap();
        assert!(open(&dir.join("link")).is_err());
        fs::write(dir.join("file"), "").unwrap();
        assert!(open(&dir.join("file")).is_err());
        // A link in the place of the file.
        let place = dir.join("logs");
        fs::create_dir(&place).unwrap();
        std::os::unix::fs::symlink(dir.join("victim"), place.join("overlayd.log.1970-01-01")).unwrap();
        assert!(open(&place).is_err() && !dir.join("victim").exists());
    }
}
