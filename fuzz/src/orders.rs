//! Frames on the IPC socket into the whole daemon behind it, over doubles of device and host.
//!
//! An input is text: each line is the body of a frame. One that begins with a zero byte is taken as it is, lengths included.

use ginnel_control::fuzzing::converse;
use ginnel_control::ipc::frame::{FRAME_BYTES_MAX, PREFIX_BYTES};
use ginnel_control::ipc::wire::{DecodeError, ErrorCode, Frame, Response, decode};
use ginnel_control::state::{Verdict, read_journal};
use nix::sched::{CloneFlags, unshare};
use std::cell::Cell;

/// Frames of an input. More only takes time.
const FRAMES_MAX: usize = 40;

thread_local! {
    static SECLUDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs the target.
pub fn run(bytes: &[u8]) {
    seclude();
    let Some(raw) = bytes.strip_prefix(&[0]) else {
        return run_lines(bytes);
    };
    let conversation = converse(raw);
    answers(&conversation.answers);
    check_journal(&conversation.journal);
}

fn run_lines(bytes: &[u8]) {
    let lines: Vec<_> = bytes.split(|byte| *byte == b'\n').take(FRAMES_MAX).collect();
    let mut frames = Vec::new();
    for line in &lines {
        frames.extend(u32::try_from(line.len()).unwrap_or(u32::MAX).to_le_bytes());
        frames.extend(*line);
    }
    let conversation = converse(&frames);
    let mut answers = answers(&conversation.answers).into_iter();
    for line in lines {
        let id = match decode(line) {
            Ok(Frame::Request { id, .. }) | Err(DecodeError::Refused { id, .. }) => id,
            Ok(_) | Err(DecodeError::Response(_) | DecodeError::Event) => continue,
            // The connection ends here.
            Err(DecodeError::Unreadable(_)) => break,
        };
        // After a shutdown nobody is there to answer.
        let Some((answered, response)) = answers.next() else { break };
        assert_eq!(answered, id, "answers come in the order of the requests");
        if let Response::Err(fault) = response {
            assert!(fault.code != Some(ErrorCode::Internal), "{}", fault.message);
        }
    }
    assert!(answers.next().is_none(), "no request has two answers");
    check_journal(&conversation.journal);
}

/// The answers among what the daemon sent.
fn answers(mut sent: &[u8]) -> Vec<(u64, Response)> {
    let mut all = Vec::new();
    while let Some((length, rest)) = sent.split_first_chunk::<PREFIX_BYTES>() {
        let length = u32::from_le_bytes(*length) as usize;
        assert!(length <= FRAME_BYTES_MAX && length <= rest.len(), "whole frames are sent");
        match decode(&rest[..length]) {
            Ok(Frame::Response { id, response }) => all.push((id, response)),
            Ok(Frame::Event(_)) => {}
            other => panic!("the daemon sent {other:?}"),
        }
        sent = &rest[length..];
    }
    assert!(sent.is_empty(), "whole frames are sent");
    all
}

fn check_journal(journal: &[u8]) {
    if !journal.is_empty() {
        assert_eq!(read_journal(journal).verdict, Verdict::Sound);
    }
}

/// Gives this thread, and those it starts, a network without a link: names in an input are not to be looked up in the real
/// one. Without the right to do so they are, and are merely slow.
fn seclude() {
    if !SECLUDED.replace(true) {
        let both = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET;
        let _ = unshare(CloneFlags::CLONE_NEWNET).or_else(|_| unshare(both));
    }
}
