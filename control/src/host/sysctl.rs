//! Switches of the network stack under `/proc/sys/net`: forwarding for the host, and what our own devices need.
//!
//! A value that was there before us is put back when we go, if it is still the one that we wrote. What it was has to
//! survive a crash, so there are three steps, and the caller keeps the [`Ledger`] between them:
//!
//! ```text
//! ledger.forward_v4() … ─► true: store the ledger ─► ledger.write() ─ … ─► ledger.restore()
//!   notes what is to be       before anything is        any time, any         what others changed
//!   and what was              changed                   number of times       since stays as it is
//! ```
//!
//! Devices of our own take their values with them when they go, so they are only written ([`settle`]).
//!
//! Everything happens in the network namespace of the calling thread, whose view `/proc/sys/net` gives.
//!
//! **`bridge-nf-call-iptables` is left alone.** It belongs to the whole host: Kubernetes needs it on, others want it off. The
//! firewall is right either way.

use super::{HostError, check_name};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const ROOT: &str = "/proc/sys/net";

/// Devices looked at, and records kept: several for each interface of the largest hosts.
const RECORDS_MAX: usize = 16_384;

/// One value of ours and what was there before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Path below `/proc/sys/net`, such as `ipv4/ip_forward`.
    pub name: String,
    /// The value found, which is to be there again.
    pub previous: String,
    /// The value that is to be there.
    pub written: String,
}

/// All values of ours, in the order of writing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    records: Vec<Record>,
}

/// What a device of ours is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Leads to other nodes.
    Tunnel,
    /// A bridge with containers at its ports, their gateway.
    Bridge,
    /// The host's end of a container's own cable.
    RoutedVeth,
    /// A port of a bridge.
    Port,
}

/// Gives a device of ours the values that it needs. Those of IPv6 are left out where the kernel has no IPv6.
///
/// # Errors
/// [`HostError::NotFound`] where there is no such device.
pub fn settle(device: &str, purpose: Purpose) -> Result<(), HostError> {
    check_name(device)?;
    let v4 = |name: &str| format!("ipv4/conf/{device}/{name}");
    let v6 = |name: &str| format!("ipv6/conf/{device}/{name}");
    if purpose == Purpose::Port {
        // It has no business with IP; without addresses it says nothing to the container either.
        return write_v6(&v6("disable_ipv6"), "1");
    }
    // Loose: an answer may come by another interface than the question went (a container with two of them). The firewall
    // looks at sources more closely than any mode of this.
    write(&v4("rp_filter"), "2")?;
    if matches!(purpose, Purpose::Bridge | Purpose::RoutedVeth) {
        // A published port is reached by 127.0.0.1, too; the firewall keeps containers from using that.
        write(&v4("route_localnet"), "1")?;
    }
    write_v6(&v6("disable_ipv6"), "0")?;
    // No container or peer tells the host about routes.
    write_v6(&v6("accept_ra"), "0")
}

impl Ledger {
    /// What is noted.
    #[must_use]
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Notes that the host is to forward IPv4. Returns whether anything was noted, to be stored before it is written.
    ///
    /// # Errors
    /// [`HostError`] where the values cannot be read.
    pub fn forward_v4(&mut self) -> Result<bool, HostError> {
        const ALL: &str = "ipv4/ip_forward";
        let count = self.records.len();
        if read(ALL)? != "1" {
            self.wish(ALL, "1")?;
            self.hold_forwarding("ipv4")?;
        }
        Ok(self.records.len() > count)
    }

    /// Notes that the host is to forward IPv6. The kernel asks for the switch for all: that of a device does not forward
    /// (`ip6_forward`). With it on, a device takes no routes from router advertisements any more unless `accept_ra` is 2, so
    /// it will be where it is 1 now. `ours` tells devices that are none of the host's.
    ///
    /// To be called again when devices come. Returns whether anything was noted, as does [`Ledger::forward_v4`]. Where the
    /// kernel has no IPv6 there is nothing to note.
    ///
    /// # Errors
    /// [`HostError`] where the values cannot be read.
    pub fn forward_v6(&mut self, ours: impl Fn(&str) -> bool) -> Result<bool, HostError> {
        const ALL: &str = "ipv6/conf/all/forwarding";
        let count = self.records.len();
        let forwards = match read(ALL) {
            Err(error) if error.is_not_found() => return Ok(false),
            read => read? == "1",
        };
        if forwards && !self.has(ALL) {
            return Ok(false);
        }
        for device in devices("ipv6")?.iter().filter(|device| !ours(device)) {
            let name = format!("ipv6/conf/{device}/accept_ra");
            if device != "lo" && read_there(&name)?.as_deref() == Some("1") {
                self.wish(&name, "2")?;
            }
        }
        if !forwards {
            self.wish(ALL, "1")?;
            self.hold_forwarding("ipv6")?;
        }
        Ok(self.records.len() > count)
    }

