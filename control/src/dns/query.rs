//! One question to one server: over UDP, again where nothing comes, over TCP where the answer does not fit or that is
//! wished. What does not answer the question is passed over, whoever sent it.

use hickory_proto::op::{Edns, Message, MessageType, Query};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

/// How often a datagram is sent, and how long each time is waited. A server on this node answers within a millisecond;
/// one that asks others first within a second or two.
const TRIES: u32 = 3;
const WAIT: Duration = Duration::from_secs(2);

/// For the whole conversation over TCP.
const TCP_TIME: Duration = Duration::from_secs(5);

/// Longest datagram that is asked for: what passes every path in one piece (DNS flag day 2020).
const PAYLOAD: u16 = 1232;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) name: Name,
    pub(crate) kind: RecordType,
}

/// What came back.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) message: Message,
    pub(crate) server: SocketAddr,
    pub(crate) tcp: bool,
    pub(crate) took: Duration,
}

/// Why nothing did.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QueryError {
    /// The question cannot be written.
    #[error("the question cannot be asked: {0}")]
    Question(String),
    /// Nobody answered.
    #[error(
        "no answer from {server} over {protocol} after {secs} s: see whether a name server runs there (ginnel doctor)"
    )]
    Silent { server: SocketAddr, protocol: &'static str, secs: u64 },
    /// The way to it is closed.
    #[error("{server} cannot be asked over {protocol}: {source}")]
    System { server: SocketAddr, protocol: &'static str, source: io::Error },
    /// What came is no answer.
    #[error("{server} answered with something that is no DNS message: {reason}")]
    Garbled { server: SocketAddr, reason: String },
}

/// Asks `server`.
///
/// # Errors
/// [`QueryError`]; that there is no such name is an answer.
pub(crate) fn ask(server: SocketAddr, question: &Question, tcp: bool) -> Result<Answer, QueryError> {
    let query = message(question);
    let bytes = query.to_vec().map_err(|error| QueryError::Question(error.to_string()))?;
    let start = Instant::now();
    if !tcp {
        let message = over_udp(server, &query, &bytes)?;
        if !message.metadata.truncation {
            return Ok(Answer { message, server, tcp: false, took: start.elapsed() });
        }
    }
    let message = over_tcp(server, &query, &bytes)?;
    Ok(Answer { message, server, tcp: true, took: start.elapsed() })
}

/// The addresses of `name`, of IPv4, and how long the answer took. None where there is no such name.
///
/// # Errors
/// [`QueryError`].
pub(crate) fn addresses(server: SocketAddr, name: &str) -> Result<(Vec<IpAddr>, Duration), QueryError> {
    let mut found = Name::from_utf8(name).map_err(|error| QueryError::Question(error.to_string()))?;
    found.set_fqdn(true);
    let answer = ask(server, &Question { name: found, kind: RecordType::A }, false)?;
    let address = |record: &Record| match &record.data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        _ => None,
    };
    Ok((answer.message.answers.iter().filter_map(address).collect(), answer.took))
}

fn message(question: &Question) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(question.name.clone(), question.kind));
    let mut edns = Edns::new();
    edns.set_max_payload(PAYLOAD);
    message.set_edns(edns);
    message
}

/// Whether `message` is the answer to `query`. Servers may leave the question out of a refusal.
fn answers(message: &Message, query: &Message) -> bool {
    let same = message.queries.is_empty() || message.queries == query.queries;
    message.metadata.message_type == MessageType::Response && message.metadata.id == query.metadata.id && same
}

