//! Traffic between two ends, generated and checked in-process: bulk TCP, round trips, and small UDP packets at a rate.
//!
//! Every socket is opened in the namespace of its end and used from threads of the caller's. Nothing here knows of
//! tunnels: an end is a namespace and an address in it.

mod echo;
mod pattern;
mod rate;
mod tcp;

pub use echo::{EchoPlan, EchoReport, echo, wait_reachable};
pub use pattern::Pattern;
pub use rate::{RatePlan, RateReport, SearchPlan, SearchReport, highest_rate, rate};
pub use tcp::{Amount, TcpPlan, TcpReport, tcp};

use crate::host::{HostError, Netns};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

/// How long a transfer may stand still before it counts as failed. Longer than a WireGuard handshake retry (5 s, paper
/// section 6.1), so that a lost handshake message does not fail a run.
const STALL: Duration = Duration::from_secs(30);

/// One end of traffic.
#[derive(Clone, Debug)]
pub struct End {
    /// Where its sockets are opened.
    pub netns: Netns,
    /// Its address there.
    pub ip: IpAddr,
}

/// Why traffic failed.
#[derive(Debug, thiserror::Error)]
pub enum TrafficError {
    /// The namespace of an end could not be used.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A socket failed.
    #[error("{what}: {source}")]
    Socket {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Nothing moved for too long.
    #[error("{what}: nothing moved for {} s; is the way between the ends still there?", STALL.as_secs())]
    Stalled {
        /// What was tried.
        what: &'static str,
    },
    /// A byte arrived that was not sent.
    #[error("stream {stream} delivered a wrong byte after {offset} good ones")]
    Corrupt {
        /// Which of the parallel streams.
        stream: usize,
        /// Bytes received in order before it.
        offset: u64,
    },
    /// A stream ended early.
    #[error("stream {stream} delivered {received} of {sent} bytes")]
    Short {
        /// Which of the parallel streams.
        stream: usize,
        /// Bytes sent.
        sent: u64,
        /// Bytes received.
        received: u64,
    },
    /// A datagram arrived whose content was not sent.
    #[error("a datagram arrived that was not sent like this")]
    CorruptDatagram,
    /// The far end never answered.
    #[error("{to} did not answer within {} ms", waited.as_millis())]
    Unreachable {
        /// Who was asked.
        to: IpAddr,
        /// For how long.
        waited: Duration,
    },
}

impl TrafficError {
    /// Sorts a socket error: an expired socket timeout is a stall.
    fn socket(what: &'static str, source: io::Error) -> Self {
        if is_timeout(&source) { Self::Stalled { what } } else { Self::Socket { what, source } }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
