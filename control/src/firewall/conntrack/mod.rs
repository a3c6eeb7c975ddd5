//! Ending connections: entries of conntrack that would carry packets past a change of the rules, or to a container that is
//! gone. And forgiving them what conntrack did not see.
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
//!
//! Without rules that ask for it the kernel follows no connection. When the rules are back it goes on with what it knew
//! before: acknowledgements of what passed meanwhile are invalid to it, and a stream whose last ones were lost would repeat
//! itself for ever. So TCP connections that were there before the rules are not judged by their windows any more.

mod endings;
mod tuple;

pub(super) use endings::Endings;

use super::desired::{Listen, Protocol};
use super::error::FirewallError;
use super::limits::CONNECTIONS_MAX;
use super::netfilter::{ACK, DUMP, Group, Outcome, REQUEST, SUBSYSTEM_CONNTRACK, Socket, SocketError, Writer, frame};
use super::nft::NftError;
use ipnet::IpNet;
use nix::errno::Errno;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use tuple::{Connection, Filter};

/// Of `IPCTNL_MSG_CT_…`: the first changes what is there unless it is asked to create.
const NEW: u8 = 0;
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

/// Deletions or changes sent in one piece; an answer each.
const ORDERS_PER_SEND: usize = 64;

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
    fn family(&self) -> u8 {
        match self {
            Self::Address(address) => family(*address),
            Self::Unpublished(listen, _) | Self::Published(listen) => family(listen.socket.ip()),
        }
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
        self.order(DELETE, &found, Connection::write_name)
    }

    /// Has TCP connections with an end in `prefixes` not judged by their windows any more, and tells how many there were.
    ///
    /// # Errors
    /// [`FirewallError`] where conntrack cannot be asked.
    pub fn forgive(&mut self, prefixes: &BTreeSet<IpNet>) -> Result<usize, FirewallError> {
        let inside = |ip: IpAddr| prefixes.iter().any(|prefix| prefix.contains(&ip));
        let holds = |connection: &Connection| {
            let ends = [connection.source, connection.destination, connection.reply_source];
            connection.protocol == Protocol::Tcp.number()
                && (ends.iter().any(|end| inside(end.ip())) || inside(connection.reply_destination))
        };
        let families: BTreeSet<_> = prefixes.iter().map(|prefix| family(prefix.addr())).collect();
        let mut found = Vec::new();
        for family in families {
            self.list(family, None, holds, &mut found)?;
        }
        self.order(NEW, &found, Connection::write_forgiven)
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

    /// Orders `message` for each, with what `write` says of it. Returns for how many it was done.
    fn order(
        &mut self,
        message: u8,
        connections: &[Connection],
        write: fn(&Connection, &mut Writer),
    ) -> Result<usize, FirewallError> {
        let mut done = 0;
        for some in connections.chunks(ORDERS_PER_SEND) {
            done += self.order_some(message, some, write)?;
        }
        Ok(done)
    }

    fn order_some(
        &mut self,
        message: u8,
        connections: &[Connection],
        write: fn(&Connection, &mut Writer),
    ) -> Result<usize, FirewallError> {
        // A chunk is far shorter than 2^32.
        let count = u32::try_from(connections.len()).unwrap_or(u32::MAX);
        let first = self.socket.sequences(count);
        let mut frames = Vec::new();
        for (number, connection) in (0..).zip(connections) {
            let write = |writer: &mut Writer| write(connection, writer);
            let sequence = first.wrapping_add(number);
            frames.extend(frame(kind(message), REQUEST | ACK, sequence, connection.family, 0, write));
        }
        self.send(&frames)?;
        let (mut answered, mut done) = (0, 0);
        let outcome = self.socket.answers(|frame| {
            if frame.sequence.wrapping_sub(first) >= count {
                return None;
            }
            answered += 1;
            match frame.outcome() {
                Outcome::Done => done += 1,
                Outcome::Refused(Errno::ENOENT) => {}
                Outcome::Refused(errno) => return Some(Err(errno)),
                _ => {}
            }
            (answered == count).then_some(Ok(()))
        });
        match outcome.map_err(NftError::Socket)? {
            Ok(()) => Ok(done),
            Err(errno) => Err(NftError::List { what: "connections to end or forgive", errno }.into()),
        }
    }

    fn send(&self, frames: &[u8]) -> Result<(), FirewallError> {
        self.socket.send(frames).map_err(|error: SocketError| NftError::Socket(error).into())
    }
}

fn kind(message: u8) -> u16 {
    u16::from_be_bytes([SUBSYSTEM_CONNTRACK, message])
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

/// Whether a list of all connections is short.
fn are_few() -> bool {
    let count = std::fs::read_to_string(COUNT).ok().and_then(|text| text.trim().parse::<u64>().ok());
    count.is_some_and(|count| count <= FEW)
}
