//! The iptables of old, which has no netlink: all that is told without its own system calls is which of its tables are
//! in use.

use crate::firewall::health::Finding;
use crate::firewall::ruleset::MARK;
use std::fs;

/// Where the kernel lists the tables in use in the namespace of the reading thread, and the program for each.
const LISTS: [(&str, &str); 2] = [
    ("/proc/thread-self/net/ip_tables_names", "iptables-legacy"),
    ("/proc/thread-self/net/ip6_tables_names", "ip6tables-legacy"),
];

/// Findings about the namespace of this thread.
pub(super) fn findings() -> Vec<Finding> {
    let lists = LISTS.into_iter().map(|(path, program)| (fs::read_to_string(path).unwrap_or_default(), program));
    lists.filter_map(|(tables, program)| finding(&tables, program)).collect()
}

fn finding(tables: &str, program: &str) -> Option<Finding> {
    tables.lines().any(|table| table == "filter").then(|| Finding {
        code: "legacy_iptables",
        detail: format!(
            "{program} has a filter table, which cannot be read from here; where its chains drop, packets of the overlay \
             are lost"
        ),
        remedy: Some(format!(
            "for chain in FORWARD INPUT; do {program} -I $chain -m mark --mark {MARK:#x}/{MARK:#x} -j ACCEPT; done"
        )),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_filter_table_is_worth_a_word() {
        assert_eq!(finding("", "iptables-legacy"), None);
        assert_eq!(finding("nat\nmangle\n", "iptables-legacy"), None);
        let found = finding("nat\nfilter\n", "ip6tables-legacy").unwrap();
        assert!(found.remedy.unwrap().contains("ip6tables-legacy -I $chain -m mark --mark 0x1000/0x1000 -j ACCEPT"));
    }
}
