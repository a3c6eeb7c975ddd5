//! How many descriptors the process may have. Service managers start programs with a low bound because old ones break
//! above it; nothing here does.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// What is asked for where the system allows it: the most connections that can be configured, and room for devices.
const WANTED: u64 = 131_072;

/// Raises the bound as far as it is wanted and allowed.
pub(super) fn raise_limit() {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    let wanted = WANTED.min(hard);
    if soft < wanted
        && let Err(errno) = setrlimit(Resource::RLIMIT_NOFILE, wanted, hard)
    {
        tracing::warn!(soft, wanted, %errno, "the bound on descriptors cannot be raised");
    }
}
