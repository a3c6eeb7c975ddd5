//! The journal of systemd, in its own words: a datagram of `NAME=value` lines for each record (systemd, Journal Native
//! Protocol), so that every field can be asked for.

use super::record::Record;
use nix::sys::stat::fstat;
use std::io::{self, stderr};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use tracing::Level;

/// Where the journal listens.
const SOCKET: &str = "/run/systemd/journal/socket";

/// The way to the journal.
pub(super) struct Journal {
    socket: UnixDatagram,
    identifier: &'static str,
}

impl Journal {
    /// The journal of this machine, if it has one.
    pub(super) fn connect(identifier: &'static str) -> Option<Self> {
        Self::connect_to(Path::new(SOCKET), identifier).ok()
    }

    fn connect_to(path: &Path, identifier: &'static str) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        // A journal that does not keep pace must not hold us up.
        socket.set_nonblocking(true)?;
        Ok(Self { socket, identifier })
    }

    /// Sends a record.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn send(&self, record: &Record) -> io::Result<()> {
        self.socket.send(&encode(record, self.identifier)).map(drop)
    }
}

/// Whether standard error leads to the journal: systemd tells device and inode of what it connected.
pub(super) fn is_standard_error() -> bool {
    let told = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let found = fstat(stderr()).map(|stat| format!("{}:{}", stat.st_dev, stat.st_ino));
    found.is_ok_and(|found| found == told)
}

fn encode(record: &Record, identifier: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    put(&mut bytes, "MESSAGE", &record.words());
    put(&mut bytes, "PRIORITY", priority(record.level));
    put(&mut bytes, "SYSLOG_IDENTIFIER", identifier);
    put(&mut bytes, "TARGET", record.target);
    for (name, value) in &record.fields {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        put(&mut bytes, &field_name(name), &text);
    }
    bytes
}

/// A value with a line feed goes with its length before it.
fn put(bytes: &mut Vec<u8>, name: &str, value: &str) {
    bytes.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        bytes.push(b'\n');
        bytes.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        bytes.push(b'=');
    }
    bytes.extend_from_slice(value.as_bytes());
    bytes.push(b'\n');
}

/// Capitals, digits and underscores; ours begin alike, so that none takes a name the journal knows otherwise.
fn field_name(name: &str) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    let name: String = name.chars().map(letter).take(50).collect();
    format!("GINNEL_{name}")
}

/// Levels of syslog(3).
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        Level::DEBUG | Level::TRACE => "7",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::temp_dir::TempDir;

    #[test]
    fn a_record_arrives_with_its_fields() {
        let dir = TempDir::new();
        let journal = UnixDatagram::bind(dir.join("socket")).unwrap();
        let near = Journal::connect_to(&dir.join("socket"), "ginneld").unwrap();
        let mut record = Record::own(Level::WARN, "refused: no");
        record.target = "a::b";
        record.fields = vec![("op", "add_peer".into()), ("uid", 7.into()), ("dotted.name", "two\nlines".into())];
        near.send(&record).unwrap();
        let mut bytes = [0; 1024];
        let length = journal.recv(&mut bytes).unwrap();
        let expected = b"MESSAGE=refused: no op=add_peer uid=7 dotted.name=\"two\\nlines\"\nPRIORITY=4\n\
            SYSLOG_IDENTIFIER=ginneld\nTARGET=a::b\nGINNEL_OP=add_peer\nGINNEL_UID=7\n\
            GINNEL_DOTTED_NAME\n\x09\0\0\0\0\0\0\0two\nlines\n";
        assert_eq!(String::from_utf8_lossy(&bytes[..length]), String::from_utf8_lossy(expected));
    }

    #[test]
    fn a_journal_that_does_not_read_holds_nobody_up() {
        let dir = TempDir::new();
        let _journal = UnixDatagram::bind(dir.join("socket")).unwrap();
        let near = Journal::connect_to(&dir.join("socket"), "x").unwrap();
        let record = Record::own(Level::INFO, "x".repeat(4_000));
        assert!((0..10_000).any(|_| near.send(&record).is_err()));
        assert!(Journal::connect_to(&dir.join("none"), "x").is_err());
    }
}
