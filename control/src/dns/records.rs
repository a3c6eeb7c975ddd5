//! The records: who is where. One at a time changes them; everybody reads them without a lock, as they were before a
//! change or as they are after.
//!
//! ```text
//! names      web.prod.local ─► addresses, services, texts      prod.local ─► nothing, but something is below
//! addresses  10.200.5.3     ─► web.prod.local                  for queries the other way round
//! domains    10.200.5.3     ─► prod.local                      where a client's names of one label are looked for
//! ```

use super::config::{StaticData, StaticRecord};
use super::name::{NameFault, NameKey, absolute, ancestors, canonical};
use super::shards::Shards;
use hickory_proto::rr::Name;
use hickory_proto::rr::rdata::{SRV, TXT};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

type Key = Arc<[u8]>;

/// What a name has.
#[derive(Clone, Default)]
pub(super) struct Entry {
    pub(super) name: Name,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) services: Vec<SRV>,
    pub(super) texts: Vec<TXT>,
    /// Names below it that have something.
    below: usize,
}

impl Entry {
    /// Whether it has nothing but names below it (RFC 8020: it exists all the same).
    pub(super) fn is_bare(&self) -> bool {
        self.addresses.is_empty() && self.services.is_empty() && self.texts.is_empty()
    }
}

/// The records. Clones share them.
#[derive(Clone)]
pub struct Records(Arc<Tables>);

struct Tables {
    names: Shards<Key, Arc<Entry>>,
    addresses: Shards<IpAddr, Arc<[Name]>>,
    domains: Shards<IpAddr, Key>,
    /// Names that have something.
    count: AtomicUsize,
    /// Changes so far: the serial of our zones.
    changes: AtomicU32,
    order: Mutex<()>,
}

impl Default for Records {
    fn default() -> Self {
        Self(Arc::new(Tables {
            names: Shards::new(),
            addresses: Shards::new(),
            domains: Shards::new(),
            count: AtomicUsize::new(0),
            changes: AtomicU32::new(1),
            order: Mutex::new(()),
        }))
    }
}

impl Records {
    /// Gives `name` an address, beside those it has. It is answered when this returns.
    ///
    /// # Errors
    /// [`NameFault`] where that is no name.
    pub fn register(&self, name: &str, ip: IpAddr) -> Result<(), NameFault> {
        self.change(name, |entry| {
            if !entry.addresses.contains(&ip) {
                entry.addresses.push(ip);
            }
        })
    }

    /// Takes an address from `name`, or all of them. It is not answered any more when this returns.
    ///
    /// # Errors
    /// [`NameFault`] where that is no name.
    pub fn unregister(&self, name: &str, ip: Option<IpAddr>) -> Result<(), NameFault> {
        self.change(name, |entry| entry.addresses.retain(|held| ip.is_some_and(|ip| ip != *held)))
    }

    /// Gives `name` these addresses and no others.
    ///
    /// # Errors
    /// [`NameFault`] where that is no name.
    pub fn set_addresses(&self, name: &str, addresses: &[IpAddr]) -> Result<(), NameFault> {
        self.change(name, |entry| entry.addresses = addresses.to_vec())
    }

    /// Gives a name a record that is no address.
    ///
    /// # Errors
    /// [`NameFault`] where that is no name.
    pub fn add(&self, record: &StaticRecord) -> Result<(), NameFault> {
        self.change(&record.name, |entry| match &record.data {
            StaticData::Service { priority, weight, port, target } => {
                entry.services.push(SRV::new(*priority, *weight, *port, absolute(target)));
            }
            StaticData::Text(pieces) => entry.texts.push(TXT::new(pieces.clone())),
        })
    }

    /// Where the names of one label that `client` asks for are looked for; nowhere of its own with `None`.
    ///
    /// # Errors
    /// [`NameFault`] where that is no name.
    pub fn set_domain(&self, client: IpAddr, domain: Option<&str>) -> Result<(), NameFault> {
        let domain = domain.map(canonical).transpose()?;
        let key = domain.map(|domain| Key::from(&*NameKey::of(&absolute(&domain))));
        let _order = self.0.order.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.domains.change(client, |_| key);
        Ok(())
    }

