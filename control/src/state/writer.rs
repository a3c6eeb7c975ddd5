//! The one who writes: transactions in, durable lines out.
//!
//! A batch is one append and one sync, however many wait. Where that fails the batch is refused as a whole, its bytes are
//! cut off again, and nothing in memory changes. Where even the cutting fails, or the kernel says that it lost written
//! data, the file is in doubt: the next batch is preceded by writing it anew from memory, which is the truth. Should the
//! process die before that, the next start may find what was refused.

use super::file::Medium;
use super::journal::{Reading, Verdict, read_journal, write_snapshot, write_transaction};
use super::record::Transaction;
use super::report::{Outcome, Report};
use super::tables::Tables;
use crate::log_budget::LogBudget;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};
use zeroize::{Zeroize, Zeroizing};

/// The file is written anew when this much was appended to it, and at least as much as the snapshot in it has: so the
/// cost of rewriting is that of appending, and a start never reads more than twice the objects there are. Below, a small
/// store would be written anew all the time.
const GROWTH_BYTES_MIN: u64 = 1 << 20;

/// A disk that refuses is complained of no more often than this.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(10);

/// A journal and where its writer is in it.
pub(super) struct Writer<M> {
    medium: M,
    id: String,
    tables: Arc<RwLock<Tables>>,
    /// Number of the last line.
    last: u64,
    /// Bytes that count.
    length: u64,
    /// Length at which the file is to be written anew.
    length_max: u64,
    /// The file may not be what was written.
    in_doubt: bool,
    /// The file is damaged and has to be kept before it is written anew.
    to_keep: bool,
    text: Vec<u8>,
    complaints: LogBudget,
}

impl<M: Medium> Writer<M> {
    /// A writer behind `content`, which is what `medium` holds; `None` for a new journal. Tells what was found, and why
    /// nothing can be written yet, if that is so.
    ///
    /// # Errors
    /// The version of a journal that is too new to be read.
    pub(super) fn open(medium: M, content: Option<&[u8]>) -> Result<(Self, Report, Option<io::Error>), u32> {
        let mut writer = Self {
            medium,
            id: new_id(),
            tables: Arc::default(),
            last: 0,
            length: 0,
            length_max: 0,
            in_doubt: false,
            to_keep: false,
            text: Vec::new(),
            complaints: LogBudget::new(1, COMPLAINT_INTERVAL),
        };
        let Some(content) = content else {
            writer.in_doubt = true;
            let failure = writer.rewrite().err();
            return Ok((writer, Report { objects: 0, transactions: 0, outcome: Outcome::New }, failure));
        };
        let Reading { id, tables, last, transactions, verdict } = read_journal(content);
        let objects = tables.len();
        if let Some(id) = id {
            writer.id = id;
        }
        writer.tables = Arc::new(RwLock::new(tables));
        (writer.last, writer.length) = (last, content.len() as u64);
        let (outcome, settled) = match verdict {
            Verdict::Newer { version } => return Err(version),
            Verdict::Sound => (Outcome::Sound, Ok(())),
            Verdict::Torn { length, bytes, transactions } => {
                writer.length = length;
                let cut = writer.medium.cut(length).and_then(|()| writer.medium.sync());
                writer.in_doubt = cut.is_err();
                (Outcome::Torn { bytes, transactions }, cut)
            }
            Verdict::Damaged { spans, lost } => {
                (writer.in_doubt, writer.to_keep) = (true, true);
                let kept = writer.keep();
                let outcome = Outcome::Damaged { spans, lost, kept: kept.as_ref().ok().cloned().flatten() };
                (outcome, kept.and_then(|_| writer.rewrite()))
            }
        };
        writer.length_max = writer.length + GROWTH_BYTES_MIN.max(writer.length);
        Ok((writer, Report { objects, transactions, outcome }, settled.err()))
    }

    /// What has been made durable.
    pub(super) fn tables(&self) -> Arc<RwLock<Tables>> {
        self.tables.clone()
    }

    #[cfg(test)]
    pub(super) fn medium(&mut self) -> &mut M {
        &mut self.medium
    }

    #[cfg(test)]
    pub(super) fn is_in_doubt(&self) -> bool {
        self.in_doubt
    }

    /// The state of a commit between its two steps.
    #[cfg(test)]
    pub(super) fn append_only(&mut self, batch: &[Transaction]) {
        self.encode(batch);
        let _ = self.medium.append(self.length, &self.text);
    }

    #[cfg(test)]
    pub(super) fn into_medium(self) -> M
    where
        M: Default,
    {
        let mut writer = self;
        std::mem::take(&mut writer.medium)
    }

    /// Makes `batch` durable, then visible, and empties it.
    ///
    /// # Errors
    /// What the system says; nothing has changed then.
    pub(super) fn commit(&mut self, batch: &mut Vec<Transaction>) -> io::Result<()> {
        if self.in_doubt {
            self.rewrite()?;
        }
        self.encode(batch);
        self.append()?;
        self.last += batch.len() as u64;
        self.length += self.text.len() as u64;
        {
            let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
            batch.drain(..).for_each(|transaction| tables.apply(transaction));
        }
        if self.length > self.length_max
            && let Err(error) = self.rewrite()
        {
            tracing::warn!(%error, "the state journal could not be written anew");
            self.length_max += GROWTH_BYTES_MIN;
        }
        Ok(())
    }

    fn encode(&mut self, batch: &[Transaction]) {
        self.text.zeroize();
        for (number, transaction) in (self.last + 1..).zip(batch) {
            write_transaction(&mut self.text, number, self.last, transaction);
        }
    }

    fn append(&mut self) -> io::Result<()> {
        let appended = self.medium.append(self.length, &self.text);
        // Data that a sync lost may still be shown to those who read, so nothing can be built on it.
        let sync_failed = appended.is_ok();
        let written = appended.and_then(|()| self.medium.sync());
        if let Err(error) = &written {
            let cut = self.medium.cut(self.length).and_then(|()| self.medium.sync());
            self.in_doubt = sync_failed || cut.is_err();
            if let Some(withheld) = self.complaints.admit(Instant::now()) {
                tracing::error!(%error, in_doubt = self.in_doubt, withheld, "the state journal cannot be written: changes are refused until it can");
            }
        }
        written
    }

    /// Writes the file anew from memory.
    pub(super) fn rewrite(&mut self) -> io::Result<()> {
        self.keep()?;
        // Not in the buffer of the batches, which would be as large from then on, and wiped as a whole with each.
        let mut text = Zeroizing::new(Vec::new());
        let last = {
            let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
            write_snapshot(&mut text, &self.id, &tables)
        };
        self.medium.stage(&text)?;
        // Where the next step fails, either file is there, and whole; which one is not known.
        self.in_doubt = true;
        self.medium.settle()?;
        self.in_doubt = false;
        self.last = last;
        self.length = text.len() as u64;
        self.length_max = self.length + GROWTH_BYTES_MIN.max(self.length);
        Ok(())
    }

    /// Keeps the file where that is still to be done.
    fn keep(&mut self) -> io::Result<Option<PathBuf>> {
        if !self.to_keep {
            return Ok(None);
        }
        let kept =
            self.medium.keep().inspect_err(|error| tracing::error!(%error, "the damaged journal cannot be kept"))?;
        self.to_keep = false;
        Ok(Some(kept))
    }
}

impl<M> Drop for Writer<M> {
    fn drop(&mut self) {
        // It holds keys.
        self.text.zeroize();
    }
}

fn new_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}
