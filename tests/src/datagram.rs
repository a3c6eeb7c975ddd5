//! Single datagrams whose size, content and congestion marks matter.

use crate::wait::PATIENCE;
use ginnel_control::lab::traffic::End;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt};
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

/// A datagram as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Payload.
    pub payload: Vec<u8>,
    /// Who sent it.
    pub from: SocketAddr,
    /// The two congestion bits of its IP header.
    pub ecn: u8,
}

/// Two UDP sockets, one at either end.
pub struct Wire {
    near: UdpSocket,
    far: UdpSocket,
}

impl Wire {
    /// Opens the sockets.
    ///
    /// # Panics
    /// Where that fails.
    #[must_use]
    pub fn between(near: &End, far: &End) -> Self {
        let [near, far] = [near, far].map(open);
        near.connect(far.local_addr().expect("it is bound")).expect("UDP always connects");
        far.connect(near.local_addr().expect("it is bound")).expect("UDP always connects");
        Self { near, far }
    }

    /// Sends a datagram from the near end with this congestion mark, and waits for the next one at the far end.
    ///
    /// # Panics
    /// Where none comes, or another.
    #[track_caller]
    pub fn send_marked(&self, payload: &[u8], ecn: u8) -> Arrival {
        set_ecn(&self.near, ecn);
        self.near.send(payload).expect("the datagram leaves");
        let arrival = receive(&self.far).expect("the datagram arrives");
        assert!(arrival.payload == payload, "{} bytes went, {} came", payload.len(), arrival.payload.len());
        arrival
    }

    /// Sends a datagram from the near end and does not wait for it.
    ///
    /// # Panics
    /// Where it does not even leave.
    #[track_caller]
    pub fn send_away(&self, payload: &[u8], ecn: u8) {
        set_ecn(&self.near, ecn);
        self.near.send(payload).expect("the datagram leaves");
    }

    /// Has a datagram of so many bytes go to the far end and come back.
    ///
    /// # Panics
    /// Where a byte is missing or wrong.
    #[track_caller]
    pub fn there_and_back(&self, bytes: usize) {
        let payload: Vec<u8> = (0..bytes).map(|place| (place * 31 + bytes) as u8).collect();
        for (from, to) in [(&self.near, &self.far), (&self.far, &self.near)] {
            from.send(&payload).expect("the datagram leaves");
            let arrival = receive(to).unwrap_or_else(|error| panic!("a datagram of {bytes} bytes is lost: {error}"));
            assert!(arrival.payload == payload, "{bytes} bytes went, others came");
        }
    }
}

/// A socket at an end, on a port of the kernel's choice, that tells congestion marks and waits with patience.
///
/// # Panics
/// Where it cannot be opened.
#[must_use]
pub fn open(end: &End) -> UdpSocket {
    open_at(end, 0)
}

/// As [`open`], on this port.
///
/// # Panics
/// Where it cannot be opened.
#[must_use]
pub fn open_at(end: &End, port: u16) -> UdpSocket {
    let bind = || UdpSocket::bind(SocketAddr::new(end.ip, port));
    let socket = end.netns.run_in(bind).expect("the namespace can be entered").expect("the address is there");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    let tells = match end.ip {
        IpAddr::V4(_) => setsockopt(&socket, sockopt::IpRecvTos, &true),
        IpAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvTClass, &true),
    };
    tells.expect("marks can be told");
    socket
}

/// Marks what a socket sends from now on.
///
/// # Panics
/// Where the kernel refuses.
pub fn set_ecn(socket: &UdpSocket, ecn: u8) {
    let v4 = socket.local_addr().is_ok_and(|address| address.is_ipv4());
    let value = i32::from(ecn);
    let outcome =
        if v4 { setsockopt(socket, sockopt::Ipv4Tos, &value) } else { setsockopt(socket, sockopt::Ipv6TClass, &value) };
    outcome.expect("marks can be set");
}

/// Receives a datagram.
///
/// # Errors
/// Those of the socket, an expired timeout among them.
pub fn receive(socket: &UdpSocket) -> io::Result<Arrival> {
    let mut payload = vec![0; 65_536];
    let mut control = nix::cmsg_space!(i32);
    let (len, from, ecn) = loop {
        let mut pieces = [IoSliceMut::new(&mut payload)];
        let flags = MsgFlags::empty();
        match recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut pieces, Some(&mut control), flags) {
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(message) => {
                let mark = message.cmsgs()?.find_map(|part| match part {
                    ControlMessageOwned::Ipv4Tos(tos) => Some(tos & 3),
                    ControlMessageOwned::Ipv6TClass(class) => Some(class as u8 & 3),
                    _ => None,
                });
                break (message.bytes, message.address, mark.unwrap_or(0));
            }
        }
    };
    payload.truncate(len);
    let address = from.ok_or_else(|| io::Error::other("no sender"))?;
    let v4 = address.as_sockaddr_in().map(|address| SocketAddr::V4((*address).into()));
    let v6 = address.as_sockaddr_in6().map(|address| SocketAddr::V6((*address).into()));
    Ok(Arrival { payload, from: v4.or(v6).ok_or_else(|| io::Error::other("no address"))?, ecn })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ginnel_control::host::Netns;
    use ginnel_control::lab::rights_or_skip;

    #[test]
    fn content_and_marks_travel() {
        if !rights_or_skip() {
            return;
        }
        let netns = Netns::create().unwrap();
        netns.bring_lo_up().unwrap();
        for ip in ["127.0.0.1", "::1"] {
            let end = End { netns: netns.clone(), ip: ip.parse().unwrap() };
            let wire = Wire::between(&end, &end);
            wire.there_and_back(0);
            wire.there_and_back(9_000);
            for ecn in 0..4 {
                assert_eq!(wire.send_marked(b"marked", ecn).ecn, ecn, "{ip}");
            }
        }
    }
}