fn over_udp(server: SocketAddr, query: &Message, bytes: &[u8]) -> Result<Message, QueryError> {
    let failed = |source| QueryError::System { server, protocol: "UDP", source };
    let any: SocketAddr = match server.is_ipv4() {
        true => (Ipv4Addr::UNSPECIFIED, 0).into(),
        false => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).map_err(failed)?;
    // Only what comes from there is received then, and a closed port is told.
    socket.connect(server).map_err(failed)?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    for _ in 0..TRIES {
        socket.send(bytes).map_err(failed)?;
        let deadline = Instant::now() + WAIT;
        while let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            socket.set_read_timeout(Some(left)).map_err(failed)?;
            match socket.recv(&mut buffer) {
                // Anybody on the way may send what does not answer; the answer may still come.
                Ok(length) => match Message::from_vec(&buffer[..length]) {
                    Ok(message) if answers(&message, query) => return Ok(message),
                    _ => {}
                },
                Err(error) if is_late(&error) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }
    Err(QueryError::Silent { server, protocol: "UDP", secs: u64::from(TRIES) * WAIT.as_secs() })
}

fn over_tcp(server: SocketAddr, query: &Message, bytes: &[u8]) -> Result<Message, QueryError> {
    let failed = |source: io::Error| match is_late(&source) {
        true => QueryError::Silent { server, protocol: "TCP", secs: TCP_TIME.as_secs() },
        false => QueryError::System { server, protocol: "TCP", source },
    };
    let mut stream = TcpStream::connect_timeout(&server, TCP_TIME).map_err(failed)?;
    stream.set_read_timeout(Some(TCP_TIME)).and_then(|()| stream.set_write_timeout(Some(TCP_TIME))).map_err(failed)?;
    // A name has 255 bytes at most, so a question fits its length.
    let length = u16::try_from(bytes.len()).map_err(|_| QueryError::Question("it is too long".to_owned()))?;
    stream.write_all(&[&length.to_be_bytes(), bytes].concat()).map_err(failed)?;
    let mut length = [0; 2];
    stream.read_exact(&mut length).map_err(failed)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).map_err(failed)?;
    match Message::from_vec(&answer) {
        Ok(message) if answers(&message, query) => Ok(message),
        Ok(_) => Err(QueryError::Garbled { server, reason: "it answers another question".to_owned() }),
        Err(error) => Err(QueryError::Garbled { server, reason: error.to_string() }),
    }
}

fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use hickory_proto::op::ResponseCode;
    use hickory_proto::rr::rdata::A;
    use std::net::TcpListener;
    use std::thread;

    pub(crate) fn question() -> Question {
        Question { name: Name::from_ascii("web.overlay.").unwrap(), kind: RecordType::A }
    }

    /// The answer to a question that came as bytes.
    fn answer(query: &[u8], records: u8) -> Message {
        let query = Message::from_vec(query).unwrap();
        assert_eq!(query.edns.as_ref().map(Edns::max_payload), Some(PAYLOAD));
        let mut message = query.into_response();
        for number in 0..records {
            let data = RData::A(A(Ipv4Addr::new(10, 0, 0, number)));
            message.add_answer(Record::from_rdata(question().name, 5, data));
        }
        message
    }

    /// A server whose answer over UDP is `records` long, or truncated where that is none; over TCP it has 100.
    fn server(records: Option<u8>) -> SocketAddr {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = udp.local_addr().unwrap();
        let tcp = TcpListener::bind(address).unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((length, from)) = udp.recv_from(&mut buffer) {
                let mut message = answer(&buffer[..length], records.unwrap_or(0));
                message.metadata.truncation = records.is_none();
                let good = message.to_vec().unwrap();
                // Noise, an answer to somebody else, one to another question, the question itself, and the answer.
                message.metadata.id = message.metadata.id.wrapping_add(1);
                let mut other = Message::from_vec(&good).unwrap();
                other.queries = vec![Query::query(Name::from_ascii("other.").unwrap(), RecordType::A)];
                let echoed = buffer[..length].to_vec();
                for datagram in [b"noise".to_vec(), message.to_vec().unwrap(), other.to_vec().unwrap(), echoed, good] {
                    udp.send_to(&datagram, from).unwrap();
                }
            }
        });
        thread::spawn(move || {
            for stream in tcp.incoming() {
                let mut stream = stream.unwrap();
                let mut length = [0; 2];
                stream.read_exact(&mut length).unwrap();
                let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
                stream.read_exact(&mut query).unwrap();
                let bytes = answer(&query, 100).to_vec().unwrap();
                stream.write_all(&(bytes.len() as u16).to_be_bytes()).unwrap();
                stream.write_all(&bytes).unwrap();
            }
        });
        address
    }

    #[test]
    fn the_answer_is_told_from_what_is_none() {
        let found = ask(server(Some(2)), &question(), false).unwrap();
        assert_eq!((found.message.answers.len(), found.tcp), (2, false));
        assert_eq!(found.message.metadata.response_code, ResponseCode::NoError);
    }

    #[test]
    fn what_does_not_fit_comes_over_tcp() {
        let found = ask(server(None), &question(), false).unwrap();
        assert_eq!((found.message.answers.len(), found.tcp), (100, true));
        assert!(ask(server(Some(1)), &question(), true).unwrap().tcp);
    }

    #[test]
    fn a_closed_port_and_garbage_are_told() {
        let free = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(matches!(ask(free, &question(), false), Err(QueryError::System { protocol: "UDP", .. })));
        assert!(matches!(ask(free, &question(), true), Err(QueryError::System { protocol: "TCP", .. })));
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = tcp.accept().unwrap();
            stream.write_all(b"\0\x05noise").unwrap();
        });
        assert!(matches!(ask(address, &question(), true), Err(QueryError::Garbled { .. })));
    }
}
