//! Asking the kernel: committing batches and listing objects.
//!
//! A list is read again where it saw two states of the ruleset. Lists are bounded: a ruleset beyond the bounds, which
//! nobody has, is an error rather than memory without end.

use super::batch::{Batch, Refusal};
use super::object::{Chain, Element, Family, Rule, Set, Table};
use super::object_codec::{
    CHAIN_TABLE, ELEMENTS_SET, ELEMENTS_TABLE, RULE_CHAIN, RULE_TABLE, SET_TABLE, message, read_elements,
    read_generation,
};
use crate::firewall::limits::{LIST_OBJECTS_MAX, LIST_TRIES_MAX};
use crate::firewall::netfilter::{
    DUMP, Frame, Group, Outcome, REQUEST, SUBSYSTEM_NFTABLES, Socket, SocketError, Writer, frame,
};
use nix::errno::Errno;

/// Why a request to nftables failed.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The kernel could not be asked.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The ruleset is of another generation than the batch was made for; nothing was changed.
    #[error("nftables: the ruleset was changed by somebody else meanwhile; try again")]
    Superseded,
    /// The kernel refused the batch; nothing was changed.
    #[error("nftables: {0}")]
    Refused(Refusal),
    /// The batch is longer than what can be sent in one piece.
    #[error("nftables: a batch of {bytes} bytes is too long; at most {bytes_max} can be sent")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The longest.
        bytes_max: usize,
    },
    /// A list could not be asked for.
    #[error("nftables: list {what}: {errno}")]
    List {
        /// Of what.
        what: &'static str,
        /// The kernel's reason.
        errno: Errno,
    },
    /// A list changed each time it was read.
    #[error("nftables: the ruleset changes faster than it can be read")]
    Unsteady,
    /// A list is longer than anything expected.
    #[error("nftables: more than {LIST_OBJECTS_MAX} {0} are listed; that is no ruleset for this program")]
    Endless(&'static str),
}

impl NftError {
    /// Why the kernel refused, if it did.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused(refusal) => Some(refusal.errno),
            Self::List { errno, .. } | Self::Socket(SocketError::System { errno, .. }) => Some(*errno),
            _ => None,
        }
    }
}

/// Whether the kernel has nf_tables; `None` where this process may not ask.
#[must_use]
pub(crate) fn is_offered() -> Option<bool> {
    match Nft::open().and_then(|mut nft| nft.generation()) {
        Ok(_) => Some(true),
        Err(error) => match error.errno()? {
            Errno::EPERM | Errno::EACCES => None,
            Errno::EOPNOTSUPP | Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT | Errno::EINVAL => Some(false),
            _ => None,
        },
    }
}

/// A connection to nftables of the network namespace it was opened in.
#[derive(Debug)]
pub struct Nft {
    socket: Socket,
}

impl Nft {
    /// Opens a connection in the network namespace of this thread.
    ///
    /// # Errors
    /// [`NftError::Socket`].
    pub fn open() -> Result<Self, NftError> {
        Ok(Self { socket: Socket::open(Group::None)? })
    }

    /// The number by which events tell that this connection caused them.
    #[must_use]
    pub fn port(&self) -> u32 {
        self.socket.port()
    }

