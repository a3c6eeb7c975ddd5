//! The few commands of bpf(2) that steering needs: longest-prefix maps, one small program, and the ioctl that gives it to
//! a TUN interface.

use super::check;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// One instruction (`struct bpf_insn`, Linux `Documentation/bpf/standardization/instruction-set.rst`).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Instruction {
    /// Class, source and operation.
    pub code: u8,
    /// Destination in the lower half, source in the upper.
    pub registers: u8,
    /// Of a jump or a memory access.
    pub offset: i16,
    /// Constant.
    pub value: i32,
}

const MAP_CREATE: libc::c_long = 0;
const MAP_UPDATE: libc::c_long = 2;
const MAP_DELETE: libc::c_long = 3;
const PROGRAM_LOAD: libc::c_long = 5;
const MAP_UPDATE_BATCH: libc::c_long = 26;

const LPM_TRIE: u32 = 11;
/// The only way such a map can be made.
const NO_PREALLOC: u32 = 1;
const SOCKET_FILTER: u32 = 1;

/// The arguments of a command, as large as the kernel may look at (`union bpf_attr`). Commands have their fields from its
/// start on; the rest is zero.
#[repr(C, align(8))]
struct Attributes([u32; 32]);

impl Attributes {
    fn of(fields: &[u32]) -> Self {
        let mut words = [0; 32];
        for (word, field) in words.iter_mut().zip(fields) {
            *word = *field;
        }
        Self(words)
    }
}

/// A pointer as the two words that hold it.
fn words(pointer: *const u8) -> [u32; 2] {
    let bytes = (pointer.expose_provenance() as u64).to_ne_bytes();
    let (low, high) = bytes.split_at(4);
    [low, high].map(|half| u32::from_ne_bytes(half.try_into().unwrap_or_default()))
}

fn file(descriptor: BorrowedFd<'_>) -> u32 {
    u32::from_ne_bytes(descriptor.as_raw_fd().to_ne_bytes())
}

/// A map from prefixes to `u32`s, longest match first (`BPF_MAP_TYPE_LPM_TRIE`). A key is the length of a prefix in bits,
/// in native order, and an address of `ADDRESS` bytes.
#[derive(Debug)]
pub struct PrefixMap<const ADDRESS: usize>(OwnedFd);

/// A key of a [`PrefixMap`].
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Prefix<const ADDRESS: usize> {
    /// Bits that count.
    pub bits: u32,
    /// The address.
    pub address: [u8; ADDRESS],
}

impl<const ADDRESS: usize> PrefixMap<ADDRESS> {
    /// An empty map.
    ///
    /// # Errors
    /// `EPERM` without `CAP_BPF`, `EINVAL` where the kernel has no such maps.
    pub fn create(entries_max: u32) -> io::Result<Self> {
        let key_bytes = u32::try_from(size_of::<Prefix<ADDRESS>>()).map_err(io::Error::other)?;
        let attributes = Attributes::of(&[LPM_TRIE, key_bytes, 4, entries_max, NO_PREALLOC]);
        bpf(MAP_CREATE, &attributes).map(Self)
    }

    /// Sets the values of prefixes. `keys` and `values` go together.
    ///
    /// # Errors
    /// The kernel's; any number of them may have been set then.
    pub fn set(&self, keys: &[Prefix<ADDRESS>], values: &[u32]) -> io::Result<()> {
        let count = keys.len().min(values.len());
        let map = file(self.0.as_fd());
        let ([k0, k1], [v0, v1]) = (words(keys.as_ptr().cast()), words(values.as_ptr().cast()));
        let length = u32::try_from(count).map_err(io::Error::other)?;
        let batch = Attributes::of(&[0, 0, 0, 0, k0, k1, v0, v1, length, map]);
        if count > 1 && command(MAP_UPDATE_BATCH, &batch).is_ok() {
            return Ok(());
        }
        for (key, value) in keys.iter().zip(values) {
            let ([k0, k1], [v0, v1]) = (words((&raw const *key).cast()), words((&raw const *value).cast()));
            command(MAP_UPDATE, &Attributes::of(&[map, 0, k0, k1, v0, v1]))?;
        }
        Ok(())
    }

    /// Takes a prefix out.
    ///
    /// # Errors
    /// `ENOENT` where it is not in it.
    pub fn remove(&self, key: &Prefix<ADDRESS>) -> io::Result<()> {
        let [k0, k1] = words((&raw const *key).cast());
        command(MAP_DELETE, &Attributes::of(&[file(self.0.as_fd()), 0, k0, k1])).map(drop)
    }

    /// What names the map in a program.
    #[must_use]
    pub fn descriptor(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

/// Has the kernel choose the queue of packets on the TUN interface of `queue` by `program`, whose result counts modulo
/// the number of queues. It holds for all queues, and the kernel keeps the program and its maps as long as the interface.
///
/// # Errors
/// `EPERM` without `CAP_BPF`; `EINVAL` or `ENOTTY` where the kernel has no such thing.
pub fn steer_tun(queue: BorrowedFd<'_>, program: &[Instruction]) -> io::Result<()> {
    const LICENCE: &[u8] = b"Apache-2.0\0";
    let ([p0, p1], [l0, l1]) = (words(program.as_ptr().cast()), words(LICENCE.as_ptr()));
    let length = u32::try_from(program.len()).map_err(io::Error::other)?;
    let loaded = bpf(PROGRAM_LOAD, &Attributes::of(&[SOCKET_FILTER, length, p0, p1, l0, l1]))?;
    let descriptor = loaded.as_raw_fd();
    // SAFETY: TUNSETSTEERINGEBPF reads one int.
    let result = unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETSTEERINGEBPF, &descriptor) };
    check(result).map(drop)
}

/// A command that makes something.
fn bpf(kind: libc::c_long, attributes: &Attributes) -> io::Result<OwnedFd> {
    let descriptor = command(kind, attributes)?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn command(kind: libc::c_long, attributes: &Attributes) -> io::Result<libc::c_int> {
    // SAFETY: the callers of this file put pointers into `attributes` only to memory that outlives the call and is as
    // large as the counts and sizes beside them say; all commands used here only read it.
    let result = unsafe { libc::syscall(libc::SYS_bpf, kind, &raw const *attributes, size_of::<Attributes>()) };
    check(libc::c_int::try_from(result).unwrap_or(-1))
}
