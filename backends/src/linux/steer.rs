//! Packets to the queue of the worker that owns their peer, chosen in the kernel: allowed IPs as longest-prefix maps and a
//! program of a few instructions that looks the destination up (`TUNSETSTEERINGEBPF`, Linux 4.16).
//!
//! ```text
//! packet ─► program: version? ─► map of that version: destination ─► owner ─► queue
//! ```
//! Without it TUN sends a flow to the queue on which its replies were last written, which is the owner's as well, but
//! only for flows that have replies, and a flow that changes its queue may overtake itself there. It needs `CAP_BPF`,
//! which a user namespace does not give.

use super::sys::bpf::{Instruction, Prefix, PrefixMap, steer_tun};
use ipnet::IpNet;
use std::collections::HashMap;
use std::io;
use std::os::fd::BorrowedFd;

/// Prefixes of each version: no device has more allowed IPs than peers times a few, and the kernel takes memory only for
/// those that are there.
const PREFIXES_MAX: u32 = 1 << 22;

/// The owners of the prefixes of a device, in the kernel.
#[derive(Debug)]
pub struct Steering {
    v4: PrefixMap<4>,
    v6: PrefixMap<16>,
}

impl Steering {
    /// Takes over the choice of the queue on the interface of `queue`. Every packet goes to the first one until prefixes
    /// have owners.
    ///
    /// # Errors
    /// `EPERM` without `CAP_BPF`, or what an older kernel says.
    pub fn attach(queue: BorrowedFd<'_>) -> io::Result<Self> {
        let steering = Self { v4: PrefixMap::create(PREFIXES_MAX)?, v6: PrefixMap::create(PREFIXES_MAX)? };
        steer_tun(queue, &program(steering.v4.descriptor(), steering.v6.descriptor()))?;
        Ok(steering)
    }

    /// Gives each prefix the worker that owns it, or none. The last word on a prefix counts.
    ///
    /// # Errors
    /// The kernel's: packets then go to some other worker, which hands them over.
    pub fn update(&self, changes: impl IntoIterator<Item = (IpNet, Option<u32>)>) -> io::Result<()> {
        let (mut keys_v4, mut owners_v4, mut keys_v6, mut owners_v6) = (vec![], vec![], vec![], vec![]);
        let mut outcome = Ok(());
        // As one change, so that a prefix that is taken and given anew is never without an owner.
        for (prefix, owner) in changes.into_iter().collect::<HashMap<_, _>>() {
            let bits = u32::from(prefix.prefix_len());
            match (prefix, owner) {
                (IpNet::V4(prefix), Some(owner)) => {
                    keys_v4.push(Prefix { bits, address: prefix.network().octets() });
                    owners_v4.push(owner);
                }
                (IpNet::V6(prefix), Some(owner)) => {
                    keys_v6.push(Prefix { bits, address: prefix.network().octets() });
                    owners_v6.push(owner);
                }
                (IpNet::V4(prefix), None) => {
                    let removed = self.v4.remove(&Prefix { bits, address: prefix.network().octets() });
                    outcome = outcome.and(unless_absent(removed));
                }
                (IpNet::V6(prefix), None) => {
                    let removed = self.v6.remove(&Prefix { bits, address: prefix.network().octets() });
                    outcome = outcome.and(unless_absent(removed));
                }
            }
        }
        outcome.and(self.v4.set(&keys_v4, &owners_v4)).and(self.v6.set(&keys_v6, &owners_v6))
    }
}

fn unless_absent(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        removed => removed,
    }
}

