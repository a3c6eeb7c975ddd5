//! Batches: changes that the kernel applies together or not at all.
//!
//! A batch is bounded by what a socket sends in one piece; elements are cut into messages below the 64 KiB of an attribute.

use super::object::{Chain, Element, Family, Rule, Set, Table};
use super::object_codec::{COMMENT_BYTES_MAX, message, write_elements};
use crate::firewall::netfilter::{ACK, CREATE, EXCLUSIVE, HEADER_LEN, REQUEST, SUBSYSTEM_NFTABLES, Writer, frame};
use nix::errno::Errno;
use std::fmt;

/// `NFNL_MSG_BATCH_BEGIN`, `NFNL_MSG_BATCH_END`; their resource is the subsystem.
const BEGIN: u16 = 16;
const END: u16 = 17;

/// `NFNL_BATCH_GENID`.
const GENERATION: u16 = 1;

/// `NLM_F_APPEND`: behind the other rules of the chain, not before them.
const APPEND: u16 = 0x800;

/// Elements of one message. The longest, an address and a port that stand for others, takes below 120 bytes, so this stays
/// far from the 64 KiB of an attribute.
pub(super) const ELEMENTS_PER_MESSAGE: usize = 256;

/// Why a batch was refused: the first object that the kernel did not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Which object, such as `add chain inet ginnel-0 forward`.
    pub what: String,
    /// The kernel's reason.
    pub errno: Errno,
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.what, self.errno)
    }
}

/// Changes to be applied together, in their order.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    frames: Vec<u8>,
    /// Where each frame starts, and what it asks for.
    steps: Vec<(usize, Step)>,
}

#[derive(Clone, Debug)]
struct Step {
    verb: &'static str,
    family: Family,
    table: String,
    name: String,
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {} {} {}", self.verb, self.family.name(), self.table, self.name)
    }
}

impl Batch {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// How many messages it has.
    #[must_use]
    pub fn messages(&self) -> usize {
        self.steps.len()
    }

