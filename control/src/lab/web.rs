//! A web server that says who it is and whom it sees, and a client for it: what runs in the demo's containers. HTTP/1.1
//! (RFC 9112) as far as a GET of `/` goes, one connection after the other.

use std::convert::Infallible;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

/// Where it listens.
pub const PORT: u16 = 80;

/// What a head or a page may have, in bytes.
const BYTES_MAX: u64 = 8 << 10;

/// What a connection gets for its request.
const PATIENCE: Duration = Duration::from_secs(5);

/// Serves until the process ends.
///
/// # Errors
/// Where [`PORT`] cannot be listened on.
pub fn serve(name: &str) -> io::Result<Infallible> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT))?;
    loop {
        // A client that leaves early or asks for nothing has only itself to blame.
        let _ = listener.accept().and_then(|(stream, from)| answer(stream, from.ip(), name));
    }
}

fn answer(mut stream: TcpStream, from: IpAddr, name: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut head = BufReader::new(Read::take(&stream, BYTES_MAX)).lines();
    let request = head.next().unwrap_or_else(|| Err(io::ErrorKind::UnexpectedEof.into()))?;
    for line in head {
        if line?.is_empty() {
            break;
        }
    }
    let (status, page) = match request.split(' ').collect::<Vec<_>>()[..] {
        ["GET", "/", _] => ("200 OK", format!("{name} here, and you are {}\n", from.to_canonical())),
        _ => ("404 Not Found", String::new()),
    };
    let length = page.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{page}"
    )
}

/// Gets the page of the server at `ip`, which is called `host`.
///
/// # Errors
/// Where nobody answers `within` the time, and [`io::ErrorKind::InvalidData`] for any other status than 200.
pub fn fetch(ip: IpAddr, host: &str, within: Duration) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(ip, PORT), within)?;
    stream.set_read_timeout(Some(within))?;
    write!(stream, "GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(BYTES_MAX).read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, page)) if head.starts_with("HTTP/1.1 200 ") => Ok(page.trim_end().to_owned()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, format!("{host} answered {answer:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use std::thread;

    /// What the server answers to `request`.
    fn asked(request: &str) -> String {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                let (stream, from) = listener.accept().unwrap();
                let _ = answer(stream, from.ip(), "web-1");
            });
            client.write_all(request.as_bytes()).unwrap();
            client.shutdown(std::net::Shutdown::Write).unwrap();
            let mut text = String::new();
            client.read_to_string(&mut text).unwrap();
            text
        })
    }

    #[test]
    fn the_page_names_both_ends() {
        let text = asked("GET / HTTP/1.1\r\nhost: web-1\r\n\r\n");
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        assert!(
            text.ends_with("content-length: 34\r\nconnection: close\r\n\r\nweb-1 here, and you are 127.0.0.1\n"),
            "{text}"
        );
    }

    #[test]
    fn other_requests_get_no_page() {
        assert!(asked("GET /x HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
        assert!(asked("\r\n\r\n").starts_with("HTTP/1.1 404 "));
        assert_eq!(asked(""), "");
    }
}
