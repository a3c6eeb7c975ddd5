//! What somebody else does to nftables in a node: throws all of it away, or counts what is there.

use crate::firewall::{Batch, Family, FirewallError, Nft, NftError};
use crate::host::Netns;
use nix::errno::Errno;

/// How often a flush is begun anew where tables come and go meanwhile.
const TRIES_MAX: usize = 100;

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

/// Throws the whole ruleset of a namespace away, as `nft flush ruleset` does.
///
/// # Errors
/// [`FirewallError`] where the kernel does not do it.
pub fn flush(netns: &Netns) -> Result<(), FirewallError> {
    ask(netns, |nft| {
        for _ in 0..TRIES_MAX {
            let mut batch = Batch::default();
            for table in nft.tables(Family::Any)? {
                batch.delete_table(table.family, &table.name);
            }
            match nft.commit(&batch, None) {
                // Somebody was faster.
                Err(error) if error.errno() == Some(Errno::ENOENT) => {}
                outcome => return outcome,
            }
        }
        Err(NftError::Unsteady)
    })
}

/// Counts what a namespace has.
///
/// # Errors
/// [`FirewallError`] where the kernel does not tell.
pub fn count(netns: &Netns) -> Result<Count, FirewallError> {
    ask(netns, |nft| {
        for _ in 0..TRIES_MAX {
            match count_all(nft) {
                // A table went meanwhile.
                Err(error) if error.errno() == Some(Errno::ENOENT) => {}
                outcome => return outcome,
            }
        }
        Err(NftError::Unsteady)
    })
}

fn count_all(nft: &mut Nft) -> Result<Count, NftError> {
    let mut count = Count::default();
    for table in nft.tables(Family::Any)? {
        let (family, name) = (table.family, table.name.as_str());
        let sets = nft.sets(family, name)?;
        let chains = nft.chains(family, Some(name))?;
        let found = [1, chains.len(), nft.rules(family, name, None)?.len(), sets.len()];
        count.constant.iter_mut().zip(found).for_each(|(all, here)| *all += here);
        for set in sets.iter().flatten() {
            count.elements += nft.elements(family, name, &set.name)?.map_or(0, |elements| elements.len());
        }
    }
    Ok(count)
}

fn ask<T: Send>(netns: &Netns, work: impl FnOnce(&mut Nft) -> Result<T, NftError> + Send) -> Result<T, FirewallError> {
    let outcome = netns.run_in(|| Nft::open().and_then(|mut nft| work(&mut nft)));
    Ok(outcome.map_err(|error| FirewallError::Guard(std::io::Error::other(error)))??)
}
