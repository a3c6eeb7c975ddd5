//! What becomes of a question: the one place where it is decided whether we know, know that there is nothing, or ask
//! somebody else.
//!
//! In this order: a name that has something; an address asked the other way round; a name in one of our zones; a name of
//! one label, looked for in the search domains and never asked of others; everything else goes to an upstream.

use super::clients::Clients;
use super::name::{NameKey, absolute, ancestors, first_label};
use super::records::{Entry, Records};
use hickory_proto::rr::{Name, RecordType};
use ipnet::IpNet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// Zones that are nobody's to ask about (RFC 6761, RFC 7686). A query that got here went wrong.
const SPECIAL_ZONES: [&str; 3] = ["invalid", "localhost", "onion"];

/// What we know of a question, and the zone that knows.
pub(super) enum Decision {
    /// The name has something, of the type asked for or not.
    Held(Arc<Entry>, Name),
    /// The names of an address.
    Reverse(Arc<[Name]>, Name),
    /// The top of a zone, which has nothing but what makes it one.
    Apex(Name),
    /// The server of a zone.
    Server(Name),
    /// The name exists and has nothing.
    Bare(Name),
    /// There is no such name.
    Unknown(Name),
    /// Somebody else knows.
    Elsewhere,
}

/// What the decision goes by.
pub(super) struct Rules {
    zones: Vec<(Box<[u8]>, Name)>,
    search: Vec<Box<[u8]>>,
}

impl Rules {
    /// Of canonical names.
    pub(super) fn new(zones: &[String], search: &[String]) -> Self {
        let key = |name: &str| Box::<[u8]>::from(&*NameKey::of(&absolute(name)));
        let zones = zones.iter().map(String::as_str).chain(SPECIAL_ZONES);
        let mut zones: Vec<_> = zones.map(|zone| (key(zone), absolute(zone))).collect();
        // The deepest decides where one is within another.
        zones.sort_by_key(|(key, _)| std::cmp::Reverse(key.len()));
        Self { zones, search: search.iter().map(|domain| key(domain)).collect() }
    }

    pub(super) fn decide(
        &self,
        records: &Records,
        clients: &Clients,
        name: &Name,
        kind: RecordType,
        client: IpAddr,
    ) -> Decision {
        let key = NameKey::of(name);
        let held = records.find(&key);
        let zone = self.zone_of(&key);
        if let Some(entry) = &held {
            match zone {
                // Served alone, as a zone of its own: what is beside it is for others to know.
                _ if !entry.is_bare() => {
                    return Decision::Held(entry.clone(), zone.cloned().unwrap_or_else(|| name.clone()));
                }
                Some(zone) if zone == name => return Decision::Apex(zone.clone()),
                Some(zone) => return Decision::Bare(zone.clone()),
                None => {}
            }
        }
        if let Some(decision) = reverse(records, clients, &key, name) {
            return decision;
        }
        if let Some(zone) = zone {
            let key = &*key;
            return match first_label(key) {
                _ if zone == name => Decision::Apex(zone.clone()),
                Some((b"ns", _)) if zone.num_labels() + 1 == name.num_labels() => Decision::Server(zone.clone()),
                _ => Decision::Unknown(zone.clone()),
            };
        }
        let Some((label, true)) = first_label(&key) else { return Decision::Elsewhere };
        let own = records.domain_of(client);
        let domains = own.iter().map(|domain| &**domain).chain(self.search.iter().map(|domain| &**domain));
        for domain in domains {
            let found = NameKey::below(label, domain).and_then(|key| records.find(&key));
            if let Some(entry) = found.filter(|entry| !entry.is_bare()) {
                return Decision::Held(entry, name.clone());
            }
        }
        match kind {
            RecordType::A | RecordType::AAAA => Decision::Unknown(name.clone()),
            _ => Decision::Elsewhere,
        }
    }

    fn zone_of(&self, key: &[u8]) -> Option<&Name> {
        let found = |zone: &[u8]| key == zone || ancestors(key).any(|ancestor| ancestor == zone);
        self.zones.iter().find(|(zone, _)| key.ends_with(zone) && found(zone)).map(|(_, name)| name)
    }
}

/// What is known of a name below `in-addr.arpa` or `ip6.arpa`.
fn reverse(records: &Records, clients: &Clients, key: &[u8], name: &Name) -> Option<Decision> {
    if !key.ends_with(b"\x04arpa") {
        return None;
    }
    let asked = name.parse_arpa_name().ok()?;
    let whole = asked.prefix_len() == asked.max_prefix_len();
    let names = whole.then(|| records.names_of(asked.addr())).flatten();
    let zone =
        || clients.network_of(asked.addr()).map_or_else(|| name.clone(), |network| zone_of_network(name, network));
    match names {
        Some(names) => Some(Decision::Reverse(names, zone())),
        None if !clients.are_ours(&asked) => None,
        None if whole => Some(Decision::Unknown(zone())),
        None => Some(Decision::Bare(zone())),
    }
}

