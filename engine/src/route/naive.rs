//! The naive twin of the table: a list that is searched from end to end. For tests and fuzz targets.

use ipnet::IpNet;
use std::net::IpAddr;

/// The twin: prefixes and who has them, in the order in which they were given.
#[derive(Debug, Default)]
pub struct List(pub Vec<(IpNet, u32)>);

impl List {
    /// As [`super::AllowedIps::insert`].
    pub fn insert(&mut self, prefix: IpNet, value: u32) -> Option<u32> {
        let old = self.remove(prefix);
        self.0.push((prefix.trunc(), value));
        old
    }

    /// As [`super::AllowedIps::remove`].
    pub fn remove(&mut self, prefix: IpNet) -> Option<u32> {
        let at = self.0.iter().position(|entry| entry.0 == prefix.trunc())?;
        Some(self.0.remove(at).1)
    }

    /// As [`super::AllowedIps::remove_held_by`].
    pub fn remove_held_by(&mut self, prefix: IpNet, value: u32) -> bool {
        let before = self.0.len();
        self.0.retain(|entry| *entry != (prefix.trunc(), value));
        self.0.len() < before
    }

    /// As [`super::AllowedIps::lookup`].
    #[must_use]
    pub fn lookup(&self, addr: IpAddr) -> Option<u32> {
        self.0.iter().filter(|entry| entry.0.contains(&addr)).max_by_key(|entry| entry.0.prefix_len()).map(|e| e.1)
    }
}
