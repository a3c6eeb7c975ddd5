//! How much the C library's heap keeps of what is freed (`mallopt(3)`, `malloc_trim(3)`).

use std::io;

/// Heaps. By default each thread gets one of its own, up to eight for a processor, and what is freed stays there.
#[cfg(target_env = "gnu")]
const ARENAS: libc::c_int = 1;

/// Bytes from which on a piece is a mapping of its own, which goes back to the kernel when it is freed. This is the default,
/// but one that is not set rises with the pieces that are freed, and a worker's buffers are large.
#[cfg(target_env = "gnu")]
const MAPPED_FROM: libc::c_int = 128 << 10;

/// Has threads and devices that come and go leave nothing behind in the heap. The price: a system call for each large
/// piece, and a lock between threads that allocate at the same time. Without effect where the C library is not glibc.
///
/// # Errors
/// Where the library refuses.
pub fn keep_heap_small() -> io::Result<()> {
    #[cfg(target_env = "gnu")]
    for (name, value) in [(libc::M_ARENA_MAX, ARENAS), (libc::M_MMAP_THRESHOLD, MAPPED_FROM)] {
        // SAFETY: mallopt takes two numbers, locks what it changes and touches no memory that is in use.
        if unsafe { libc::mallopt(name, value) } == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "mallopt refuses"));
        }
    }
    Ok(())
}

/// Gives back to the kernel what lies free in the heap between pieces that are in use. Takes milliseconds, in which nobody else
/// can allocate. Without effect where the C library is not glibc.
pub fn give_heap_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes a number, locks the heap and touches no memory that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}