/// The part of a reverse name that stands for a network: as many whole labels as its prefix has.
fn zone_of_network(name: &Name, network: IpNet) -> Name {
    let bits_per_label = if network.addr().is_ipv4() { 8 } else { 4 };
    name.trim_to(usize::from(network.prefix_len() / bits_per_label) + 2)
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held(entry, zone) => {
                let addresses: Vec<_> = entry.addresses.iter().map(ToString::to_string).collect();
                write!(f, "{} in zone {zone}: {}", entry.name, addresses.join(", "))?;
                write!(f, " ({} SRV, {} TXT)", entry.services.len(), entry.texts.len())
            }
            Self::Reverse(names, zone) => {
                let names: Vec<_> = names.iter().map(ToString::to_string).collect();
                write!(f, "in zone {zone}: {}", names.join(", "))
            }
            Self::Apex(zone) => write!(f, "the top of zone {zone}"),
            Self::Server(zone) => write!(f, "the server of zone {zone}"),
            Self::Bare(zone) => write!(f, "in zone {zone}: nothing but names below it"),
            Self::Unknown(zone) => write!(f, "in zone {zone}: no such name"),
            Self::Elsewhere => f.write_str("asked of an upstream"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_question_has_its_place() {
        let (records, clients) = (Records::default(), Clients::default());
        clients.set(&["10.200.0.0/16", "fd00:1::/64"].map(|network| network.parse().unwrap()));
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        records.register("web.prod.local", ip("10.200.5.3")).unwrap();
        records.register("web.prod.local", ip("fd00:1::3")).unwrap();
        records.register("api.example.com", ip("10.200.5.4")).unwrap();
        records.set_domain(ip("10.200.5.9"), Some("prod.local")).unwrap();
        let rules = Rules::new(&["local".into(), "in.local".into()], &["example.com".into()]);
        let explain = |name: &str, client: &str| {
            let name = Name::from_ascii(name).unwrap();
            rules.decide(&records, &clients, &name, RecordType::A, ip(client)).to_string()
        };
        let anyone = "10.200.5.8";
        for (name, client, said) in [
            ("WEB.prod.local.", anyone, "web.prod.local. in zone local.: 10.200.5.3, fd00:1::3 (0 SRV, 0 TXT)"),
            ("prod.local.", anyone, "in zone local.: nothing but names below it"),
            ("local.", anyone, "the top of zone local."),
            ("ns.local.", anyone, "the server of zone local."),
            ("no.prod.local.", anyone, "in zone local.: no such name"),
            ("a.in.local.", anyone, "in zone in.local.: no such name"),
            ("api.example.com.", anyone, "api.example.com. in zone api.example.com.: 10.200.5.4 (0 SRV, 0 TXT)"),
            ("www.example.com.", anyone, "asked of an upstream"),
            ("example.com.", anyone, "asked of an upstream"),
            ("xlocal.", anyone, "in zone xlocal.: no such name"),
            ("a.xlocal.", anyone, "asked of an upstream"),
            ("web.", anyone, "in zone web.: no such name"),
            ("web.", "10.200.5.9", "web.prod.local. in zone web.: 10.200.5.3, fd00:1::3 (0 SRV, 0 TXT)"),
            ("api.", anyone, "api.example.com. in zone api.: 10.200.5.4 (0 SRV, 0 TXT)"),
            ("3.5.200.10.in-addr.arpa.", anyone, "in zone 200.10.in-addr.arpa.: web.prod.local."),
            ("7.5.200.10.in-addr.arpa.", anyone, "in zone 200.10.in-addr.arpa.: no such name"),
            ("5.200.10.in-addr.arpa.", anyone, "in zone 200.10.in-addr.arpa.: nothing but names below it"),
            ("10.in-addr.arpa.", anyone, "asked of an upstream"),
            ("8.8.8.8.in-addr.arpa.", anyone, "asked of an upstream"),
            ("x.invalid.", anyone, "in zone invalid.: no such name"),
            (".", anyone, "asked of an upstream"),
        ] {
            assert_eq!(explain(name, client), said, "{name}");
        }
        let long = format!("{}1.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.d.f.ip6.arpa.", "3.0.0.0.0.0.0.0.0.0.0.0.0.");
        assert!(explain(&long, anyone).ends_with("asked of an upstream"), "{}", explain(&long, anyone));
        let nibbles: String = "fd000001000000000000000000000003".chars().rev().flat_map(|digit| [digit, '.']).collect();
        let zone = "0.0.0.0.0.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa.";
        assert_eq!(explain(&format!("{nibbles}ip6.arpa."), anyone), format!("in zone {zone}: web.prod.local."));
    }
}
