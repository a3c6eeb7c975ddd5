//! Names and their addresses, as asked for over IPC: kept here, answered by the name server.

use super::device::DeviceMaker;
use super::dispatch::Node;
use super::error::NodeError;
use super::host::Host;
use crate::dns::{NameFault, canonical};
use crate::state::{Attachment, Kind, Name, Transaction};
use std::collections::HashSet;
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

    /// Adds to `transaction` that a workload has its name no more. To be called by whoever has the order of the names, until
    /// it is committed.
    pub(super) fn without_name(&self, attachment: &Attachment, transaction: Transaction) -> Transaction {
        let name = name_of(attachment).and_then(|name| normalize(&name).ok());
        let Some(mut known) = name.and_then(|name| self.kit.store.find::<Name>(&name)) else { return transaction };
        known.addresses.retain(|held| *held != attachment.ip);
        match known.addresses.is_empty() {
            true => transaction.delete::<Name>(known.name),
            false => transaction.put(known),
        }
    }

    /// Has the name server answer without what [`Node::without_name`] took away.
    pub(super) fn tell_without_name(&self, attachment: &Attachment) {
        self.tell_domain(attachment, false);
        if let Some(name) = name_of(attachment).and_then(|name| normalize(&name).ok()) {
            let left = self.kit.store.find::<Name>(&name).map(|known| known.addresses).unwrap_or_default();
            self.tell_name(&name, &left);
        }
    }

    /// Takes the names away that `keeps` says no to, which it is asked when no other change is in progress. Returns them.
    pub(super) async fn retain_names(&self, keeps: impl Fn(&str) -> bool) -> Result<Vec<String>, NodeError> {
        let _order = self.names_order.lock().await;
        // Those of workloads go with them.
        let own: HashSet<_> = self.kit.store.all::<Attachment>().iter().filter_map(own_name).collect();
        let (mut gone, mut fewer) = (Vec::new(), Vec::new());
        let mut transaction = Transaction::new();
        for mut known in self.kit.store.all::<Name>().into_iter().filter(|known| !keeps(&known.name)) {
            let name = known.name.clone();
            let before = known.addresses.len();
            known.addresses.retain(|ip| own.contains(&(name.clone(), *ip)));
            if known.addresses.is_empty() {
                transaction = transaction.delete::<Name>(name.clone());
                gone.push(name);
            } else if known.addresses.len() < before {
                fewer.push((name, known.addresses.clone()));
                transaction = transaction.put(known);
            }
        }
        self.kit.commit(transaction).await?;
        fewer.iter().for_each(|(name, left)| self.tell_name(name, left));
        gone.iter().for_each(|name| self.tell_name(name, &[]));
        Ok(gone)
    }
}

/// The name that a workload asked for: its service, in its domain.
pub(super) fn name_of(attachment: &Attachment) -> Option<String> {
    attachment.dns_domain.as_ref().map(|domain| format!("{}.{domain}", attachment.service))
}

/// The name that a workload has, and its address.
fn own_name(attachment: &Attachment) -> Option<(String, IpAddr)> {
    normalize(&name_of(attachment)?).ok().map(|name| (name, attachment.ip))
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
