//! What keeps names from being answered, in words for whoever can change it.

use super::holder::Holder;
use std::fmt;
use std::net::SocketAddr;

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// Somebody else answers at an address.
    Taken {
        /// Where.
        at: SocketAddr,
        /// Who, where that may be known.
        holder: Option<Holder>,
    },
    /// The host has no such address yet, or no longer.
    Absent {
        /// Which.
        at: SocketAddr,
    },
    /// The kernel refuses an address.
    Unavailable {
        /// Which.
        at: SocketAddr,
        /// What it says.
        reason: String,
    },
    /// There is nobody to ask for names that are not ours.
    NoUpstream,
    /// Those who are asked do not answer.
    UpstreamsSilent {
        /// Who they are.
        servers: Vec<SocketAddr>,
    },
    /// Queries come back to us.
    Loop,
}

impl Problem {
    /// The address it is about.
    #[must_use]
    pub fn at(&self) -> Option<SocketAddr> {
        match self {
            Self::Taken { at, .. } | Self::Absent { at } | Self::Unavailable { at, .. } => Some(*at),
            Self::NoUpstream | Self::UpstreamsSilent { .. } | Self::Loop => None,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Taken { .. } => {
                "end the other server or let it listen at addresses of its own; it is tried again every second"
            }
            Self::Absent { .. } => "it is tried again every second; if it is one of dns.listen, give it to the host",
            Self::Unavailable { .. } => "ports below 1024 need CAP_NET_BIND_SERVICE; it is tried again every second",
            Self::NoUpstream => "name a server in dns.upstreams or /etc/resolv.conf",
            Self::UpstreamsSilent { .. } => "see that they can be reached, or name others in dns.upstreams",
            Self::Loop => "a server of dns.upstreams or /etc/resolv.conf asks us in turn; name another",
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken { at, holder: Some(holder) } => {
                write!(f, "names are not answered at {at}: {holder} is in the way")
            }
            Self::Taken { at, holder: None } => write!(f, "names are not answered at {at}: the port is taken"),
            Self::Absent { at } => write!(f, "names are not answered at {at}: the host has no such address"),
            Self::Unavailable { at, reason } => write!(f, "names are not answered at {at}: {reason}"),
            Self::NoUpstream => f.write_str("only names of the overlay are answered: there is no server for others"),
            Self::UpstreamsSilent { servers } => {
                let servers: Vec<_> = servers.iter().map(ToString::to_string).collect();
                write!(f, "names outside the overlay are not answered: {} gave no answer", servers.join(", "))
            }
            Self::Loop => f.write_str("names outside the overlay are not answered: our own queries come back to us"),
        }
    }
}
