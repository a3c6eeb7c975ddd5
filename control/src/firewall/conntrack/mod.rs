//! Ending connections: entries of conntrack that would carry packets past a change of the rules, or to a container that is
//! gone.
//!
//! ```text
//! container gone     ─► what comes from or goes to its address
//! network changed    ─► the same
//! port unpublished   ─► what was translated to its target
//! port published     ─► UDP that the host answered itself until now
//! ```
//!
//! [`Endings`] keeps what is to end until somebody has the time. The kernel lists with a filter (Linux 5.8; before, everything), what is listed is looked at again, and each entry is
//! deleted by its own tuple and number. An entry that went by itself meanwhile is no error.

mod endings;
mod tuple;

pub(super) use endings::Endings;

use super::desired::{Listen, Protocol};
use super::error::FirewallError;
use super::limits::CONNECTIONS_MAX;
use super::netfilter::{ACK, DUMP, Group, Outcome, REQUEST, SUBSYSTEM_CONNTRACK, Socket, SocketError, Writer, frame};
use super::nft::NftError;
use nix::errno::Errno;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use tuple::{Connection, Filter};

/// Of `IPCTNL_MSG_CT_…`.
const GET: u8 = 1;
const DELETE: u8 = 2;

/// `IPS_SRC_NAT` and `IPS_DST_NAT`.
const SOURCE_TRANSLATED: u32 = 16;
const DESTINATION_TRANSLATED: u32 = 32;

/// `AF_INET` and `AF_INET6`, as netlink has them.
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Up to so many questions the kernel filters; for more, everything is listed once. A filtered list costs a walk through the
/// table for each question, some milliseconds, an unfiltered one a single walk and a copy of what is in it.
const FILTERED_MAX: usize = 16;

/// So many connections are copied in less time than a walk takes.
const FEW: u64 = 10_000;

/// How many connections this network namespace has.
const COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";

/// Deletions sent in one piece; an answer each.
const DELETIONS_PER_SEND: usize = 64;

/// Connections that are to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stale {
    /// From or to an address.
    Address(IpAddr),
    /// To a port that was published for this target.
    Unpublished(Listen, SocketAddr),
    /// To a port that is published from now on.
    Published(Listen),
}

impl Stale {
    fn is_v4(&self) -> bool {
        match self {
            Self::Address(address) => address.is_ipv4(),
            Self::Unpublished(listen, _) | Self::Published(listen) => listen.socket.is_ipv4(),
        }
    }

    fn family(&self) -> u8 {
        if self.is_v4() { AF_INET } else { AF_INET6 }
    }

    fn filters(&self) -> Vec<Filter> {
        match self {
            Self::Address(address) => vec![Filter::Source(*address), Filter::ReplySource(*address)],
            Self::Unpublished(listen, _) | Self::Published(listen) => {
                vec![Filter::Port(listen.protocol, listen.socket.port())]
            }
        }
    }

    fn holds(&self, connection: &Connection) -> bool {
        let to = |listen: &Listen| {
            let at = listen.socket.ip();
            connection.protocol == listen.protocol.number()
                && connection.destination.port() == listen.socket.port()
                && (at.is_unspecified() || at == connection.destination.ip())
        };
        match self {
            Self::Address(address) => {
                let ends = [connection.source, connection.destination, connection.reply_source];
                ends.iter().any(|end| end.ip() == *address) || connection.reply_destination == *address
            }
            Self::Unpublished(listen, target) => {
                to(listen) && connection.status & DESTINATION_TRANSLATED != 0 && connection.reply_source == *target
            }
            // TCP connections of the host go on. A flow of others that merely passes is seen again at once.
            Self::Published(listen) => {
                listen.protocol == Protocol::Udp
                    && to(listen)
                    && connection.status & (DESTINATION_TRANSLATED | SOURCE_TRANSLATED) == 0
            }
        }
    }
}

/// A connection to conntrack of the network namespace it was opened in.
#[derive(Debug)]
pub struct Conntrack {
    socket: Socket,
}

impl Conntrack {
    /// Opens a connection in the network namespace of this thread.
    ///
    /// # Errors
    /// [`FirewallError::Nft`] with the reason.
    pub fn open() -> Result<Self, FirewallError> {
        let socket = Socket::open(Group::None).map_err(NftError::Socket)?;
        Ok(Self { socket })
    }

