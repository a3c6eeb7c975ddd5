//! The store as its users see it: open it, read it, commit to it.

use super::file::{JournalFile, Medium};
use super::journal::VERSION;
use super::record::{Record, Transaction};
use super::report::{Outcome, Report};
use super::tables::Tables;
use super::writer::Writer;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;
use tokio::sync::{mpsc, oneshot};

/// Transactions that wait for the writer. Each request waits for its own, and there are fewer requests at once than this.
const WAITING_MAX: usize = 4096;

/// Transactions of one batch. A sync costs as much as writing some hundred lines, so beyond that nothing is gained and
/// the first would wait for the last.
const BATCH_MAX: usize = 256;

/// Why a store could not be opened, or did not take a change.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// A later version wrote the file.
    #[error(
        "{path} has schema version {found} and this daemon knows up to {VERSION}: start the version that wrote it, or name another --data-dir"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// The file or its directory cannot be opened.
    #[error("the state journal in {dir} cannot be opened: {source}")]
    Unreadable {
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The change could not be brought to disk.
    #[error(
        "the change cannot be stored, so it is not made: {source}; free or mend the disk of the state directory and repeat it"
    )]
    Write {
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The disk is slower than the changes come.
    #[error("{WAITING_MAX} changes wait for the disk of the state directory already: repeat it in a moment")]
    Busy,
    /// The writer has ended.
    #[error("the state store is closed")]
    Closed,
}

/// How a store is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// What was lost when it was opened.
    pub damage: Option<String>,
    /// Why changes are refused.
    pub failure: Option<String>,
}

impl Health {
    /// What an operator must know, if anything.
    pub fn warnings(&self) -> impl Iterator<Item = &str> {
        self.damage.iter().chain(&self.failure).map(String::as_str)
    }
}

struct Commit {
    transaction: Transaction,
    done: oneshot::Sender<Result<(), StoreError>>,
}

/// A transaction in line.
#[derive(Debug)]
pub struct Pending(oneshot::Receiver<Result<(), StoreError>>);

impl Pending {
    /// Returns once it is durable and visible.
    ///
    /// # Errors
    /// [`StoreError`]; nothing has changed then.
    pub async fn done(self) -> Result<(), StoreError> {
        self.0.await.map_err(|_| StoreError::Closed)?
    }
}

/// A store. Clones share it; it is closed with the last.
#[derive(Clone)]
pub struct Store {
    queue: mpsc::Sender<Commit>,
    tables: Arc<RwLock<Tables>>,
    health: Arc<Mutex<Health>>,
}

impl Store {
    /// Opens the store in `dir`, or makes one. Blocks on the disk. A disk that cannot be written is no error yet: changes
    /// are refused until it can.
    ///
    /// # Errors
    /// [`StoreError::Newer`], [`StoreError::Unreadable`]; nothing has changed then.
    pub fn open(dir: &Path) -> Result<(Self, Report), StoreError> {
        let unreadable = |source| StoreError::Unreadable { dir: dir.to_owned(), source: Arc::new(source) };
        let (file, content) = JournalFile::open(dir).map_err(unreadable)?;
        let path = file.path().to_owned();
        let opened = Writer::open(file, content.as_deref());
        let (writer, report, failure) = opened.map_err(|found| StoreError::Newer { path, found })?;
        match &report.outcome {
            Outcome::Damaged { .. } => tracing::error!("{report}"),
            Outcome::Torn { .. } => tracing::warn!("{report}"),
            Outcome::New | Outcome::Sound => tracing::debug!("{report}"),
        }
        let health = Health { damage: report.warning(), failure: failure.map(|error| refusal(error).to_string()) };
        let health = Arc::new(Mutex::new(health));
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        let store = Self { queue, tables: writer.tables(), health: health.clone() };
        let work = move || write_all(writer, waiting, &health);
        thread::Builder::new().name("state".to_owned()).spawn(work).map_err(unreadable)?;
        Ok((store, report))
    }

    /// Makes `transaction` durable, then visible. Whoever stops waiting does not stop it.
    ///
    /// # Errors
    /// [`StoreError`]; nothing has changed then.
    pub async fn commit(&self, transaction: Transaction) -> Result<(), StoreError> {
        if transaction.is_empty() {
            return Ok(());
        }
        self.enqueue(transaction)?.done().await
    }

