//! What somebody else does to nftables: throws all of it away, or counts what is there. Over netlink, as `nft(8)` would
//! (`linux/netfilter/nf_tables.h`).

use super::Broken;
use ginnel_control::host::Netns;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};
use std::os::fd::{AsRawFd, OwnedFd};

const NFTABLES: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const DELETE_TABLE: u16 = NFTABLES << 8 | 2;
const LIST_TABLES: u16 = NFTABLES << 8 | 1;
const LIST_CHAINS: u16 = NFTABLES << 8 | 4;
const LIST_RULES: u16 = NFTABLES << 8 | 7;
const LIST_SETS: u16 = NFTABLES << 8 | 10;
const LIST_ELEMENTS: u16 = NFTABLES << 8 | 13;

const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// Headers of netlink and of netfilter.
const HEADERS: usize = 20;

/// How much there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Tables, chains, rules and sets.
    pub constant: [usize; 4],
    /// Elements of all sets.
    pub elements: usize,
}

impl Count {
    /// How many objects there are in all.
    #[must_use]
    pub fn all(&self) -> usize {
        self.constant.iter().sum::<usize>() + self.elements
    }
}

/// Throws the whole ruleset of a namespace away: `flush ruleset`.
///
/// # Errors
/// Where the kernel does not do it.
pub fn flush(netns: &Netns) -> Result<(), Broken> {
    let flush = || {
        let socket = open()?;
        let mut batch = message(BATCH_BEGIN, REQUEST, 0, NFTABLES, &[]);
        batch.extend(message(DELETE_TABLE, REQUEST | ACK, 0, 0, &[]));
        batch.extend(message(BATCH_END, REQUEST, 0, NFTABLES, &[]));
        send(socket.as_raw_fd(), &batch, MsgFlags::empty())?;
        answers(&socket, |_, _| ())
    };
    netns.run_in(flush)?.map_err(|errno| Broken(format!("flush ruleset: {errno}")))
}

/// Counts what a namespace has.
///
/// # Errors
/// Where the kernel does not tell.
pub fn count(netns: &Netns) -> Result<Count, Broken> {
    netns.run_in(count_here)?.map_err(|errno| Broken(format!("list the ruleset: {errno}")))
}

fn count_here() -> Result<Count, Errno> {
    let mut sets = Vec::new();
    let constant = [
        dump(LIST_TABLES, 0, &[], |_, _| ())?,
        dump(LIST_CHAINS, 0, &[], |_, _| ())?,
        dump(LIST_RULES, 0, &[], |_, _| ())?,
        dump(LIST_SETS, 0, &[], |family, body| sets.push((family, attribute(body, 1), attribute(body, 2))))?,
    ];
    let mut elements = 0;
    for (family, table, set) in sets {
        let names = [encode(1, &table), encode(2, &set)].concat();
        let listed = dump(LIST_ELEMENTS, family, &names, |_, body| {
            elements += attributes(&attribute(body, 3)).count();
        });
        match listed {
            // The table went meanwhile.
            Ok(_) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(Count { constant, elements })
}

/// Lists objects, and returns how many there were.
fn dump(kind: u16, family: u8, body: &[u8], mut each: impl FnMut(u8, &[u8])) -> Result<usize, Errno> {
    let socket = open()?;
    send(socket.as_raw_fd(), &message(kind, REQUEST | DUMP, family, 0, body), MsgFlags::empty())?;
    let mut objects = 0;
    answers(&socket, |family, body| {
        objects += 1;
        each(family, body);
    })?;
    Ok(objects)
}

fn open() -> Result<OwnedFd, Errno> {
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter)?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    Ok(socket)
}

/// Reads answers up to the one that is the last.
fn answers(socket: &OwnedFd, mut each: impl FnMut(u8, &[u8])) -> Result<(), Errno> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let bytes = match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Err(Errno::EINTR) => continue,
            outcome => outcome?,
        };
        let mut rest = &buffer[..bytes];
        while let (Some(length), Some(kind)) = (number::<4>(rest, 0), number::<2>(rest, 4)) {
            let length = (length as usize).max(16);
            let frame = rest.get(..length).unwrap_or(rest);
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            match kind as u16 {
                DONE => return Ok(()),
                ERROR => {
                    let code = number::<4>(frame, 16).unwrap_or_default() as u32 as i32;
                    return if code == 0 { Ok(()) } else { Err(Errno::from_raw(-code)) };
                }
                _ => each(frame.get(16).copied().unwrap_or_default(), frame.get(HEADERS..).unwrap_or_default()),
            }
        }
    }
}

fn message(kind: u16, flags: u16, family: u8, subsystem: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(HEADERS + body.len()).unwrap_or(u32::MAX).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([family, 0]);
    bytes.extend(subsystem.to_be_bytes());
    bytes.extend(body);
    bytes
}

fn encode(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = u16::try_from(4 + value.len()).unwrap_or(u16::MAX).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The attributes in `bytes`: kind and value.
fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (length, kind) = (number::<2>(rest, 0)? as usize, number::<2>(rest, 2)? as u16);
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        // The two high bits are flags.
        Some((kind & 0x3fff, value))
    })
}

fn attribute(bytes: &[u8], wanted: u16) -> Vec<u8> {
    attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value.to_vec()).unwrap_or_default()
}

/// The number of `N` bytes there, as this machine writes it.
fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<u64> {
    let mut wide = [0; 8];
    let part = bytes.get(at..at + N)?;
    let place = if cfg!(target_endian = "little") { 0 } else { 8 - N };
    wide[place..place + N].copy_from_slice(part);
    Some(u64::from_ne_bytes(wide))
}