    /// Writes every noted value that is not there. Returns how many were written.
    ///
    /// # Errors
    /// [`HostError::Denied`], or what else the system says; what comes before in the ledger is written then.
    pub fn write(&self) -> Result<usize, HostError> {
        let mut count = 0;
        for record in &self.records {
            // A device that is gone took its values along.
            if read_there(&record.name)?.is_some_and(|value| value != record.written) {
                match write(&record.name, &record.written) {
                    Err(error) if error.is_not_found() => {}
                    written => written.map(|()| count += 1)?,
                }
            }
        }
        Ok(count)
    }

    /// Puts back what was there, where what is there is still ours, and forgets all. Returns what was left as others have
    /// set it.
    ///
    /// `keep` says which values stay although they are ours: others may rely on them by now, such as on forwarding.
    ///
    /// # Errors
    /// [`HostError`] of the first value that could not be written; those not yet put back are kept.
    pub fn restore(&mut self, keep: impl Fn(&Record) -> bool) -> Result<Vec<Record>, HostError> {
        // The switches for all change those of each, so whose a value is has to be known before any is written.
        let is_ours = |record: &Record| Ok(read_there(&record.name)?.is_some_and(|value| value == record.written));
        let ours: Vec<bool> = self.records.iter().map(is_ours).collect::<Result<_, HostError>>()?;
        let mut left = Vec::new();
        let mut done = 0;
        let mut outcome = Ok(());
        for (record, is_ours) in self.records.iter().zip(ours) {
            if !is_ours || keep(record) {
                if read_there(&record.name).is_ok_and(|value| value.is_some()) {
                    left.push(record.clone());
                }
            } else if let Err(error) = write(&record.name, &record.previous) {
                outcome = Err(error);
                break;
            }
            done += 1;
        }
        self.records.drain(..done);
        outcome.map(|()| left)
    }

    fn has(&self, name: &str) -> bool {
        self.records.iter().any(|record| record.name == name)
    }

    /// Notes a value, unless it is there already or noted.
    fn wish(&mut self, name: &str, value: &str) -> Result<(), HostError> {
        let previous = read(name)?;
        if previous != value { self.note(name, previous, value) } else { Ok(()) }
    }

    /// Notes the switch of each device that forwards by itself. The switch for all overwrites it, also on the way back, so
    /// it is behind that one.
    fn hold_forwarding(&mut self, family: &str) -> Result<(), HostError> {
        for device in devices(family)?.iter().map(String::as_str).chain(["default"]) {
            let name = format!("{family}/conf/{device}/forwarding");
            if read_there(&name)?.as_deref() == Some("1") {
                self.note(&name, "1".into(), "1")?;
            }
        }
        Ok(())
    }

    fn note(&mut self, name: &str, previous: String, written: &str) -> Result<(), HostError> {
        if self.has(name) {
            return Ok(());
        }
        if self.records.len() >= RECORDS_MAX {
            let source = io::Error::other(format!("there are {RECORDS_MAX} values to restore already"));
            return Err(HostError::System { what: format!("note {name}"), source });
        }
        self.records.push(Record { name: name.into(), previous, written: written.into() });
        Ok(())
    }
}

/// Devices that have switches of this family, without `all` and `default`.
fn devices(family: &str) -> Result<Vec<String>, HostError> {
    let what = format!("list /proc/sys/net/{family}/conf");
    let entries =
        fs::read_dir(Path::new(ROOT).join(family).join("conf")).map_err(|error| HostError::io(&what, error))?;
    let mut names = Vec::new();
    for entry in entries.take(RECORDS_MAX) {
        let name = entry.map_err(|error| HostError::io(&what, error))?.file_name();
        names.extend(name.into_string().ok().filter(|name| name != "all" && name != "default"));
    }
    names.sort_unstable();
    Ok(names)
}

/// Names come from here or from a store, which may hold anything.
fn path(name: &str) -> Result<PathBuf, HostError> {
    let sound = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\0');
    if name.split('/').all(sound) {
        Ok(Path::new(ROOT).join(name))
    } else {
        let source = io::Error::new(io::ErrorKind::InvalidInput, "not the name of a value below /proc/sys/net");
        Err(HostError::System { what: format!("open {name:?}"), source })
    }
}

