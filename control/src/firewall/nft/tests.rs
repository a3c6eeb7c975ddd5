//! The encoder and decoder against the kernel, against `nft` where it is installed, and against noise.

use super::*;
use crate::firewall::netfilter::Frames;
use crate::host::Netns;
use crate::lab::rights_or_skip;
use nix::errno::Errno;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn table(name: &str) -> Table {
    Table { family: Family::Inet, name: name.into(), comment: Some("a comment".into()), owned: false, dormant: false }
}

fn set(name: &str, key: Kind, value: Option<Kind>, ranges: bool) -> Set {
    Set { family: Family::Inet, table: "t".into(), name: name.into(), key, value, ranges, parts: Vec::new() }
}

fn chain(name: &str, base: Option<Base>) -> Chain {
    Chain { family: Family::Inet, table: "t".into(), name: name.into(), base }
}

fn rule(chain: &str, expressions: Vec<Expression>) -> Rule {
    Rule {
        family: Family::Inet,
        table: "t".into(),
        chain: chain.into(),
        handle: None,
        expressions,
        comment: Some("why".into()),
    }
}

fn in_a_namespace(work: impl FnOnce(&mut Nft) + Send) {
    if rights_or_skip() {
        Netns::create().unwrap().run_in(|| work(&mut Nft::open().unwrap())).unwrap();
    }
}

#[test]
fn registers_have_the_kernels_numbers() {
    for (number, wire) in [(0, 1), (1, 9), (3, 11), (4, 2), (12, 4), (15, 23)] {
        assert_eq!(Register::new(number).to_wire(), wire);
        assert_eq!(Register::from_wire(wire), Some(Register::new(number)));
    }
    // The newer number of a register that has an older one.
    assert_eq!(Register::from_wire(12), Some(Register::new(4)));
    assert_eq!([0, 5, 7, 24].map(Register::from_wire), [None; 4]);
}

#[test]
fn sets_of_every_shape_come_back_from_the_kernel() {
    in_a_namespace(|nft| {
        let filter = Base { kind: "filter".into(), hook: Hook::Forward, priority: -10, drops: true };
        let shapes = [
            (set("names", Kind::INTERFACE, None, false), vec![Element::key(b"veth-1\0\0\0\0\0\0\0\0\0\0")]),
            (
                set("pairs", Kind::INTERFACE.then(Kind::IPV4), None, false),
                vec![Element::key(b"veth-1\0\0\0\0\0\0\0\0\0\0\x0a\xc8\0\x02")],
            ),
            (
                set("ports", Kind::PROTOCOL.then(Kind::PORT), Some(Kind::IPV6.then(Kind::PORT)), false),
                vec![Element::pair(&[6, 0, 0, 0, 0, 80, 0, 0], &[&[0xfd; 16][..], &[0, 81, 0, 0]].concat())],
            ),
            (
                set("numbers", Kind::IPV4, Some(Kind::MARK), false),
                vec![Element::pair(&[10, 0, 0, 1], &[7; 4]), Element::pair(&[10, 0, 0, 2], &[8; 4])],
            ),
            (
                set("ranges", Kind::IPV4, None, true),
                [range(&[10, 0, 0, 0], &[10, 0, 0, 255], None), range(&[10, 0, 1, 0], &[10, 0, 1, 255], None)].concat(),
            ),
            (set("to-the-end", Kind::IPV4, None, true), range(&[255, 0, 0, 0], &[255; 4], None)),
            (set("range-numbers", Kind::IPV6, Some(Kind::MARK), true), range(&[0xfd; 16], &[0xfe; 16], Some(&[7; 4]))),
            (
                Set { parts: vec![4, 4], ..set("spans", Kind::MARK.then(Kind::IPV4), None, true) },
                vec![
                    Element::Span { first: [0, 0, 0, 7, 10, 0, 0, 0].into(), last: [0, 0, 0, 7, 10, 0, 0, 255].into() },
                    Element::Span { first: [0, 0, 0, 8, 10, 0, 0, 0].into(), last: [0, 0, 0, 8, 10, 0, 0, 255].into() },
                ],
            ),
        ];
        let mut batch = Batch::default();
        batch.add_table(&table("t"));
        for chain in [chain("base", Some(filter.clone())), chain("called", None)] {
            batch.add_chain(&chain);
        }
        for (set, elements) in &shapes {
            batch.add_set(set);
            batch.add_elements(set, elements);
        }
        nft.commit(&batch, None).unwrap();
        assert_eq!(nft.tables(Family::Any).unwrap(), [table("t")]);
        let chains = nft.chains(Family::Inet, Some("t")).unwrap();
        assert_eq!(chains, [chain("base", Some(filter)), chain("called", None)]);
        let sets: Vec<_> = nft.sets(Family::Inet, "t").unwrap().into_iter().flatten().collect();
        assert_eq!(sets, shapes.each_ref().map(|(set, _)| set.clone()));
        for (set, elements) in &shapes {
            let read = nft.elements(Family::Inet, "t", &set.name).unwrap().unwrap();
            let sorted: BTreeSet<_> = read.iter().collect();
            assert_eq!(sorted, elements.iter().collect(), "{}", set.name);
        }
        let mut emptied = Batch::default();
        for (set, elements) in &shapes {
            if set.ranges {
                emptied.flush_set(set);
            } else {
                emptied.delete_elements(set, elements);
            }
        }
        nft.commit(&emptied, None).unwrap();
        for (set, _) in &shapes {
            assert_eq!(nft.elements(Family::Inet, "t", &set.name).unwrap(), Some(vec![]), "{}", set.name);
        }
    });
}