    /// How many names have something.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.count.load(Ordering::Relaxed)
    }

    pub(super) fn find(&self, key: &[u8]) -> Option<Arc<Entry>> {
        self.0.names.find(key)
    }

    /// Whose address this is.
    pub(super) fn names_of(&self, ip: IpAddr) -> Option<Arc<[Name]>> {
        self.0.addresses.find(&ip)
    }

    pub(super) fn domain_of(&self, client: IpAddr) -> Option<Key> {
        self.0.domains.find(&client)
    }

    pub(super) fn serial(&self) -> u32 {
        self.0.changes.load(Ordering::Relaxed)
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Entry)) -> Result<(), NameFault> {
        let name = absolute(&canonical(name)?);
        let key = Key::from(&*NameKey::of(&name));
        let tables = &*self.0;
        let _order = tables.order.lock().unwrap_or_else(PoisonError::into_inner);
        let before = tables.names.find(&*key).unwrap_or_default();
        let mut after = Entry { name: name.clone(), ..Entry::clone(&before) };
        change(&mut after);
        for ip in before.addresses.iter().filter(|ip| !after.addresses.contains(ip)) {
            tables.addresses.change(*ip, |names| without(names, &name));
        }
        for ip in after.addresses.iter().filter(|ip| !before.addresses.contains(ip)) {
            tables.addresses.change(*ip, |names| Some(with(names, &name)));
        }
        let (was, is) = (!before.is_bare(), !after.is_bare());
        let below = after.below;
        tables.names.change(key.clone(), |_| (is || below > 0).then(|| Arc::new(after)));
        if was != is {
            for ancestor in ancestors(&key) {
                tables.names.change(ancestor.into(), |held| {
                    let mut entry = held.map_or_else(Entry::default, |held| Entry::clone(held));
                    entry.below = if is { entry.below + 1 } else { entry.below.saturating_sub(1) };
                    (!entry.is_bare() || entry.below > 0).then(|| Arc::new(entry))
                });
            }
            match is {
                true => tables.count.fetch_add(1, Ordering::Relaxed),
                false => tables.count.fetch_sub(1, Ordering::Relaxed),
            };
        }
        tables.changes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

fn with(names: Option<&Arc<[Name]>>, name: &Name) -> Arc<[Name]> {
    let others = names.into_iter().flat_map(|names| names.iter()).filter(|held| *held != name);
    others.chain([name]).cloned().collect()
}

fn without(names: Option<&Arc<[Name]>>, name: &Name) -> Option<Arc<[Name]>> {
    let others: Arc<[Name]> = names?.iter().filter(|held| *held != name).cloned().collect();
    (!others.is_empty()).then_some(others)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn addresses(records: &Records, name: &str) -> Option<Vec<IpAddr>> {
        records.find(&NameKey::of(&absolute(name))).map(|entry| entry.addresses.clone())
    }

    #[test]
    fn names_come_and_go_with_what_is_above_them() {
        let records = Records::default();
        records.register("Web.Prod.local.", ip("10.0.0.1")).unwrap();
        records.register("web.prod.local", ip("10.0.0.2")).unwrap();
        records.register("db.prod.local", ip("10.0.0.2")).unwrap();
        assert_eq!(addresses(&records, "web.prod.local").unwrap(), [ip("10.0.0.1"), ip("10.0.0.2")]);
        assert!(addresses(&records, "prod.local").unwrap().is_empty());
        assert_eq!((records.count(), records.names_of(ip("10.0.0.2")).unwrap().len()), (2, 2));
        records.unregister("web.prod.local", Some(ip("10.0.0.2"))).unwrap();
        assert_eq!(addresses(&records, "web.prod.local").unwrap(), [ip("10.0.0.1")]);
        assert_eq!(*records.names_of(ip("10.0.0.2")).unwrap(), [absolute("db.prod.local")]);
        records.set_addresses("web.prod.local", &[ip("fd00::1")]).unwrap();
        assert!(records.names_of(ip("10.0.0.1")).is_none() && records.names_of(ip("fd00::1")).is_some());
        records.unregister("web.prod.local", None).unwrap();
        assert_eq!(addresses(&records, "web.prod.local"), None);
        assert!(addresses(&records, "local").is_some());
        records.unregister("db.prod.local", None).unwrap();
        records.unregister("never.there", None).unwrap();
        for gone in ["db.prod.local", "prod.local", "local", "never.there", "there"] {
            assert_eq!(addresses(&records, gone), None, "{gone}");
        }
        assert_eq!(records.count(), 0);
        assert!(records.register("a..b", ip("10.0.0.1")).is_err());
    }

    #[test]
    fn a_name_that_is_above_others_too_keeps_both() {
        let records = Records::default();
        records.register("a.b", ip("10.0.0.1")).unwrap();
        records.register("b", ip("10.0.0.2")).unwrap();
        records.unregister("b", None).unwrap();
        assert!(addresses(&records, "b").unwrap().is_empty());
        records.register("b", ip("10.0.0.2")).unwrap();
        records.unregister("a.b", None).unwrap();
        assert_eq!(addresses(&records, "b").unwrap(), [ip("10.0.0.2")]);
    }
}