    /// Whether the kernel once did not answer, after which another connection is needed.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.socket.is_silent()
    }

    /// Longest batch, in bytes.
    #[must_use]
    pub fn batch_bytes_max(&self) -> usize {
        self.socket.send_bytes_max()
    }

    /// Applies a batch: all of it, or nothing. With `generation`, only where that is the generation of the ruleset.
    ///
    /// # Errors
    /// [`NftError::Superseded`] where it is not; [`NftError::Refused`] with the object that could not be applied. After
    /// [`SocketError::Overrun`] or [`SocketError::Silent`] it is not known whether the batch was applied.
    pub fn commit(&mut self, batch: &Batch, generation: Option<u32>) -> Result<(), NftError> {
        if batch.is_empty() {
            return Ok(());
        }
        let first = self.socket.sequences(batch.sequences());
        let wire = batch.to_wire(first, generation);
        let bytes_max = self.socket.send_bytes_max();
        if wire.len() > bytes_max {
            return Err(NftError::TooLong { bytes: wire.len(), bytes_max });
        }
        self.socket.send(&wire)?;
        let last = batch.sequences() - 2;
        let mut refused = None;
        self.socket.answers(|frame| {
            let index = frame.sequence.wrapping_sub(first);
            if index > last {
                return None;
            }
            if let Outcome::Refused(errno) = frame.outcome() {
                refused.get_or_insert((index, errno));
            }
            // A refusal of the whole, which carries the number of the beginning, has nothing behind it.
            (index == last || index == 0).then_some(())
        })?;
        match refused {
            None => Ok(()),
            Some((_, Errno::ERESTART)) => Err(NftError::Superseded),
            Some((index, errno)) => Err(NftError::Refused(Refusal { what: batch.step_name(index), errno })),
        }
    }

    /// The generation of the ruleset: a number that every change of anything makes another.
    ///
    /// # Errors
    /// [`NftError::List`].
    pub fn generation(&mut self) -> Result<u32, NftError> {
        let read = |frame: &Frame<'_>| read_generation(frame.body());
        let found = self.ask("the generation", message::GET_GENERATION, 0, Family::Any, |_| {}, read)?;
        found.into_iter().next().ok_or(NftError::List { what: "the generation", errno: Errno::EPROTO })
    }

    /// Tables of a family, or of all.
    ///
    /// # Errors
    /// [`NftError`].
    pub fn tables(&mut self, family: Family) -> Result<Vec<Table>, NftError> {
        let read = |frame: &Frame<'_>| Table::read(frame.family(), frame.body());
        self.ask("tables", message::GET_TABLE, DUMP, family, |_| {}, read)
    }

    /// Chains of a table, or of all.
    ///
    /// # Errors
    /// [`NftError`].
    pub fn chains(&mut self, family: Family, table: Option<&str>) -> Result<Vec<Chain>, NftError> {
        let read = |frame: &Frame<'_>| Chain::read(frame.family(), frame.body());
        let within = |writer: &mut Writer| {
            if let Some(table) = table {
                writer.text(CHAIN_TABLE, table);
            }
        };
        let mut chains = self.ask("chains", message::GET_CHAIN, DUMP, family, within, read)?;
        // Not every kernel looks at the table asked for.
        chains.retain(|chain| table.is_none_or(|table| chain.table == table));
        Ok(chains)
    }

    /// Rules of a table, or of one of its chains, in their order.
    ///
    /// # Errors
    /// [`NftError`].
    pub fn rules(&mut self, family: Family, table: &str, chain: Option<&str>) -> Result<Vec<Rule>, NftError> {
        let read = |frame: &Frame<'_>| Rule::read(frame.family(), frame.body());
        let within = |writer: &mut Writer| {
            writer.text(RULE_TABLE, table);
            if let Some(chain) = chain {
                writer.text(RULE_CHAIN, chain);
            }
        };
        let mut rules = self.ask("rules", message::GET_RULE, DUMP, family, within, read)?;
        rules.retain(|rule| rule.table == table && chain.is_none_or(|chain| rule.chain == chain));
        Ok(rules)
    }

    /// Sets of a table; `None` for each that has properties not used here.
    ///
    /// # Errors
    /// [`NftError`].
    pub fn sets(&mut self, family: Family, table: &str) -> Result<Vec<Option<Set>>, NftError> {
        let read = |frame: &Frame<'_>| Some(Set::read(frame.family(), frame.body()));
        self.ask(
            "sets",
            message::GET_SET,
            DUMP,
            family,
            |writer| {
                writer.text(SET_TABLE, table);
            },
            read,
        )
    }

    /// Elements of a set; `None` where one of them is of a kind not used here. While the kernel resizes the hash table of a
    /// set, which it does some milliseconds after it grew or shrank, some elements may be missing from the list.
    ///
    /// # Errors
    /// [`NftError`].
    pub fn elements(&mut self, family: Family, table: &str, set: &str) -> Result<Option<Vec<Element>>, NftError> {
        let within = |writer: &mut Writer| {
            writer.text(ELEMENTS_TABLE, table).text(ELEMENTS_SET, set);
        };
        let read = |frame: &Frame<'_>| Some(read_elements(frame.body()));
        let parts = self.ask("elements", message::GET_ELEMENTS, DUMP, family, within, read)?;
        let parts: Option<Vec<_>> = parts.into_iter().collect();
        Ok(parts.map(|parts| parts.into_iter().flatten().collect()))
    }

    fn ask<T>(
        &mut self,
        what: &'static str,
        message: u8,
        flags: u16,
        family: Family,
        within: impl Fn(&mut Writer),
        read: impl Fn(&Frame<'_>) -> Option<T>,
    ) -> Result<Vec<T>, NftError> {
        for _ in 0..LIST_TRIES_MAX {
            let sequence = self.socket.sequences(1);
            let kind = u16::from_be_bytes([SUBSYSTEM_NFTABLES, message]);
            self.socket.send(&frame(kind, REQUEST | flags, sequence, family.to_wire(), 0, &within))?;
            let mut found = Vec::new();
            let mut interrupted = false;
            let outcome = self.socket.answers(|frame| {
                if frame.sequence != sequence {
                    return None;
                }
                match frame.outcome() {
                    Outcome::Refused(errno) => return Some(Err(NftError::List { what, errno })),
                    Outcome::Done => return Some(Ok(())),
                    Outcome::Interrupted => interrupted = true,
                    Outcome::Object | Outcome::Overrun => {}
                }
                // An interrupted list is read to its end all the same, which may carry the mark itself.
                let end = interrupted && is_end(frame);
                if !end && found.len() < LIST_OBJECTS_MAX {
                    found.extend(read(frame));
                }
                // A question about one object has one answer and no end.
                (end || flags == 0).then_some(Ok(()))
            })?;
            outcome?;
            if found.len() >= LIST_OBJECTS_MAX {
                return Err(NftError::Endless(what));
            }
            if !interrupted {
                return Ok(found);
            }
        }
        Err(NftError::Unsteady)
    }
}

/// `NLMSG_DONE` or `NLMSG_ERROR`: netlink's own, not of a subsystem.
fn is_end(frame: &Frame<'_>) -> bool {
    frame.kind < 16
}