#[test]
fn a_refusal_names_the_object_and_changes_nothing() {
    in_a_namespace(|nft| {
        let mut batch = Batch::default();
        batch.add_table(&table("t"));
        batch.add_chain(&chain("good", None));
        let nowhere = vec![Expression::Verdict(Verdict::Jump("nowhere".into()))];
        batch.append_rule(&rule("good", nowhere));
        batch.add_chain(&chain("behind", None));
        let refused = nft.commit(&batch, None).unwrap_err();
        let NftError::Refused(refusal) = &refused else { panic!("{refused}") };
        assert_eq!((refusal.what.as_str(), refusal.errno), ("append rule inet t good", Errno::ENOENT));
        assert_eq!(nft.tables(Family::Any).unwrap(), []);
        // The last object of a batch is no different.
        let mut batch = Batch::default();
        batch.add_table(&table("t"));
        batch.add_chain(&Chain { table: "other".into(), ..chain("c", None) });
        let refused = nft.commit(&batch, None).unwrap_err();
        assert!(refused.to_string().contains("add chain inet other c"), "{refused}");
        assert_eq!(refused.errno(), Some(Errno::ENOENT));
    });
}

#[test]
fn a_batch_for_another_generation_is_refused_whole() {
    in_a_namespace(|nft| {
        let before = nft.generation().unwrap();
        let mut batch = Batch::default();
        batch.add_table(&table("mine"));
        let mut others = Batch::default();
        others.add_table(&table("theirs"));
        Nft::open().unwrap().commit(&others, None).unwrap();
        assert!(matches!(nft.commit(&batch, Some(before)), Err(NftError::Superseded)));
        assert_eq!(nft.tables(Family::Any).unwrap(), [table("theirs")]);
        let now = nft.generation().unwrap();
        assert_ne!(now, before);
        nft.commit(&batch, Some(now)).unwrap();
        assert_eq!(nft.tables(Family::Any).unwrap().len(), 2);
    });
}

