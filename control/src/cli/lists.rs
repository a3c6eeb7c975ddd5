//! Lists of objects, as tables and as JSON.

use super::json::{SCHEMA, text};
use super::table::{age, columns};
use crate::ipc::wire::{
    AttachmentItem, AttachmentState, DnsItem, LeaseItem, LeaseState, ObjectKind, Objects, OverlayMode, ServiceItem,
};
use serde_json::{Value, json};
use std::net::IpAddr;

/// The objects of a kind.
pub(super) struct List {
    kind: ObjectKind,
    head: &'static [&'static str],
    rows: Vec<Vec<String>>,
    /// Times stand here, to be told as ages.
    sinces: Vec<Option<u64>>,
    items: Vec<Value>,
}

impl List {
    pub(super) fn new(kind: ObjectKind) -> Self {
        let head: &[&str] = match kind {
            ObjectKind::Services => &["SERVICE", "MODE", "INTERFACE", "SUBNETS", "GATEWAYS", "ATTACHMENTS"],
            ObjectKind::Attachments => &["ATTACHMENT", "SERVICE", "STATE", "ADDRESSES", "OWNER", "SINCE"],
            ObjectKind::Leases => &["ADDRESS", "STATE", "SERVICE", "OWNER", "GENERATION", "SINCE"],
            ObjectKind::Dns => &["NAME", "TTL", "ADDRESSES"],
            _ => &[],
        };
        Self { kind, head, rows: Vec::new(), sinces: Vec::new(), items: Vec::new() }
    }

    /// Adds a page.
    pub(super) fn add(&mut self, objects: Objects) {
        if let Ok(Value::Object(mut page)) = serde_json::to_value(&objects)
            && let Some(Value::Array(items)) = page.remove("items")
        {
            self.items.extend(items);
        }
        let rows: Vec<(Vec<String>, Option<u64>)> = match objects {
            Objects::Services(items) => items.iter().map(service).collect(),
            Objects::Attachments(items) => items.iter().map(attachment).collect(),
            Objects::Leases(items) => items.iter().map(lease).collect(),
            Objects::Dns(items) => items.iter().map(name).collect(),
            _ => Vec::new(),
        };
        for (row, since) in rows {
            self.rows.push(row);
            self.sinces.push(since);
        }
    }

    /// For people. `now` is in Unix seconds.
    pub(super) fn table(&self, now: i64) -> String {
        if self.rows.is_empty() {
            let kind = if self.kind == ObjectKind::Dns { "names" } else { self.kind.name() };
            return format!("no {kind}\n");
        }
        let with_age = |(row, since): (&Vec<String>, &Option<u64>)| {
            let age = since.map(|since| age(i64::try_from(since).unwrap_or(i64::MAX), now));
            row.iter().cloned().chain(age).collect()
        };
        let head = self.head.iter().map(|name| (*name).to_owned()).collect();
        columns(std::iter::once(head).chain(self.rows.iter().zip(&self.sinces).map(with_age)).collect())
    }

    /// For programs.
    pub(super) fn json(&self) -> String {
        text(&json!({"schema": SCHEMA, self.kind.name(): self.items}))
    }
}

fn service(item: &ServiceItem) -> (Vec<String>, Option<u64>) {
    let mode = match item.mode {
        OverlayMode::Auto => "auto",
        OverlayMode::Shared => "shared",
        OverlayMode::Dedicated => "dedicated",
        OverlayMode::Isolated => "isolated",
    };
    let row = vec![
        item.service.clone(),
        mode.to_owned(),
        dash(item.interface.as_deref()),
        item.subnets.join(","),
        addresses(&item.gateways),
        item.attachments.to_string(),
    ];
    (row, None)
}

fn attachment(item: &AttachmentItem) -> (Vec<String>, Option<u64>) {
    let state = match item.state {
        AttachmentState::Attached => "attached",
        AttachmentState::Detached => "detached",
    };
    let row = vec![
        item.attachment.clone(),
        item.service.clone(),
        state.to_owned(),
        addresses(&item.addresses),
        dash(item.owner.as_deref()),
    ];
    (row, Some(item.since_unix_secs))
}

fn lease(item: &LeaseItem) -> (Vec<String>, Option<u64>) {
    let state = match item.state {
        LeaseState::Leased => "leased",
        LeaseState::Reserved => "reserved",
        LeaseState::Quarantined => "quarantined",
        LeaseState::Released => "released",
    };
    let row = vec![
        item.ip.to_string(),
        state.to_owned(),
        dash(item.service.as_deref()),
        dash(item.owner.as_deref()),
        item.generation.to_string(),
    ];
    (row, Some(item.since_unix_secs))
}

fn name(item: &DnsItem) -> (Vec<String>, Option<u64>) {
    (vec![item.name.clone(), item.ttl_secs.to_string(), addresses(&item.addresses)], None)
}

fn addresses(addresses: &[IpAddr]) -> String {
    dash(Some(addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",").as_str()))
}

fn dash(text: Option<&str>) -> String {
    text.filter(|text| !text.is_empty()).unwrap_or("-").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_over_two_pages() {
        let lease = |ip: &str, owner: Option<&str>| LeaseItem {
            ip: ip.parse().unwrap(),
            state: LeaseState::Leased,
            service: Some("web".into()),
            owner: owner.map(Into::into),
            generation: 3,
            since_unix_secs: 1_000,
        };
        let mut list = List::new(ObjectKind::Leases);
        assert_eq!(list.table(0), "no leases\n");
        list.add(Objects::Leases(vec![lease("10.0.0.9", Some("c-1"))]));
        list.add(Objects::Leases(vec![lease("fd00::1", None)]));
        assert_eq!(
            list.table(1_065),
            "\
ADDRESS   STATE   SERVICE  OWNER  GENERATION  SINCE
10.0.0.9  leased  web      c-1    3           1m 5s ago
fd00::1   leased  web      -      3           1m 5s ago
"
        );
        let json: Value = serde_json::from_str(&list.json()).unwrap();
        assert_eq!((&json["schema"], &json["leases"][1]["ip"]), (&1.into(), &"fd00::1".into()));
    }

    #[test]
    fn names() {
        let mut list = List::new(ObjectKind::Dns);
        let addresses = vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        list.add(Objects::Dns(vec![DnsItem { name: "web.overlay".into(), addresses, ttl_secs: 5 }]));
        assert_eq!(list.table(0), "NAME         TTL  ADDRESSES\nweb.overlay  5    10.0.0.2,fd00::2\n");
    }

    #[test]
    fn services_and_attachments() {
        let mut list = List::new(ObjectKind::Services);
        list.add(Objects::Services(vec![ServiceItem {
            service: "web".into(),
            mode: OverlayMode::Dedicated,
            interface: None,
            subnets: vec!["10.0.0.0/26".into()],
            gateways: vec!["10.0.0.1".parse().unwrap()],
            attachments: 2,
        }]));
        let table = list.table(0);
        assert!(table.ends_with("web      dedicated  -          10.0.0.0/26  10.0.0.1  2\n"), "{table}");
        let mut list = List::new(ObjectKind::Attachments);
        list.add(Objects::Attachments(vec![AttachmentItem {
            attachment: "linux_pid:7".into(),
            service: "web".into(),
            state: AttachmentState::Attached,
            addresses: vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
            owner: None,
            isolation_network: None,
            since_unix_secs: 5,
        }]));
        let table = list.table(5);
        assert!(table.ends_with("linux_pid:7  web      attached  10.0.0.2,fd00::2  -      now\n"), "{table}");
    }
}
