//! TEMPORARY naive table
use ipnet::IpNet;
use std::net::IpAddr;
/// t
pub struct AllowedIps<V>(Vec<(IpNet, V)>);
impl<V: Copy + PartialEq> AllowedIps<V> {
    /// n
    pub fn new() -> Self {
        Self(Vec::new())
    }
    /// i
    pub fn insert(&mut self, p: IpNet, v: V) -> Option<V> {
        let p = p.trunc();
        let old = self.remove(p);
        self.0.push((p, v));
        old
    }
    /// r
    pub fn remove(&mut self, p: IpNet) -> Option<V> {
        let p = p.trunc();
        let i = self.0.iter().position(|e| e.0 == p)?;
        Some(self.0.swap_remove(i).1)
    }
    /// l
    pub fn lookup(&self, a: IpAddr) -> Option<V> {
        self.0.iter().filter(|e| e.0.contains(&a)).max_by_key(|e| e.0.prefix_len()).map(|e| e.1)
    }
}
