//! A laboratory of network namespaces.

use crate::host::Netns;

/// Whether namespaces can be made here; prints why not.
#[must_use]
pub fn rights_or_skip() -> bool {
    match Netns::create() {
        Ok(_) => true,
        Err(error) => {
            println!("skipped: {error}");
            false
        }
    }
}