    /// Its length on the wire, in bytes, without the frames around it.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.frames.len()
    }

    /// Adds what `other` has behind what is here.
    pub fn extend(&mut self, other: Self) {
        let base = self.frames.len();
        self.frames.extend(other.frames);
        self.steps.extend(other.steps.into_iter().map(|(start, step)| (base + start, step)));
    }

    /// Makes a table, which must not be there yet.
    ///
    /// # Panics
    /// Where its comment is longer than 250 bytes.
    pub fn add_table(&mut self, table: &Table) {
        check_comment(table.comment.as_deref());
        let step = step("add table", table.family, &table.name, "");
        self.push(step, message::NEW_TABLE, CREATE | EXCLUSIVE, |writer| table.write(writer));
    }

    /// Deletes a table and all that is in it.
    pub fn delete_table(&mut self, family: Family, name: &str) {
        let step = step("delete table", family, name, "");
        self.push(step, message::DELETE_TABLE, 0, |writer| {
            writer.text(1, name);
        });
    }

    /// Makes a chain, which must not be there yet.
    pub fn add_chain(&mut self, chain: &Chain) {
        let step = step("add chain", chain.family, &chain.table, &chain.name);
        self.push(step, message::NEW_CHAIN, CREATE | EXCLUSIVE, |writer| chain.write(writer));
    }

    /// Adds a rule behind the others of its chain.
    ///
    /// # Panics
    /// Where its comment is longer than 250 bytes.
    pub fn append_rule(&mut self, rule: &Rule) {
        check_comment(rule.comment.as_deref());
        let step = step("append rule", rule.family, &rule.table, &rule.chain);
        self.push(step, message::NEW_RULE, CREATE | APPEND, |writer| rule.write(writer));
    }

    /// Adds a rule before the others of its chain.
    ///
    /// # Panics
    /// As [`Batch::append_rule`].
    pub fn insert_rule(&mut self, rule: &Rule) {
        check_comment(rule.comment.as_deref());
        let step = step("insert rule", rule.family, &rule.table, &rule.chain);
        self.push(step, message::NEW_RULE, CREATE, |writer| rule.write(writer));
    }

    /// Deletes a rule that was read from the kernel, by its handle.
    ///
    /// # Panics
    /// Where it has no handle: without one the kernel takes the order for all rules of the chain.
    pub fn delete_rule(&mut self, rule: &Rule) {
        assert!(rule.handle.is_some(), "only a rule of the kernel can be deleted");
        let step = step("delete rule", rule.family, &rule.table, &rule.chain);
        self.push(step, message::DELETE_RULE, 0, |writer| rule.write_name(writer));
    }

    /// Makes a set, which must not be there yet.
    pub fn add_set(&mut self, set: &Set) {
        let id = u32::try_from(self.steps.len()).unwrap_or(u32::MAX);
        let step = step("add set", set.family, &set.table, &set.name);
        self.push(step, message::NEW_SET, CREATE | EXCLUSIVE, |writer| set.write(id, writer));
    }

    /// Adds elements to a set. One that is there with the same value is no matter; with another it is refused.
    pub fn add_elements(&mut self, set: &Set, elements: &[Element]) {
        self.change_elements("add elements", message::NEW_ELEMENTS, CREATE, set, elements);
    }

    /// Takes elements out of a set, which must be there.
    pub fn delete_elements(&mut self, set: &Set, elements: &[Element]) {
        self.change_elements("delete elements", message::DELETE_ELEMENTS, 0, set, elements);
    }

    /// Takes all elements out of a set.
    pub fn flush_set(&mut self, set: &Set) {
        let step = step("flush set", set.family, &set.table, &set.name);
        self.push(step, message::DELETE_ELEMENTS, 0, |writer| set.write_flush(writer));
    }

    fn change_elements(&mut self, verb: &'static str, message: u8, flags: u16, set: &Set, elements: &[Element]) {
        for some in elements.chunks(ELEMENTS_PER_MESSAGE) {
            let step = step(verb, set.family, &set.table, &set.name);
            self.push(step, message, flags, |writer| write_elements(&set.table, &set.name, some, writer));
        }
    }

    fn push(&mut self, step: Step, message: u8, flags: u16, write: impl FnOnce(&mut Writer)) {
        let kind = u16::from_be_bytes([SUBSYSTEM_NFTABLES, message]);
        let bytes = frame(kind, REQUEST | flags, 0, step.family.to_wire(), 0, write);
        self.steps.push((self.frames.len(), step));
        self.frames.extend(bytes);
    }

    /// The whole of it as sent: numbered from `sequence`, which is the beginning's own, and for `generation` only. The last
    /// object asks for an answer; refusals come unasked.
    pub(super) fn to_wire(&self, sequence: u32, generation: Option<u32>) -> Vec<u8> {
        let mut wire = Vec::with_capacity(self.frames.len() + 3 * HEADER_LEN);
        let around = |kind, number, generation: Option<u32>| {
            frame(kind, REQUEST, number, 0, SUBSYSTEM_NFTABLES.into(), |writer| {
                if let Some(generation) = generation {
                    writer.u32(GENERATION, generation);
                }
            })
        };
        wire.extend(around(BEGIN, sequence, generation));
        let base = wire.len();
        wire.extend(&self.frames);
        for (number, (start, _)) in (1..).zip(&self.steps) {
            let at = base + start;
            wire[at + 8..at + 12].copy_from_slice(&sequence.wrapping_add(number).to_ne_bytes());
        }
        if let Some((start, _)) = self.steps.last() {
            let at = base + start + 6;
            let flags = u16::from_ne_bytes([wire[at], wire[at + 1]]) | ACK;
            wire[at..at + 2].copy_from_slice(&flags.to_ne_bytes());
        }
        wire.extend(around(END, sequence.wrapping_add(self.sequences() - 1), None));
        wire
    }

    /// How many sequence numbers it takes.
    pub(super) fn sequences(&self) -> u32 {
        u32::try_from(self.steps.len() + 2).expect("batches are bounded by what a socket sends")
    }

    /// What object number `index` asks for; the beginning is number 0.
    pub(super) fn step_name(&self, index: u32) -> String {
        let at = usize::try_from(index).ok().and_then(|index| index.checked_sub(1));
        at.and_then(|at| self.steps.get(at)).map_or_else(|| "the whole batch".into(), |(_, step)| step.to_string())
    }
}

fn step(verb: &'static str, family: Family, table: &str, name: &str) -> Step {
    Step { verb, family, table: table.into(), name: name.into() }
}

fn check_comment(comment: Option<&str>) {
    assert!(comment.is_none_or(|comment| comment.len() <= COMMENT_BYTES_MAX), "comments are bounded");
}