#[test]
fn batches_are_long_but_not_endless() {
    in_a_namespace(|nft| {
        let addresses = set("addresses", Kind::IPV4, None, false);
        let elements: Vec<_> = (0..50_000u32).map(|number| Element::key(&number.to_be_bytes())).collect();
        let mut batch = Batch::default();
        batch.add_table(&table("t"));
        batch.add_set(&addresses);
        batch.add_elements(&addresses, &elements);
        assert_eq!(batch.messages(), 2 + elements.len().div_ceil(batch::ELEMENTS_PER_MESSAGE));
        nft.commit(&batch, None).unwrap();
        // A list that is read while the kernel resizes the table may lack some.
        let mut read = BTreeSet::new();
        for _ in 0..1_000 {
            read.extend(nft.elements(Family::Inet, "t", "addresses").unwrap().unwrap());
            if read.len() == elements.len() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert!(read.iter().eq(&elements), "{} of {}", read.len(), elements.len());
        let mut endless = Batch::default();
        while endless.bytes() <= nft.batch_bytes_max() {
            endless.add_elements(&addresses, &elements);
        }
        assert!(matches!(nft.commit(&endless, None), Err(NftError::TooLong { .. })));
        // The connection is as good as before.
        assert_eq!(nft.tables(Family::Any).unwrap().len(), 1);
    });
}

#[test]
fn many_refusals_are_heard_to_the_end() {
    in_a_namespace(|nft| {
        let mut batch = Batch::default();
        for _ in 0..2_000 {
            batch.delete_table(Family::Inet, "nowhere");
        }
        let refused = nft.commit(&batch, None).unwrap_err();
        assert_eq!(refused.errno(), Some(Errno::ENOENT));
        assert_eq!(nft.tables(Family::Any).unwrap(), []);
    });
}

#[test]
fn what_nft_writes_is_read_and_what_is_unknown_equals_nothing() {
    in_a_namespace(|nft| {
        let script = "add table inet t
            add chain inet t c
            add rule inet t c tcp dport 22 ct state new limit rate 3/second log counter accept
            add rule inet t c reject with icmpx admin-prohibited
            add set inet t s { type ipv4_addr; timeout 1m; }";
        let nft_itself = std::process::Command::new("nft").arg(script).output();
        match nft_itself {
            Err(error) => return println!("skipped: nft: {error}"),
            Ok(output) => assert!(output.status.success(), "{output:?}"),
        }
        let rules = nft.rules(Family::Inet, "t", Some("c")).unwrap();
        assert_eq!(rules.len(), 2);
        assert!(rules[0].expressions.contains(&Expression::Verdict(Verdict::Accept)));
        assert!(rules[0].expressions.contains(&Expression::Other("limit".into())));
        assert!(rules.iter().all(|rule| !equal_but_for_counts(&rule.expressions, &rule.expressions)));
        assert!(rules[1].expressions.last().is_some_and(Expression::is_final));
        assert_eq!(nft.sets(Family::Inet, "t").unwrap(), [None], "time-outs are not used here");
    });
}

proptest! {
    #[test]
    fn noise_is_read_without_harm(bytes: Vec<u8>, family: u8) {
        let _ = Expression::read(&bytes);
        let _ = Table::read(family, &bytes);
        let _ = Chain::read(family, &bytes);
        let _ = Rule::read(family, &bytes);
        let _ = Set::read(family, &bytes);
        let _ = object_codec::read_elements(&bytes);
        for frame in Frames::new(&bytes) {
            let _ = Event::read(&frame);
        }
    }

    /// Noise where it gets further in: of the right length and kind, at any place of a sound message.
    #[test]
    fn damaged_messages_are_read_without_harm(at: prop::sample::Index, byte: u8) {
        let mut batch = Batch::default();
        batch.add_table(&table("t"));
        batch.add_chain(&chain("c", Some(Base { kind: "nat".into(), hook: Hook::Input, priority: 1, drops: false })));
        batch.add_set(&set("s", Kind::IPV4, Some(Kind::MARK), false));
        batch.add_elements(&set("s", Kind::IPV4, Some(Kind::MARK), false), &[Element::pair(&[1; 4], &[7; 4])]);
        let register = Register::new(0);
        batch.append_rule(&rule("c", vec![
            Expression::Meta { key: MetaKey::Mark, into: register },
            Expression::Bitwise { from: register, into: register, mask: vec![1; 4], xor: vec![0; 4] },
            Expression::Compare { from: register, equal: true, value: vec![1; 4] },
            Expression::Lookup { set: "s".into(), from: register, into: Some(register), inverted: false },
            Expression::Fib { source: true, through_in: true, result: FibResult::Present, into: register },
            Expression::DestinationNat { family: Family::Ipv4, address: register, port: Register::new(1) },
            Expression::COUNTER,
            Expression::Verdict(Verdict::Goto("c".into())),
        ]));
        let mut wire = batch.to_wire(1, Some(7));
        let at = at.index(wire.len());
        wire[at] = byte;
        for frame in Frames::new(&wire) {
            let _ = Event::read(&frame);
            let (family, body) = (frame.family(), frame.body());
            let _ = (Table::read(family, body), Chain::read(family, body), Set::read(family, body));
            let _ = (Rule::read(family, body), object_codec::read_elements(body));
        }
    }
}