    /// Whether the kernel once did not answer, after which another connection is needed.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.socket.is_silent()
    }

    /// Ends the connections, and tells how many there were.
    ///
    /// # Errors
    /// [`FirewallError`] where conntrack cannot be asked. Some may have ended by then.
    pub fn end(&mut self, stale: &BTreeSet<Stale>) -> Result<usize, FirewallError> {
        let mut found = Vec::new();
        if stale.len() <= FILTERED_MAX && !are_few() {
            for one in stale {
                for filter in one.filters() {
                    self.list(one.family(), Some(&filter), |connection| one.holds(connection), &mut found)?;
                }
            }
        } else {
            let addresses: BTreeSet<_> = stale
                .iter()
                .filter_map(|one| match one {
                    Stale::Address(address) => Some(*address),
                    _ => None,
                })
                .collect();
            let others: Vec<_> = stale.iter().filter(|one| !matches!(one, Stale::Address(_))).collect();
            let families: BTreeSet<_> = stale.iter().map(Stale::family).collect();
            for family in families {
                let holds = |connection: &Connection| {
                    let ends = [connection.source, connection.destination, connection.reply_source];
                    ends.iter().any(|end| addresses.contains(&end.ip()))
                        || addresses.contains(&connection.reply_destination)
                        || others.iter().any(|one| one.holds(connection))
                };
                self.list(family, None, holds, &mut found)?;
            }
        }
        let mut ended = 0;
        for some in found.chunks(DELETIONS_PER_SEND) {
            ended += self.delete(some)?;
        }
        Ok(ended)
    }

    fn list(
        &mut self,
        family: u8,
        filter: Option<&Filter>,
        holds: impl Fn(&Connection) -> bool,
        found: &mut Vec<Connection>,
    ) -> Result<(), FirewallError> {
        let sequence = self.socket.sequences(1);
        let within = |writer: &mut Writer| {
            if let Some(filter) = filter {
                filter.write(writer);
            }
        };
        self.send(&frame(kind(GET), REQUEST | DUMP, sequence, family, 0, within))?;
        let outcome = self.socket.answers(|frame| {
            if frame.sequence != sequence {
                return None;
            }
            match frame.outcome() {
                Outcome::Refused(errno) => return Some(Err(errno)),
                Outcome::Done => return Some(Ok(())),
                Outcome::Object | Outcome::Interrupted | Outcome::Overrun => {}
            }
            if found.len() < CONNECTIONS_MAX {
                let connection = Connection::read(frame.family(), frame.body());
                found.extend(connection.filter(&holds));
            }
            None
        });
        match outcome.map_err(NftError::Socket)? {
            Ok(()) => Ok(()),
            Err(errno) => Err(NftError::List { what: "connections", errno }.into()),
        }
    }

    fn delete(&mut self, connections: &[Connection]) -> Result<usize, FirewallError> {
        // A chunk is far shorter than 2^32.
        let count = u32::try_from(connections.len()).unwrap_or(u32::MAX);
        let first = self.socket.sequences(count);
        let mut frames = Vec::new();
        for (number, connection) in (0..).zip(connections) {
            let write = |writer: &mut Writer| connection.write_name(writer);
            let sequence = first.wrapping_add(number);
            frames.extend(frame(kind(DELETE), REQUEST | ACK, sequence, connection.family, 0, write));
        }
        self.send(&frames)?;
        let (mut answered, mut ended) = (0, 0);
        let outcome = self.socket.answers(|frame| {
            if frame.sequence.wrapping_sub(first) >= count {
                return None;
            }
            answered += 1;
            match frame.outcome() {
                Outcome::Done => ended += 1,
                Outcome::Refused(Errno::ENOENT) => {}
                Outcome::Refused(errno) => return Some(Err(errno)),
                _ => {}
            }
            (answered == count).then_some(Ok(()))
        });
        match outcome.map_err(NftError::Socket)? {
            Ok(()) => Ok(ended),
            Err(errno) => Err(NftError::List { what: "connections to end", errno }.into()),
        }
    }

    fn send(&self, frames: &[u8]) -> Result<(), FirewallError> {
        self.socket.send(frames).map_err(|error: SocketError| NftError::Socket(error).into())
    }
}

fn kind(message: u8) -> u16 {
    u16::from_be_bytes([SUBSYSTEM_CONNTRACK, message])
}
/// Whether a list of all connections is short.
fn are_few() -> bool {
    let count = std::fs::read_to_string(COUNT).ok().and_then(|text| text.trim().parse::<u64>().ok());
    count.is_some_and(|count| count <= FEW)
}
