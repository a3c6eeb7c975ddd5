//! The promise of the store, tried at random: whatever is confirmed is there after a crash at any moment, what is found
//! beyond that is the beginning of what was asked for last, and a file that was changed behind our back is never taken
//! for a whole one.

use super::double::Disk;
use super::journal::{Verdict, read_journal};
use super::record::Transaction;
use super::report::Outcome;
use super::tables::Tables;
use super::writer::Writer;
use super::{Lease, Name, Settings};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

fn transaction(rng: &mut StdRng) -> Transaction {
    let mut transaction = Transaction::new();
    for _ in 0..rng.random_range(1..4) {
        let number = rng.random_range(0..12_u8);
        let ip = [10, 0, 0, number].into();
        transaction = match rng.random_range(0..5) {
            0 => transaction.delete::<Lease>(format!("10.0.0.{number}")),
            1 => transaction.put(Settings { node_id: Some(rng.random()), advertised_key: None }),
            2 => transaction.put(Name { name: format!("n{number}"), addresses: vec![ip; rng.random_range(0..4)] }),
            _ => {
                let owner = "o".repeat(rng.random_range(0..90));
                transaction.put(Lease { ip, owner, generation: rng.random(), given_ms: 0, released_ms: None })
            }
        };
    }
    transaction
}

/// Every state that a start may find: `before`, then with ever more of `batch`.
fn allowed(before: &Tables, batch: &[Transaction]) -> Vec<Tables> {
    let mut states = vec![before.clone()];
    let mut state = before.clone();
    for transaction in batch {
        state.apply(transaction.clone());
        states.push(state.clone());
    }
    states
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 300 } else { 5_000 }))]

    #[test]
    fn a_crash_loses_nothing_that_was_confirmed(seed in any::<u64>(), failing in 0..30_u32) {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut content: Option<Vec<u8>> = None;
        // What was confirmed, and what may be there beyond it.
        let (mut confirmed, mut beyond): (Tables, Vec<Transaction>) = Default::default();
        for life in 0..6_u64 {
            let disk = Disk::new(seed ^ life, content.clone().unwrap_or_default());
            let (mut writer, report, failure) = Writer::open(disk, content.as_deref()).unwrap();
            prop_assert!(failure.is_none());
            prop_assert!(!matches!(report.outcome, Outcome::Damaged { .. }), "{report}");
            let found = writer.tables().read().unwrap().clone();
            prop_assert!(allowed(&confirmed, &beyond).contains(&found), "life {life}: {report}");
            confirmed = found;
            beyond.clear();
            writer.medium().failing = failing;
            for _ in 0..rng.random_range(0..12) {
                let mut batch: Vec<_> = (0..rng.random_range(1..5)).map(|_| transaction(&mut rng)).collect();
                let asked = batch.clone();
                let appends = writer.medium().appends;
                match writer.commit(&mut batch) {
                    Ok(()) => {
                        confirmed = allowed(&confirmed, &asked).pop().unwrap();
                        beyond.clear();
                    }
                    Err(_) if writer.medium().appends > appends => beyond = asked,
                    // The file was in doubt and could not be written anew.
                    Err(_) => {}
                }
                let shown = writer.tables().read().unwrap().clone();
                prop_assert_eq!(&shown, &confirmed);
                if rng.random_bool(0.1) {
                    let _ = writer.rewrite();
                }
            }
            if rng.random_bool(0.5) && !writer.is_in_doubt() {
                // A batch in flight: appended, not synced.
                let asked: Vec<_> = (0..rng.random_range(1..5)).map(|_| transaction(&mut rng)).collect();
                writer.append_only(&asked);
                beyond = asked;
            }
            content = Some(writer.into_medium().crash());
        }
    }

    #[test]
    fn damage_is_told_and_costs_no_more_than_it_hit(seed in any::<u64>()) {
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut writer, ..) = Writer::open(Disk::new(seed, Vec::new()), None).unwrap();
        let mut states = vec![Tables::default()];
        for _ in 0..10 {
            let mut batch = vec![transaction(&mut rng)];
            states.extend(allowed(states.last().unwrap(), &batch).pop());
            writer.commit(&mut batch).unwrap();
            if rng.random_bool(0.1) {
                writer.rewrite().unwrap();
            }
        }
        let sound = writer.into_medium().crash();
        prop_assert_eq!(read_journal(&sound).verdict, Verdict::Sound);
        let mut bytes = sound.clone();
        let at = rng.random_range(0..bytes.len());
        match rng.random_range(0..4) {
            0 => bytes[at] ^= 1 << rng.random_range(0..8),
            1 => { bytes.remove(at); }
            2 => bytes.truncate(at),
            _ => { let end = (at + rng.random_range(1..200)).min(bytes.len()); bytes[at..end].fill(0); }
        }
        let reading = read_journal(&bytes);
        match reading.verdict {
            // Cut exactly behind a line of which nothing tells that there were more, or a zero where one was.
            Verdict::Sound => prop_assert!(bytes == sound || sound.starts_with(&bytes)),
            // The end could not be told from a torn one: what is left is an earlier state.
            Verdict::Torn { .. } => prop_assert!(states.contains(&reading.tables)),
            Verdict::Damaged { spans, lost } => {
                prop_assert!(!spans.is_empty() || !lost.is_empty() || bytes.is_empty());
                // Every other line is read.
                let lines = |bytes: &[u8]| -> Vec<Vec<u8>> {
                    let whole = bytes.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
                    whole.map(<[u8]>::to_vec).collect()
                };
                let (all, left) = (lines(&sound), lines(&bytes));
                let intact = left.iter().filter(|line| all[1..].contains(line)).count() as u64;
                prop_assert_eq!(reading.transactions, intact);
            }
            Verdict::Newer { .. } => prop_assert!(false, "a changed header has no checksum"),
        }
        // Opening it keeps what was found, for people.
        if let Ok((mut writer, report, None)) = Writer::open(Disk::new(seed, bytes.clone()), Some(&bytes)) {
            let damaged = matches!(report.outcome, Outcome::Damaged { .. });
            prop_assert_eq!(&writer.medium().kept, &if damaged { vec![bytes] } else { vec![] });
            let again = writer.into_medium().crash();
            prop_assert_eq!(read_journal(&again).verdict, Verdict::Sound);
        }
    }

    #[test]
    fn any_bytes_can_be_read(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let verdict = read_journal(&bytes).verdict;
        prop_assert!(matches!(verdict, Verdict::Damaged { .. }), "{verdict:?}");
    }
}
