//! Asking whether packets arrive, with real sockets, without waiting for what does not.
//!
//! A packet that must not arrive is awaited at its end: the counter of the rule that drops it.

use crate::town::{PATIENCE, Place, Town, until};
use ginnel_control::firewall::DropReason;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

/// Between two tries of what will succeed: neighbours have to be found first.
const AGAIN: Duration = Duration::from_millis(100);

/// A UDP socket in a place, bound to one of its addresses.
#[track_caller]
pub fn udp(place: &Place, ip: IpAddr, port: u16) -> UdpSocket {
    let socket = place.netns.run_in(|| UdpSocket::bind((ip, port))).unwrap();
    let socket = socket.unwrap_or_else(|error| panic!("{} {ip}: {error}", place.name));
    socket.set_read_timeout(Some(AGAIN)).unwrap();
    socket
}

/// Sends datagrams from `client` to `to` until `server` has one and its answer is back. Returns the source that the server
/// saw.
#[track_caller]
pub fn exchange(client: &UdpSocket, to: SocketAddr, server: &UdpSocket) -> SocketAddr {
    let start = Instant::now();
    let mut buffer = [0; 64];
    drain(server);
    drain(client);
    while start.elapsed() < PATIENCE {
        // A refusal of an earlier try may be waiting.
        let _ = client.send_to(b"ask", to);
        let Ok((_, source)) = server.recv_from(&mut buffer) else { continue };
        server.send_to(b"answer", source).unwrap();
        if let Ok((6, from)) = client.recv_from(&mut buffer) {
            assert_eq!(from, to, "the answer comes from where the question went");
            return source;
        }
    }
    panic!("{:?} does not reach {to}", client.local_addr());
}

/// Sends datagrams until a rule drops one for `reason`, and checks that none arrives at `server`.
#[track_caller]
pub fn refused(town: &Town, client: &UdpSocket, to: SocketAddr, server: &UdpSocket, reason: DropReason) {
    drain(server);
    let before = town.drops(reason);
    until(&format!("{reason:?} of {:?} to {to}", client.local_addr()), || {
        let _ = client.send_to(b"ask", to);
        town.drops(reason) > before
    });
    server.set_nonblocking(true).unwrap();
    let arrived = server.recv_from(&mut [0; 64]);
    server.set_nonblocking(false).unwrap();
    let is_nothing = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
    assert!(arrived.as_ref().is_err_and(is_nothing), "{:?} reaches {to}: {arrived:?}", client.local_addr());
}

fn drain(socket: &UdpSocket) {
    socket.set_nonblocking(true).unwrap();
    while socket.recv_from(&mut [0; 64]).is_ok() {}
    socket.set_nonblocking(false).unwrap();
}

/// A TCP listener in a place.
#[track_caller]
pub fn tcp(place: &Place, ip: IpAddr, port: u16) -> TcpListener {
    place.netns.run_in(|| TcpListener::bind((ip, port))).unwrap().unwrap()
}

/// Connects from a place, trying again while neighbours are being found, and returns both ends.
#[track_caller]
pub fn connect(from: &Place, to: SocketAddr, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let start = Instant::now();
    loop {
        let stream = from.netns.run_in(|| TcpStream::connect_timeout(&to, Duration::from_secs(5))).unwrap();
        match stream {
            Ok(stream) => return (stream, listener.accept().unwrap().0),
            Err(error) => assert!(start.elapsed() < PATIENCE, "{} to {to}: {error}", from.name),
        }
        thread::sleep(AGAIN);
    }
}
