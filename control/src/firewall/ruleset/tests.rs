//! The ruleset against the kernel and, as a second opinion, against `nft`: what it lists of ours it can load again, and what
//! it loads is what we made.

use super::*;
use crate::firewall::nft::{Batch, Nft, equal_but_for_counts};
use crate::host::Netns;
use crate::lab::rights_or_skip;
use std::io::Write;
use std::process::{Command, Stdio};

fn build(nft: &mut Nft, instance: &str) {
    let mut batch = Batch::default();
    for structure in all(instance) {
        batch.add_table(&structure.table);
        structure.chains.iter().for_each(|chain| batch.add_chain(chain));
        structure.sets.iter().for_each(|set| batch.add_set(set));
        structure.rules.iter().for_each(|rule| batch.append_rule(rule));
    }
    nft.commit(&batch, None).unwrap();
}

fn all(instance: &str) -> [Structure; 2] {
    Place::ALL.map(|place| structure(place, instance))
}

/// Checks that the kernel has what was made, as far as `exact` and comments go.
fn check(nft: &mut Nft, instance: &str) {
    for expected in all(instance) {
        let (family, table) = (expected.table.family, expected.table.name.as_str());
        let mut found = nft.chains(family, Some(table)).unwrap();
        found.retain(|chain| chain.family == family);
        assert_eq!(found, expected.chains);
        let found: Vec<_> = nft.sets(family, table).unwrap().into_iter().flatten().collect();
        assert_eq!(found, expected.sets);
        let found = nft.rules(family, table, None).unwrap();
        for chain in &expected.chains {
            let of = |rules: &[Rule]| rules.iter().filter(|rule| rule.chain == chain.name).cloned().collect::<Vec<_>>();
            let (found, expected) = (of(&found), of(&expected.rules));
            assert_eq!(found.len(), expected.len(), "{}", chain.name);
            for (found, expected) in found.iter().zip(&expected) {
                let same = equal_but_for_counts(&found.expressions, &expected.expressions);
                assert!(same && found.comment == expected.comment, "{found:#?}\n{expected:#?}");
            }
        }
    }
}

#[test]
fn the_kernel_gives_back_what_it_was_given() {
    if !rights_or_skip() {
        return;
    }
    let netns = Netns::create().unwrap();
    netns
        .run_in(|| {
            let mut nft = Nft::open().unwrap();
            build(&mut nft, "0");
            check(&mut nft, "0");
        })
        .unwrap();
}

#[test]
fn nft_lists_it_and_loads_what_it_lists() {
    if !rights_or_skip() {
        return;
    }
    let list = || Command::new("nft").args(["list", "ruleset"]).output();
    let ours = Netns::create().unwrap();
    let listed = ours.run_in(|| {
        build(&mut Nft::open().unwrap(), "0");
        list()
    });
    let listed = match listed.unwrap() {
        Err(error) => return println!("skipped: nft: {error}"),
        Ok(output) => output,
    };
    assert!(listed.status.success() && listed.stderr.is_empty(), "{listed:?}");
    let text = String::from_utf8(listed.stdout).unwrap();
    for line in [
        "type filter hook forward priority filter - 10; policy accept;",
        "ct state invalid counter packets 0 bytes 0 drop comment \"invalid\"",
        "tcp flags syn / syn,rst tcp option maxseg size set rt mtu",
        "iifname . ip saddr @sources4 accept",
        "meta mark set ip saddr map @networks4 goto member",
        "meta mark . ip daddr @range-peers4 meta mark set 0x00000000 return",
        "dnat ip6 to ip6 daddr . meta l4proto . th dport map @published-at6",
        "ip6 saddr @prefixes6 fib saddr . iif oif missing counter packets 0 bytes 0 drop comment \"foreign_source\"",
        "ip daddr @prefixes4 fib daddr . iif type != local counter packets 0 bytes 0 drop comment \"foreign_input\"",
        "iifname . arp saddr ip @sources4 accept",
    ] {
        assert!(text.lines().any(|found| found.trim() == line), "{line}\n{text}");
    }
    let theirs = Netns::create().unwrap();
    let again = theirs.run_in(|| {
        let mut load = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        load.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        assert!(load.wait().unwrap().success());
        list().unwrap().stdout
    });
    assert_eq!(String::from_utf8(again.unwrap()).unwrap(), text);
}

#[test]
fn names_are_unlike() {
    let names: Vec<_> = SetId::ALL.map(|id| (id.place(), id.name())).into();
    let unlike: std::collections::BTreeSet<_> = names.iter().collect();
    assert_eq!(unlike.len(), names.len());
    for reason in DropReason::ALL {
        assert_eq!(DropReason::of_comment(reason.name()), Some(reason));
    }
    // Every reason has a rule.
    let rules: Vec<_> = all("0").into_iter().flat_map(|structure| structure.rules).collect();
    for reason in DropReason::ALL {
        assert!(rules.iter().any(|rule| rule.comment.as_deref() == Some(reason.name())), "{reason:?}");
    }
}