fn read(name: &str) -> Result<String, HostError> {
    let text = fs::read_to_string(path(name)?).map_err(|error| HostError::io(format!("read {ROOT}/{name}"), error))?;
    Ok(text.trim().to_owned())
}

/// The value, if it is there.
fn read_there(name: &str) -> Result<Option<String>, HostError> {
    match read(name) {
        Err(error) if error.is_not_found() => Ok(None),
        read => read.map(Some),
    }
}

fn write(name: &str, value: &str) -> Result<(), HostError> {
    fs::write(path(name)?, value).map_err(|error| HostError::io(format!("write {value} to {ROOT}/{name}"), error))
}

/// As [`write`], content where the kernel has no IPv6 at all.
fn write_v6(name: &str, value: &str) -> Result<(), HostError> {
    if Path::new(ROOT).join("ipv6").exists() { write(name, value) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Netns;
    use crate::lab::rights_or_skip;
    use nix::sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, sendto, setsockopt, socket, sockopt,
    };
    use std::net::SocketAddrV6;
    use std::os::fd::{AsFd, AsRawFd};
    use std::time::{Duration, Instant};

    fn until(what: &str, mut condition: impl FnMut() -> bool) {
        let start = Instant::now();
        while !condition() {
            assert!(start.elapsed() < Duration::from_secs(60), "never: {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// A namespace with a cable to another, its end called `under0`.
    fn ground() -> (Netns, Netns) {
        let (host, router) = (Netns::create().unwrap(), Netns::create().unwrap());
        let cable = async |netlink: &crate::host::Netlink| {
            netlink.create_veth("under0", "under0", Some(router.as_fd())).await?;
            netlink.create_veth("other0", "other1", None).await
        };
        host.configure(cable).unwrap();
        (host, router)
    }

    fn value(netns: &Netns, name: &str) -> String {
        netns.run_in(|| read(name).unwrap()).unwrap()
    }

    #[test]
    fn what_was_is_put_back_where_it_is_still_ours() {
        if !rights_or_skip() {
            return;
        }
        let (host, _router) = ground();
        host.run_in(|| {
            // A new namespace may begin with what the first one has.
            write("ipv4/ip_forward", "0").unwrap();
            write("ipv4/conf/other0/forwarding", "1").unwrap();
            write("ipv6/conf/other0/forwarding", "1").unwrap();
            let mut ledger = Ledger::default();
            assert!(ledger.forward_v4().unwrap() && ledger.forward_v6(|_| false).unwrap());
            assert_eq!(read("ipv4/ip_forward").unwrap(), "0", "nothing is written before it is stored");
            // A crash, and the next daemon with the stored ledger: what it finds there is its own.
            let mut ledger: Ledger = serde_json::from_str(&serde_json::to_string(&ledger).unwrap()).unwrap();
            assert!(ledger.write().unwrap() > 0);
            assert_eq!(ledger.write().unwrap(), 0);
            assert!(!ledger.forward_v4().unwrap() && !ledger.forward_v6(|_| false).unwrap());
            for name in ["ipv4/ip_forward", "ipv4/conf/under0/forwarding", "ipv6/conf/under0/forwarding"] {
                assert_eq!(read(name).unwrap(), "1", "{name}");
            }
            assert_eq!(ledger.restore(|_| false).unwrap(), []);
            assert_eq!(ledger, Ledger::default());
            for (name, expected) in [
                ("ipv4/ip_forward", "0"),
                ("ipv4/conf/under0/forwarding", "0"),
                ("ipv4/conf/other0/forwarding", "1"),
                ("ipv6/conf/all/forwarding", "0"),
                ("ipv6/conf/under0/forwarding", "0"),
                ("ipv6/conf/other0/forwarding", "1"),
                ("ipv6/conf/under0/accept_ra", "1"),
            ] {
                assert_eq!(read(name).unwrap(), expected, "{name}");
            }
        })
        .unwrap();
    }

    #[test]
    fn what_others_set_stays() {
        if !rights_or_skip() {
            return;
        }
        let (host, _router) = ground();
        host.run_in(|| {
            // On before us: nothing to note, nothing to put back.
            write("ipv4/ip_forward", "1").unwrap();
            let mut ledger = Ledger::default();
            assert!(!ledger.forward_v4().unwrap());
            // Changed after us.
            ledger.forward_v6(|_| false).unwrap();
            ledger.write().unwrap();
            write("ipv6/conf/under0/accept_ra", "0").unwrap();
            let left = ledger.restore(|_| false).unwrap();
            assert_eq!(
                left.iter().map(|record| record.name.as_str()).collect::<Vec<_>>(),
                ["ipv6/conf/under0/accept_ra"]
            );
            assert_eq!(read("ipv6/conf/under0/accept_ra").unwrap(), "0");
            // Ours, but needed by others.
            write("ipv4/ip_forward", "0").unwrap();
            ledger.forward_v4().unwrap();
            ledger.write().unwrap();
            assert_eq!(ledger.restore(|record| record.name == "ipv4/ip_forward").unwrap().len(), 1);
            assert_eq!(read("ipv4/ip_forward").unwrap(), "1");
            // Of a device that is gone.
            let mut ledger = Ledger::default();
            write("ipv6/conf/all/forwarding", "0").unwrap();
            ledger.note("ipv6/conf/gone0/accept_ra", "1".into(), "2").unwrap();
            assert_eq!(ledger.write().unwrap(), 0);
            assert_eq!(ledger.restore(|_| false).unwrap(), []);
        })
        .unwrap();
    }

    #[test]
    fn a_damaged_ledger_reaches_nothing_else() {
        for name in ["../kernel/hostname", "ipv4/../../kernel/hostname", "/etc/passwd", "", "ipv4//x", "a\0b"] {
            let record = Record { name: name.into(), previous: "x".into(), written: "y".into() };
            assert!(Ledger { records: vec![record] }.write().is_err(), "{name:?}");
        }
    }

    #[test]
    fn devices_of_ours_get_what_they_need() {
        if !rights_or_skip() {
            return;
        }
        let (host, _router) = ground();
        host.run_in(|| {
            settle("under0", Purpose::Bridge).unwrap();
            settle("other0", Purpose::Port).unwrap();
            for (name, expected) in [
                ("ipv4/conf/under0/rp_filter", "2"),
                ("ipv4/conf/under0/route_localnet", "1"),
                ("ipv6/conf/under0/accept_ra", "0"),
                ("ipv6/conf/other0/disable_ipv6", "1"),
            ] {
                assert_eq!(read(name).unwrap(), expected, "{name}");
            }
            assert!(settle("nobody0", Purpose::Tunnel).unwrap_err().is_not_found());
            assert!(matches!(settle("../x", Purpose::Tunnel), Err(HostError::Name(_))));
        })
        .unwrap();
    }

    /// Sends a router advertisement (RFC 4861, section 4.2) out of `under0`: this router is the way out for 600 s.
    fn advertise(router: &Netns) {
        let index = router.configure(async |netlink| Ok(netlink.link("under0").await?.index)).unwrap();
        let mut advertisement = [0; 16];
        advertisement[0] = 134;
        advertisement[4] = 64;
        advertisement[6..8].copy_from_slice(&600u16.to_be_bytes());
        let all_nodes = SockaddrIn6::from(SocketAddrV6::new("ff02::1".parse().unwrap(), 0, 0, index));
        let send = || {
            let socket = socket(AddressFamily::Inet6, SockType::Raw, SockFlag::empty(), SockProtocol::IcmpV6).unwrap();
            // The receiver insists on 255 hops.
            setsockopt(&socket, sockopt::Ipv6MulticastHops, &255).unwrap();
            // It fails until the link-local address is there.
            let _ = sendto(socket.as_raw_fd(), &advertisement, &all_nodes, MsgFlags::empty());
        };
        router.run_in(send).unwrap();
    }

    /// Whether there is an IPv6 default route.
    fn has_way_out(host: &Netns) -> bool {
        let routes = host.run_in(|| fs::read_to_string("/proc/thread-self/net/ipv6_route").unwrap()).unwrap();
        let is_default = |line: &str| line.starts_with(&format!("{} 00 ", "0".repeat(32))) && line.ends_with("under0");
        routes.lines().any(is_default)
    }

    #[test]
    fn a_way_out_learnt_from_a_router_survives_forwarding() {
        if !rights_or_skip() {
            return;
        }
        for careful in [true, false] {
            let (host, router) = ground();
            for netns in [&host, &router] {
                netns
                    .configure(async |netlink| netlink.set_up(netlink.link("under0").await?.index, true).await)
                    .unwrap();
            }
            until("a way out", || {
                advertise(&router);
                has_way_out(&host)
            });
            if careful {
                let mut ledger = Ledger::default();
                host.run_in(|| ledger.forward_v6(|_| false).and_then(|_| ledger.write()).unwrap()).unwrap();
                assert!(has_way_out(&host));
                assert_eq!(value(&host, "ipv6/conf/under0/accept_ra"), "2");
            } else {
                // What the care is for.
                host.run_in(|| write("ipv6/conf/all/forwarding", "1").unwrap()).unwrap();
                assert!(!has_way_out(&host));
            }
        }
    }
}
