//! Names and their addresses, as asked for over IPC: kept here, answered by the name server.

use super::device::DeviceMaker;
use super::dispatch::Node;
use super::error::NodeError;
use super::host::Host;
use crate::dns::{NameFault, canonical};
use crate::state::{Kind, Name, Transaction};
use std::net::IpAddr;

/// Names at once: ten for each address of a /16 that is used up would be more, but no node has that many workloads.
const NAMES_MAX: usize = 100_000;

/// Addresses of one name. An answer over UDP holds about as many of the larger kind (RFC 6891 with 1,232 bytes).
const ADDRESSES_MAX: usize = 32;

impl<M: DeviceMaker, H: Host> Node<M, H> {
    /// Gives a name an address, beside those it has.
    pub(super) async fn register_name(&self, name: &str, ip: IpAddr) -> Result<(), NodeError> {
        let name = normalize(name)?;
        let _order = self.names_order.lock().await;
        let known = self.kit.store.find::<Name>(&name);
        if known.is_none() && self.kit.store.read(|tables| tables.count(Kind::Name)) >= NAMES_MAX {
            return Err(NodeError::TooMany { what: "names", max: NAMES_MAX });
        }
        let mut addresses = known.map(|known| known.addresses).unwrap_or_default();
        if addresses.contains(&ip) {
            return Ok(());
        }
        if addresses.len() >= ADDRESSES_MAX {
            return Err(NodeError::TooMany { what: "addresses of this name", max: ADDRESSES_MAX });
        }
        addresses.push(ip);
        self.kit.commit(Transaction::new().put(Name { name: name.clone(), addresses: addresses.clone() })).await?;
        self.tell_name(&name, &addresses);
        Ok(())
    }

    /// Takes a name away, with all its addresses. One that is not there is gone already.
    pub(super) async fn unregister_name(&self, name: &str) -> Result<(), NodeError> {
        let name = normalize(name)?;
        let _order = self.names_order.lock().await;
        if self.kit.store.find::<Name>(&name).is_none() {
            return Ok(());
        }
        self.kit.commit(Transaction::new().delete::<Name>(name.as_str())).await?;
        self.tell_name(&name, &[]);
        Ok(())
    }

    /// Takes one address from a name, and the name away with its last.
    pub(super) async fn unregister_address(&self, name: &str, ip: IpAddr) -> Result<(), NodeError> {
        let name = normalize(name)?;
        let _order = self.names_order.lock().await;
        let Some(mut known) = self.kit.store.find::<Name>(&name) else { return Ok(()) };
        known.addresses.retain(|held| *held != ip);
        let transaction = match known.addresses.is_empty() {
            true => Transaction::new().delete::<Name>(name.as_str()),
            false => Transaction::new().put(known.clone()),
        };
        self.kit.commit(transaction).await?;
        self.tell_name(&name, &known.addresses);
        Ok(())
    }

    /// Takes the names away that `keeps` says no to, which it is asked when no other change is in progress. Returns them.
    pub(super) async fn retain_names(&self, keeps: impl Fn(&str) -> bool) -> Result<Vec<String>, NodeError> {
        let _order = self.names_order.lock().await;
        let names = self.kit.store.all::<Name>().into_iter().map(|known| known.name);
        let gone: Vec<_> = names.filter(|name| !keeps(name)).collect();
        let transaction = gone.iter().fold(Transaction::new(), |transaction, name| transaction.delete::<Name>(name));
        self.kit.commit(transaction).await?;
        gone.iter().for_each(|name| self.tell_name(name, &[]));
        Ok(gone)
    }
}

/// The name in lower case and without the dot at its end.
fn normalize(text: &str) -> Result<String, NodeError> {
    canonical(text).map_err(|NameFault(reason)| NodeError::DnsName { name: text.to_owned(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_name_is_refused_with_its_text_and_why() {
        let error = normalize("a b.").unwrap_err().to_string();
        assert!(error.starts_with("invalid DNS name \"a b.\": letters"), "{error}");
        assert_eq!(normalize("Web.PROD.local.").unwrap(), "web.prod.local");
    }
}
