//! Units of the TUN with hostile virtio headers, through a whole engine of two workers to another one: what is cut is sealed,
//! what is sealed arrives.

use crate::engine::{Engine, key, outside, public_key};
use crate::input::Input;
use crate::toy::{Toy, index_of, take_deeds};
use ginnel_backends::fuzzing::{read_virtio_header, write_virtio_header};
use ginnel_backends::mem::{Way, packet};
use ginnel_engine::command::Operation;
use ginnel_engine::frame::Ecn;
use ginnel_engine::limits::SUPERPACKET_BYTES_MAX;
use ginnel_engine::port::Offloads;
use ginnel_engine::wire::ip::IpHeader;
use ginnel_engine::wire::message::{DATA_HEADER_BYTES, DATA_OVERHEAD, INITIATION_BYTES, Message, RESPONSE_BYTES};
use std::sync::Arc;

const US: u8 = 1;
const PEER: u8 = 2;

/// Units of an input. More only takes time.
const UNITS_MAX: usize = 40;

/// Runs the target.
pub fn run(bytes: &[u8]) {
    take_deeds();
    let mut input = Input::new(bytes);
    let offloads = Arc::new(Offloads::default());
    let mut us: Engine<Toy> = Engine::new(US, 2, &offloads);
    let mut peer: Engine<Toy> = Engine::new(PEER, 1, &offloads);
    for (engine, n, other) in [(&mut us, US, PEER), (&mut peer, PEER, US)] {
        engine.apply(vec![Operation::SetIdentity(Some(key(n)))]);
        engine.add_peer(0, other, &["0.0.0.0/0", "::/0"]);
    }
    meet(&mut us, &mut peer);

    for _ in 0..UNITS_MAX {
        if input.is_empty() {
            break;
        }
        let (worker, header) = (input.byte(), input.array());
        let mut unit = input.piece().to_vec();
        // A large unit without a large input.
        let fill = usize::from(input.word()).min(SUPERPACKET_BYTES_MAX - unit.len());
        unit.extend((0..fill).map(|at| u8::try_from(at % 251).unwrap_or_default()));
        if unit.is_empty() {
            continue;
        }
        us.inject(worker, &unit, read_virtio_header(&header));
        if worker >> 7 == 1 {
            us.settle();
        }
    }
    us.settle();

    let (mut packets, mut bytes) = (0, 0);
    for (way, mut datagram) in us.departed() {
        let Message::Data { .. } = Message::classify(&datagram) else { continue };
        if datagram.len() == DATA_OVERHEAD {
            continue;
        }
        let inner = &datagram[DATA_HEADER_BYTES..datagram.len() - 16];
        let header = IpHeader::parse(inner).expect("what is sealed is an IP packet");
        packets += 1;
        bytes += header.packet_bytes;
        let index = index_of(&public_key(US)).expect("the peer has a session with us");
        datagram[4..8].copy_from_slice(&index.to_le_bytes());
        peer.arrive(0, Way { ecn: Ecn::NOT_ECT, ..way }, &datagram);
    }
    peer.settle();

    let (mut packets_delivered, mut bytes_delivered) = (0, 0);
    for (meta, unit) in peer.delivered() {
        assert_eq!(read_virtio_header(&write_virtio_header(&meta, &unit)), meta, "a header is read as it was written");
        for packet in packet::cut(&unit, &meta) {
            packets_delivered += 1;
            bytes_delivered += packet.len();
        }
    }
    assert_eq!((packets_delivered, bytes_delivered), (packets, bytes), "{} dropped", peer.dropped("inbound"));
}

/// Makes sessions on both sides.
fn meet(us: &mut Engine<Toy>, peer: &mut Engine<Toy>) {
    let mut initiation = [0; INITIATION_BYTES];
    initiation[0] = 1;
    for (engine, n, other) in [(us, US, PEER), (peer, PEER, US)] {
        initiation[8..40].copy_from_slice(&public_key(other).0);
        engine.arrive(0, Way { from: outside(other), to: outside(n), ecn: Ecn::NOT_ECT }, &initiation);
        engine.settle();
        let answers = engine.departed();
        assert!(answers.iter().any(|(_, datagram)| datagram.len() == RESPONSE_BYTES), "the session stands");
    }
}
