//! A server to ask in turn, which answers as a test wants.

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::{A, SOA};
use hickory_proto::rr::{Name, RData, Record};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// What it does with a query over UDP, or over TCP where that is `true`. Several datagrams may come of one.
pub type Behaviour = dyn Fn(&Message, bool) -> Vec<Vec<u8>> + Send + Sync;

pub struct Upstream {
    pub at: SocketAddr,
    asked: Arc<AtomicUsize>,
}

impl Upstream {
    /// Runs to the end of the process.
    pub fn new(behaves: impl Fn(&Message, bool) -> Vec<Vec<u8>> + Send + Sync + 'static) -> Self {
        Self::at("127.0.0.1:0".parse().unwrap(), behaves)
    }

    pub fn at(at: SocketAddr, behaves: impl Fn(&Message, bool) -> Vec<Vec<u8>> + Send + Sync + 'static) -> Self {
        let udp = UdpSocket::bind(at).unwrap();
        let at = udp.local_addr().unwrap();
        let tcp = TcpListener::bind(at).unwrap();
        let (asked, behaves): (Arc<AtomicUsize>, Arc<Behaviour>) = (Arc::default(), Arc::new(behaves));
        let (counter, behaviour) = (asked.clone(), behaves.clone());
        thread::spawn(move || {
            let mut buffer = [0; 4_096];
            while let Ok((length, client)) = udp.recv_from(&mut buffer) {
                counter.fetch_add(1, Ordering::SeqCst);
                for answer in behaviour(&Message::from_vec(&buffer[..length]).unwrap(), false) {
                    udp.send_to(&answer, client).unwrap();
                }
            }
        });
        thread::spawn(move || {
            for stream in tcp.incoming() {
                let mut stream = stream.unwrap();
                let mut length = [0; 2];
                stream.read_exact(&mut length).unwrap();
                let mut bytes = vec![0; u16::from_be_bytes(length).into()];
                stream.read_exact(&mut bytes).unwrap();
                for answer in behaves(&Message::from_vec(&bytes).unwrap(), true) {
                    let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
                    stream.write_all(&[&length, answer.as_slice()].concat()).unwrap();
                }
            }
        });
        Self { at, asked }
    }

    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// One that knows every name, at this address, for a minute.
pub fn knows(last: u8) -> impl Fn(&Message, bool) -> Vec<Vec<u8>> + Send + Sync {
    move |query, _| vec![address(query, last).to_vec().unwrap()]
}

pub fn address(query: &Message, last: u8) -> Message {
    let mut answer = reply(query, ResponseCode::NoError);
    let name = query.queries[0].name().clone();
    answer.answers.push(Record::from_rdata(name, 60, RData::A(A::new(192, 0, 2, last))));
    answer
}

pub fn nothing(query: &Message, code: ResponseCode) -> Message {
    let mut answer = reply(query, code);
    let zone = Name::from_ascii("example.").unwrap();
    let soa = SOA::new(zone.clone(), zone.clone(), 1, 1, 1, 1, 30);
    answer.authorities.push(Record::from_rdata(zone, 90, RData::SOA(soa)));
    answer
}

pub fn reply(query: &Message, code: ResponseCode) -> Message {
    let mut answer = query.clone();
    answer.metadata.message_type = MessageType::Response;
    answer.metadata.response_code = code;
    answer.edns = None;
    answer
}
