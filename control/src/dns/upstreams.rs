//! Who is asked what we do not know: servers by domain, those of the configuration or of `resolv.conf`, which is read
//! again when it changes. Never ourselves.

use super::name::{NameKey, absolute, ancestors};
use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Servers taken from `resolv.conf`: as many as the resolver of the C library takes (resolv.conf(5), `MAXNS`).
const SERVERS_MAX: usize = 3;

/// The servers in force.
#[derive(Debug, Default, Clone)]
pub(super) struct Upstreams {
    usual: Vec<SocketAddr>,
    /// By domain, the longest first.
    split: Vec<(Box<[u8]>, Vec<SocketAddr>)>,
}

impl Upstreams {
    pub(super) fn new(usual: Vec<SocketAddr>, split: &[(String, Vec<SocketAddr>)]) -> Self {
        let keyed = |(domain, servers): &(String, Vec<SocketAddr>)| {
            (Box::from(&*NameKey::of(&absolute(domain))), servers.clone())
        };
        let mut split: Vec<(Box<[u8]>, _)> = split.iter().map(keyed).collect();
        split.sort_by_key(|(domain, _)| std::cmp::Reverse(domain.len()));
        Self { usual, split }
    }

    /// Those to ask about a name.
    pub(super) fn servers(&self, name: &[u8]) -> &[SocketAddr] {
        let covers = |domain: &[u8]| name == domain || ancestors(name).any(|ancestor| ancestor == domain);
        let split = self.split.iter().find(|(domain, _)| covers(domain));
        split.map_or(&self.usual, |(_, servers)| servers)
    }

    pub(super) fn usual(&self) -> &[SocketAddr] {
        &self.usual
    }

    pub(super) fn with_usual(&self, usual: Vec<SocketAddr>) -> Self {
        Self { usual, split: self.split.clone() }
    }
}

/// A `resolv.conf` that is looked at now and then.
pub(super) struct ResolvConf {
    path: PathBuf,
    /// What tells one version of the file from the next: it is often replaced rather than written.
    stamp: Option<(u64, i64, i64, u64)>,
}

impl ResolvConf {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), stamp: None }
    }

    /// Its servers, where it has changed since the last call. One that is gone keeps those it had.
    pub(super) fn changed(&mut self) -> Option<Vec<SocketAddr>> {
        let file = fs::metadata(&self.path).ok()?;
        let stamp = (file.ino(), file.mtime(), file.mtime_nsec(), file.len());
        if self.stamp == Some(stamp) {
            return None;
        }
        let text = fs::read(&self.path).ok()?;
        self.stamp = Some(stamp);
        Some(parse(&String::from_utf8_lossy(&text)))
    }
}

/// Its `nameserver` lines, in their order.
fn parse(text: &str) -> Vec<SocketAddr> {
    let mut seen = BTreeSet::new();
    let addresses = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()).flatten()
    });
    let addresses = addresses.filter_map(|address| match address.split_once('%') {
        // Of this link only; what has no number is of no use to us, for we are asked on others.
        Some((address, scope)) => {
            let ip = address.parse().ok()?;
            let scope = scope.parse().ok().or_else(|| nix::net::if_::if_nametoindex(scope).ok())?;
            Some(SocketAddr::V6(std::net::SocketAddrV6::new(ip, 53, 0, scope)))
        }
        None => Some(SocketAddr::new(address.parse::<IpAddr>().ok()?, 53)),
    });
    addresses.filter(|server| !server.ip().is_unspecified() && seen.insert(*server)).take(SERVERS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::temp_dir::TempDir;

    #[test]
    fn the_servers_of_a_file_in_their_order() {
        let text = "# nameserver 9.9.9.9\nsearch a.b\nnameserver 10.0.0.2\n nameserver 10.0.0.1 # x\nnameserver 10.0.0.2\n\
                    nameserver 0.0.0.0\nnameserver\nnameserver no\nnameserver fe80::1%1\nnameserver fe80::2%none\nnameserver ::2\n";
        let servers: Vec<_> = parse(text).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["10.0.0.2:53", "10.0.0.1:53", "[fe80::1%1]:53"]);
    }

    #[test]
    fn a_file_is_read_when_it_changes() {
        let dir = TempDir::new();
        let path = dir.join("resolv.conf");
        let mut file = ResolvConf::new(&path);
        assert_eq!(file.changed(), None);
        fs::write(&path, "nameserver 10.0.0.1\n").unwrap();
        assert_eq!(file.changed().unwrap().len(), 1);
        assert_eq!(file.changed(), None);
        fs::write(dir.join("next"), "nameserver 10.0.0.3\nnameserver 10.0.0.4\n").unwrap();
        fs::rename(dir.join("next"), &path).unwrap();
        assert_eq!(file.changed().unwrap().len(), 2);
        fs::remove_file(&path).unwrap();
        assert_eq!(file.changed(), None);
    }

    #[test]
    fn the_longest_domain_decides() {
        let server = |last| SocketAddr::from(([10, 0, 0, last], 53));
        let split = [("example".into(), vec![server(1)]), ("in.example".into(), vec![server(2)])];
        let upstreams = Upstreams::new(vec![server(9)], &split);
        for (name, last) in
            [("a.example", 1), ("example", 1), ("x.in.example", 2), ("xin.example", 1), ("example.org", 9)]
        {
            assert_eq!(upstreams.servers(&NameKey::of(&absolute(name))), [server(last)], "{name}");
        }
    }
}
