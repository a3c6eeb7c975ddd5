//! What is to go wrong, and how often it did.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A call of a port on the packet path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// A message of `sendmmsg`.
    Send,
    /// A message of `recvmmsg`.
    Receive,
    /// A read from a TUN queue.
    Read,
    /// A write to a TUN queue.
    Write,
}

/// What a call is about.
#[derive(Clone, Copy, Debug, Default)]
pub struct Subject {
    /// Bytes of the whole.
    pub bytes: usize,
    /// Bytes of each piece of a train or superpacket; those of the whole where it is neither.
    pub piece_bytes: usize,
    /// Where it goes or comes from, on a socket.
    pub remote: Option<SocketAddr>,
}

impl Subject {
    /// Whether it is a train or a superpacket.
    #[must_use]
    pub fn is_several(&self) -> bool {
        self.piece_bytes < self.bytes
    }
}

/// What a call answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The kernel's own: nothing goes wrong, and it is counted.
    Kernel,
    /// It fails with this `errno`.
    Errno(i32),
    /// It says that it did not get to this message, without an error: sending stops short, receiving finds nothing.
    Nothing,
    /// It gives only these many bytes of what is there.
    Short(usize),
    /// The message arrives without its control data, and says so (`MSG_CTRUNC`): how it was merged, its mark and where
    /// it came to are lost.
    WithoutControl,
}

/// When a call goes wrong.
pub struct Rule {
    /// On which call.
    pub call: Call,
    /// For what. A receive or read that fails with an `errno` gets nothing, so it is about no bytes from nowhere.
    pub of: fn(&Subject) -> bool,
    /// What it answers.
    pub answer: Answer,
    /// How often; then the rule is spent.
    pub times: u64,
}

/// Counts how often a rule struck.
#[derive(Clone, Debug)]
pub struct Strikes(Arc<AtomicU64>);

impl Strikes {
    /// How often.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

struct Injected {
    rule: Rule,
    strikes: Strikes,
}

/// The rules in force. The first that matches strikes.
#[derive(Default)]
pub struct Faults(Mutex<Vec<Injected>>);

impl std::fmt::Debug for Faults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Faults")
    }
}

impl Faults {
    /// Puts a rule in force.
    pub fn inject(&self, rule: Rule) -> Strikes {
        let strikes = Strikes(Arc::default());
        self.rules().push(Injected { rule, strikes: strikes.clone() });
        strikes
    }

    /// Takes all rules out of force.
    pub fn clear(&self) {
        self.rules().clear();
    }

    /// Whether a receive or read fails before it gets anything.
    pub(super) fn strike_before(&self, call: Call) -> io::Result<()> {
        match self.strike_if(call, &Subject::default(), |answer| matches!(answer, Answer::Errno(_))) {
            Some(Answer::Errno(errno)) => Err(io::Error::from_raw_os_error(errno)),
            _ => Ok(()),
        }
    }

    /// Whether a receive or read that got something spoils it.
    pub(super) fn strike_after(&self, call: Call, subject: &Subject) -> Option<Answer> {
        self.strike_if(call, subject, |answer| !matches!(answer, Answer::Errno(_)))
    }

    /// Whether a call goes wrong, and how.
    pub(super) fn strike(&self, call: Call, subject: &Subject) -> Option<Answer> {
        self.strike_if(call, subject, |_| true)
    }

    fn strike_if(&self, call: Call, subject: &Subject, fits: fn(&Answer) -> bool) -> Option<Answer> {
        let rules = self.rules();
        let matching = |injected: &&Injected| {
            let Rule { call: on, of, answer, times } = &injected.rule;
            *on == call && fits(answer) && injected.strikes.count() < *times && of(subject)
        };
        let struck = rules.iter().find(matching)?;
        struck.strikes.0.fetch_add(1, Ordering::Relaxed);
        Some(struck.rule.answer)
    }

    fn rules(&self) -> std::sync::MutexGuard<'_, Vec<Injected>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
