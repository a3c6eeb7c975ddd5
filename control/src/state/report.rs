//! What was found when a store was opened, for logs and for `status`.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// Bytes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Where they begin.
    pub offset: u64,
    /// How many.
    pub bytes: u64,
}

/// What a store found on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Objects there are.
    pub objects: usize,
    /// Transactions they were read from.
    pub transactions: u64,
    /// How that went.
    pub outcome: Outcome,
}

/// The state of the file that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There was none: a new store.
    New,
    /// As it was written.
    Sound,
    /// Its tail was never confirmed to anybody and was cut off: the trace of a crash while writing.
    Torn {
        /// Bytes cut off.
        bytes: u64,
        /// Whole transactions among them.
        transactions: u64,
    },
    /// Parts of what was confirmed are lost; everything else was recovered.
    Damaged {
        /// What cannot be read.
        spans: Vec<Span>,
        /// Numbers of the transactions that are lost.
        lost: Vec<RangeInclusive<u64>>,
        /// Where the damaged file is kept; `None` where that could not be done and it is still in its place.
        kept: Option<PathBuf>,
    },
}

impl Report {
    /// What an operator must know, if anything.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        match self.outcome {
            Outcome::Damaged { .. } => Some(self.to_string()),
            Outcome::New | Outcome::Sound | Outcome::Torn { .. } => None,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { objects, transactions, outcome } = self;
        match outcome {
            Outcome::New => f.write_str("a new state store"),
            Outcome::Sound => write!(f, "{objects} objects from {transactions} transactions"),
            Outcome::Torn { bytes, transactions: dropped } => write!(
                f,
                "{objects} objects from {transactions} transactions; the last {bytes} bytes, {dropped} whole transactions among them, were never confirmed and are cut off"
            ),
            Outcome::Damaged { spans, lost, kept } => {
                write!(
                    f,
                    "the state journal was damaged: {objects} objects from {transactions} transactions recovered, "
                )?;
                match lost.is_empty() {
                    true => f.write_str("none known to be lost")?,
                    false => write!(f, "lost transactions {}", list(lost.iter().map(range)))?,
                }
                if !spans.is_empty() {
                    write!(f, ", unreadable bytes {}", list(spans.iter().map(bytes)))?;
                }
                match kept {
                    Some(path) => write!(f, "; the damaged file is kept as {}", path.display()),
                    None => f.write_str("; the damaged file is still in its place"),
                }
            }
        }
    }
}

/// Parts named in one line; a report is read by people.
const PARTS_MAX: usize = 8;

fn list(parts: impl ExactSizeIterator<Item = String>) -> String {
    let more = parts.len().saturating_sub(PARTS_MAX);
    let mut text = parts.take(PARTS_MAX).collect::<Vec<_>>().join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

fn range(range: &RangeInclusive<u64>) -> String {
    match range.start() == range.end() {
        true => range.start().to_string(),
        false => format!("{} to {}", range.start(), range.end()),
    }
}

fn bytes(span: &Span) -> String {
    format!("{} to {}", span.offset, span.offset + span.bytes - 1)
}