    /// Puts `transaction` in line without waiting, so that a caller who decides under a lock of its own can have the order
    /// of the decisions be that of the changes.
    ///
    /// # Errors
    /// [`StoreError`]; nothing has changed then, nor will.
    pub fn enqueue(&self, transaction: Transaction) -> Result<Pending, StoreError> {
        let (done, outcome) = oneshot::channel();
        self.queue.try_send(Commit { transaction, done }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => StoreError::Busy,
            mpsc::error::TrySendError::Closed(_) => StoreError::Closed,
        })?;
        Ok(Pending(outcome))
    }

    /// Looks at the objects. `look` must be short: the writer waits for it.
    pub fn read<T>(&self, look: impl FnOnce(&Tables) -> T) -> T {
        look(&self.tables.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// All objects of one type, by id.
    #[must_use]
    pub fn all<T: Record>(&self) -> Vec<T> {
        self.read(|tables| tables.all::<T>().cloned().collect())
    }

    /// The object of this type and id.
    #[must_use]
    pub fn find<T: Record>(&self, id: &str) -> Option<T> {
        self.read(|tables| tables.find::<T>(id).cloned())
    }

    /// Upgrades until the writer has ended, too, and the file is whoever opens it next's.
    #[cfg(test)]
    pub(crate) fn life(&self) -> std::sync::Weak<RwLock<Tables>> {
        Arc::downgrade(&self.tables)
    }

    /// How the store is.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The writer thread: ends with the last [`Store`].
fn write_all<M: Medium>(mut writer: Writer<M>, mut waiting: mpsc::Receiver<Commit>, health: &Mutex<Health>) {
    let (mut batch, mut askers) = (Vec::new(), Vec::new());
    while let Some(first) = waiting.blocking_recv() {
        let more = std::iter::from_fn(|| waiting.try_recv().ok());
        for Commit { transaction, done } in std::iter::once(first).chain(more).take(BATCH_MAX) {
            batch.push(transaction);
            askers.push(done);
        }
        let outcome = writer.commit(&mut batch).map_err(refusal);
        batch.clear();
        health.lock().unwrap_or_else(PoisonError::into_inner).failure = outcome.as_ref().err().map(ToString::to_string);
        for done in askers.drain(..) {
            // Whoever no longer waits does not need to be told.
            let _ = done.send(outcome.clone());
        }
    }
}

fn refusal(source: io::Error) -> StoreError {
    StoreError::Write { source: Arc::new(source) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Lease, Name, Settings};
    use crate::temp_dir::TempDir;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn open(dir: &TempDir) -> (Store, Report) {
        Store::open(&dir.join("state")).unwrap()
    }

    fn lease(number: u8) -> Lease {
        Lease { ip: [10, 0, 0, number].into(), owner: "x".into(), generation: 1, given_ms: 0, released_ms: None }
    }

    fn node(number: u64) -> Settings {
        Settings { node_id: Some(number), advertised_key: None }
    }

    fn journal(dir: &TempDir) -> std::path::PathBuf {
        dir.join("state/journal")
    }

    #[tokio::test]
    async fn what_is_committed_is_there_after_the_next_start() {
        let dir = TempDir::new();
        let (store, report) = open(&dir);
        assert_eq!(report.outcome, Outcome::New);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(&dir.join("state")), mode(&journal(&dir))), (0o700, 0o600));
        store.commit(Transaction::new().put(lease(1)).put(lease(2)).put(node(7))).await.unwrap();
        store.commit(Transaction::new().delete::<Lease>("10.0.0.1").put(node(8))).await.unwrap();
        store.commit(Transaction::new()).await.unwrap();
        let seen = |store: &Store| (store.all::<Lease>(), store.find::<Settings>(""), store.all::<Name>());
        let expected = (vec![lease(2)], Some(node(8)), vec![]);
        assert_eq!(seen(&store), expected);
        drop(store);
        let (store, report) = open(&dir);
        assert_eq!(report, Report { objects: 2, transactions: 2, outcome: Outcome::Sound });
        assert_eq!(seen(&store), expected);
    }

    #[tokio::test]
    async fn many_committers_share_syncs_and_all_are_kept() {
        let dir = TempDir::new();
        let (store, _) = open(&dir);
        let tasks: Vec<_> = (0..100_u8)
            .map(|number| {
                let store = store.clone();
                tokio::spawn(async move { store.commit(Transaction::new().put(lease(number))).await })
            })
            .collect();
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        drop(store);
        assert_eq!(open(&dir).0.all::<Lease>().len(), 100);
    }

    #[tokio::test]
    async fn a_later_version_is_left_alone() {
        let dir = TempDir::new();
        drop(open(&dir));
        let text = fs::read_to_string(journal(&dir)).unwrap();
        let newer = text[17..].trim().replace("\"version\":1", "\"version\":2");
        let sum = {
            use std::hash::Hasher;
            let mut hasher = siphasher::sip::SipHasher13::new_with_keys(0, 0);
            hasher.write(newer.as_bytes());
            hasher.finish()
        };
        let newer = format!("{sum:016x} {newer}\n");
        fs::write(journal(&dir), &newer).unwrap();
        let error = Store::open(&dir.join("state")).err().unwrap();
        assert!(matches!(error, StoreError::Newer { found: 2, .. }), "{error}");
        assert!(error.to_string().contains("start the version that wrote it"));
        assert_eq!(fs::read_to_string(journal(&dir)).unwrap(), newer);
    }

    #[tokio::test]
    async fn a_damaged_file_is_kept_and_what_it_still_says_is_used() {
        let dir = TempDir::new();
        let (store, _) = open(&dir);
        for number in 0..5 {
            store.commit(Transaction::new().put(lease(number))).await.unwrap();
        }
        drop(store);
        let mut bytes = fs::read(journal(&dir)).unwrap();
        let middle = bytes.windows(8).position(|window| window == b"10.0.0.2").unwrap();
        bytes[middle] = b'9';
        fs::write(journal(&dir), &bytes).unwrap();

        let (store, report) = open(&dir);
        let Outcome::Damaged { spans, lost, kept: Some(kept) } = &report.outcome else { panic!("{report}") };
        assert_eq!((spans.len(), &lost[..]), (1, &[3..=3][..]));
        assert_eq!(fs::read(kept).unwrap(), bytes);
        assert_eq!(store.all::<Lease>(), [0, 1, 3, 4].map(lease));
        let told = store.health().damage.unwrap();
        assert!(
            told.contains("4 objects") && told.contains("lost transactions 3,") && told.contains("journal.damaged-"),
            "{told}"
        );
        drop(store);
        assert_eq!(open(&dir).1, Report { objects: 4, transactions: 4, outcome: Outcome::Sound });
    }

    #[tokio::test]
    async fn an_empty_file_is_damage_and_not_a_new_store() {
        let dir = TempDir::new();
        drop(open(&dir));
        fs::write(journal(&dir), "").unwrap();
        let (store, report) = open(&dir);
        assert!(matches!(report.outcome, Outcome::Damaged { kept: Some(_), .. }), "{report}");
        assert!(store.health().damage.is_some());
    }

    #[tokio::test]
    async fn a_removed_file_is_noticed_and_made_again() {
        let dir = TempDir::new();
        let (store, _) = open(&dir);
        store.commit(Transaction::new().put(lease(1))).await.unwrap();
        fs::remove_file(journal(&dir)).unwrap();
        let error = store.commit(Transaction::new().put(lease(2))).await.unwrap_err();
        assert!(error.to_string().contains("somebody removed the state journal"), "{error}");
        assert_eq!(store.health().failure, Some(error.to_string()));
        assert_eq!(store.all::<Lease>(), [lease(1)]);
        store.commit(Transaction::new().put(lease(3))).await.unwrap();
        assert_eq!(store.health(), Health::default());
        drop(store);
        assert_eq!(open(&dir).0.all::<Lease>(), [lease(1), lease(3)]);
    }

    #[tokio::test]
    async fn what_is_no_journal_is_refused() {
        let dir = TempDir::new();
        fs::create_dir_all(journal(&dir)).unwrap();
        assert!(matches!(Store::open(&dir.join("state")), Err(StoreError::Unreadable { .. })));
        fs::remove_dir(journal(&dir)).unwrap();
        std::os::unix::fs::symlink("/dev/null", journal(&dir)).unwrap();
        assert!(matches!(Store::open(&dir.join("state")), Err(StoreError::Unreadable { .. })));
    }
}
