//! The state journal as the disk gives it back. An input that begins with a zero byte is the file; any other is its lines
//! without their checksums, which are put right, so that what is behind them is reached.

use ginnel_control::fuzzing::{journal_of, seal_lines};
use ginnel_control::state::{Verdict, read_journal};

/// Runs the target.
pub fn run(bytes: &[u8]) {
    match bytes.strip_prefix(&[0]) {
        Some(file) => check(file),
        None => check(&seal_lines(bytes.split(|byte| *byte == b'\n'))),
    }
}

fn check(file: &[u8]) {
    let reading = read_journal(file);
    let length = file.len() as u64;
    match &reading.verdict {
        Verdict::Sound => assert!(reading.id.is_some()),
        Verdict::Torn { length: kept, bytes, .. } => {
            assert_eq!(kept + bytes, length);
            // What is kept of a torn file is a whole one.
            let kept = usize::try_from(*kept).expect("a length of this file");
            let again = read_journal(&file[..kept]);
            assert_eq!(again.verdict, Verdict::Sound);
            assert_eq!((again.tables, again.last), (reading.tables.clone(), reading.last));
        }
        Verdict::Damaged { spans, lost } => {
            assert!(spans.iter().all(|span| span.offset + span.bytes <= length));
            assert!(lost.iter().all(|lost| lost.start() <= lost.end()));
        }
        Verdict::Newer { .. } => return assert!(reading.tables.is_empty()),
    }
    let anew = journal_of(&reading.tables);
    let again = read_journal(&anew);
    assert_eq!(again.verdict, Verdict::Sound);
    assert_eq!(again.tables, reading.tables, "what was read can be written and read again");
}
