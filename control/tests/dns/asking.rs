//! A server to ask, and the asking.

use ginnel_control::dns::{DnsConfig, DnsServer};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

/// How long an answer may take before a test fails. Longer than all tries of upstreams together.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server that answers at an address of the loopback.
pub struct Asked {
    pub server: DnsServer,
    pub at: SocketAddr,
}

impl Asked {
    pub fn new(config: &DnsConfig) -> Self {
        let server = DnsServer::start(config).unwrap();
        server.listen_at(&["127.0.0.1:0".parse().unwrap()].into());
        server.allow(&["10.200.0.0/16".parse().unwrap(), "fd00::/64".parse().unwrap()]);
        let at = server.status().listening[0];
        Self { server, at }
    }

    /// With upstreams that nobody needs.
    pub fn alone() -> Self {
        Self::new(&DnsConfig { upstreams: vec!["127.0.0.1:1".parse().unwrap()], ..DnsConfig::default() })
    }

    pub fn register(&self, name: &str, ip: &str) {
        self.server.records().register(name, ip.parse().unwrap()).unwrap();
    }

    pub fn ask(&self, name: &str, kind: RecordType) -> Message {
        self.send(&query(name, kind))
    }

    pub fn send(&self, query: &Message) -> Message {
        let answer = self.send_bytes(&query.to_vec().unwrap()).expect("no answer");
        assert_eq!((answer.metadata.id, answer.metadata.message_type), (query.metadata.id, MessageType::Response));
        answer
    }

    pub fn send_bytes(&self, bytes: &[u8]) -> Option<Message> {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(self.at).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send(bytes).unwrap();
        let mut buffer = [0; 65_535];
        let length = socket.recv(&mut buffer).ok()?;
        Some(Message::from_vec(&buffer[..length]).unwrap())
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.at).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    pub fn count(&self, name: &str) -> u64 {
        self.server.status().counts.iter().find(|(held, _)| *held == name).unwrap().1
    }
}

pub fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.queries.push(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

pub fn with_edns(mut message: Message, payload: u16, version: u8) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(payload).set_version(version).set_dnssec_ok(true);
    message.edns = Some(edns);
    message
}

/// What the answers say, as text.
pub fn said(message: &Message) -> Vec<String> {
    message.answers.iter().map(|record| record.data.to_string()).collect()
}

/// Seconds for which the zone lets it be remembered that there is nothing.
pub fn negative_secs(message: &Message) -> Option<u32> {
    message.authorities.iter().find_map(|record| match &record.data {
        RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
        _ => None,
    })
}

pub fn write_message(stream: &mut TcpStream, message: &Message) {
    let bytes = message.to_vec().unwrap();
    let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
    stream.write_all(&[&length, bytes.as_slice()].concat()).unwrap();
}

pub fn read_message(stream: &mut TcpStream) -> Option<Message> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut bytes = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut bytes).ok()?;
    Some(Message::from_vec(&bytes).unwrap())
}

/// Waits for what is to come about.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