/// The instructions, by their names in the instruction set.
mod code {
    pub const LOAD_BYTE_ABSOLUTE: u8 = 0x30;
    pub const LOAD_WORD_ABSOLUTE: u8 = 0x20;
    pub const LOAD_IMMEDIATE_64: u8 = 0x18;
    pub const LOAD_WORD: u8 = 0x61;
    pub const STORE_WORD: u8 = 0x63;
    pub const STORE_WORD_IMMEDIATE: u8 = 0x62;
    pub const MOVE: u8 = 0xbf;
    pub const MOVE_IMMEDIATE: u8 = 0xb7;
    pub const ADD_IMMEDIATE: u8 = 0x07;
    pub const SHIFT_RIGHT_IMMEDIATE: u8 = 0x77;
    pub const TO_BIG_ENDIAN: u8 = 0xdc;
    pub const JUMP: u8 = 0x05;
    pub const JUMP_EQUAL: u8 = 0x15;
    pub const CALL: u8 = 0x85;
    pub const EXIT: u8 = 0x95;
}

const MAP_LOOKUP: i32 = 1;
/// Source of a 64-bit constant that is the descriptor of a map.
const OF_MAP: u8 = 1;
/// The frame pointer.
const FRAME: u8 = 10;

fn step(code: u8, to: u8, from: u8, offset: i16, value: i32) -> Instruction {
    Instruction { code, registers: to | from << 4, offset, value }
}

/// Looks up `words` words of the packet from byte `at` on in `map`; the key lies at the end of the stack, its length
/// first. Leaves a pointer to the value in register 0.
fn lookup(map: i32, at: i32, words: i16) -> Vec<Instruction> {
    let key = -4 - 4 * words;
    let mut steps = vec![step(code::STORE_WORD_IMMEDIATE, FRAME, 0, key, 32 * i32::from(words))];
    for word in 0..words {
        // Words are loaded in the order of the machine and kept in that of the network.
        steps.push(step(code::LOAD_WORD_ABSOLUTE, 0, 0, 0, at + 4 * i32::from(word)));
        steps.push(step(code::TO_BIG_ENDIAN, 0, 0, 0, 32));
        steps.push(step(code::STORE_WORD, FRAME, 0, key + 4 + 4 * word, 0));
    }
    steps.extend([
        step(code::LOAD_IMMEDIATE_64, 1, OF_MAP, 0, map),
        step(0, 0, 0, 0, 0),
        step(code::MOVE, 2, FRAME, 0, 0),
        step(code::ADD_IMMEDIATE, 2, 0, 0, key.into()),
        step(code::CALL, 0, 0, 0, MAP_LOOKUP),
    ]);
    steps
}

/// A packet that is too short, of no known version or without an owner goes to queue 0: its worker drops it, with the
/// right reason.
fn program(v4: i32, v6: i32) -> Vec<Instruction> {
    let (v4, v6) = (lookup(v4, 16, 1), lookup(v6, 24, 4));
    let found = [
        step(code::JUMP_EQUAL, 0, 0, 2, 0),
        step(code::LOAD_WORD, 0, 0, 0, 0),
        step(code::EXIT, 0, 0, 0, 0),
        step(code::MOVE_IMMEDIATE, 0, 0, 0, 0),
        step(code::EXIT, 0, 0, 0, 0),
    ];
    let length = |steps: &[Instruction]| i16::try_from(steps.len()).unwrap_or(0);
    let mut program = vec![
        // Loads from the packet want the context in register 6.
        step(code::MOVE, 6, 1, 0, 0),
        step(code::LOAD_BYTE_ABSOLUTE, 0, 0, 0, 0),
        step(code::SHIFT_RIGHT_IMMEDIATE, 0, 0, 0, 4),
        // Jumps count from the next instruction.
        step(code::JUMP_EQUAL, 0, 0, 3, 4),
        step(code::JUMP_EQUAL, 0, 0, length(&v4) + 3, 6),
        step(code::MOVE_IMMEDIATE, 0, 0, 0, 0),
        step(code::EXIT, 0, 0, 0, 0),
    ];
    program.extend(&v4);
    program.push(step(code::JUMP, 0, 0, length(&v6), 0));
    program.extend(&v6);
    program.extend(found);
    program
}
