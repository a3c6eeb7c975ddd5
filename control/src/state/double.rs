//! A disk that forgets and fails: writes reach it sector by sector, in any order, only a sync makes sure of them, and any
//! call may fail when the test wants it to.

use super::file::Medium;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::io;
use std::path::PathBuf;

/// What a disk writes at once.
const SECTOR: usize = 64;

/// A file on such a disk.
pub(super) struct Disk {
    rng: StdRng,
    /// What readers are shown.
    content: Vec<u8>,
    /// What is there after a crash, whatever else is.
    durable: Vec<u8>,
    staged: Option<Vec<u8>>,
    /// What a crash may show in the place of the file, while its name is not certain.
    other: Option<Vec<u8>>,
    /// Of 100 calls, those that fail.
    pub(super) failing: u32,
    /// Appends, failed ones included.
    pub(super) appends: usize,
    /// Copies that were kept.
    pub(super) kept: Vec<Vec<u8>>,
}

impl Default for Disk {
    fn default() -> Self {
        Self::new(0, Vec::new())
    }
}

impl Disk {
    pub(super) fn new(seed: u64, content: Vec<u8>) -> Self {
        let rng = StdRng::seed_from_u64(seed);
        Self {
            rng,
            durable: content.clone(),
            content,
            staged: None,
            other: None,
            failing: 0,
            appends: 0,
            kept: Vec::new(),
        }
    }

    /// What the next start finds after power was lost now.
    pub(super) fn crash(mut self) -> Vec<u8> {
        if let Some(other) = self.other.take()
            && self.rng.random_bool(0.5)
        {
            return other;
        }
        let (old, new) = (self.durable, self.content);
        let length = match self.rng.random_range(0..3) {
            0 => old.len(),
            1 => new.len(),
            _ => self.rng.random_range(old.len().min(new.len())..=old.len().max(new.len())),
        };
        let mut found = vec![0; length];
        for (number, sector) in found.chunks_mut(SECTOR).enumerate() {
            let source = if self.rng.random_bool(0.5) { &new } else { &old };
            let from = source.get(number * SECTOR..).unwrap_or(&[]);
            let known = from.len().min(sector.len());
            sector[..known].copy_from_slice(&from[..known]);
        }
        found
    }

    fn fails(&mut self) -> bool {
        self.rng.random_range(0..100) < self.failing
    }
}

fn failure() -> io::Error {
    io::Error::from_raw_os_error(28)
}

impl Medium for Disk {
    fn append(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.appends += 1;
        let fails = self.fails();
        let written = if fails { self.rng.random_range(0..=bytes.len()) } else { bytes.len() };
        let offset = usize::try_from(offset).unwrap();
        assert!(offset <= self.content.len(), "a hole");
        let end = (offset + written).max(self.content.len());
        self.content.resize(end, 0);
        self.content[offset..offset + written].copy_from_slice(&bytes[..written]);
        if fails { Err(failure()) } else { Ok(()) }
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.fails() {
            // As on Linux: the data may be lost, and the next sync does not say so.
            if self.rng.random_bool(0.5) {
                let mut shown = self.durable.clone();
                shown.resize(self.content.len(), 0);
                self.content = shown;
            }
            return Err(failure());
        }
        self.durable.clone_from(&self.content);
        Ok(())
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        if self.fails() {
            return Err(failure());
        }
        self.content.truncate(usize::try_from(length).unwrap());
        Ok(())
    }

    fn stage(&mut self, content: &[u8]) -> io::Result<()> {
        if self.fails() {
            return Err(failure());
        }
        self.staged = Some(content.to_vec());
        Ok(())
    }

    fn settle(&mut self) -> io::Result<()> {
        let staged = self.staged.take().expect("staged before");
        if self.fails() {
            // Before the new name, or after it and before that is on disk.
            if self.rng.random_bool(0.5) {
                self.other = Some(std::mem::replace(&mut self.durable, staged.clone()));
                self.content = staged;
            }
            return Err(failure());
        }
        self.other = None;
        self.durable.clone_from(&staged);
        self.content = staged;
        Ok(())
    }

    fn keep(&mut self) -> io::Result<PathBuf> {
        if self.fails() {
            return Err(failure());
        }
        self.kept.push(self.content.clone());
        Ok(PathBuf::from(format!("kept {}", self.kept.len())))
    }
}
