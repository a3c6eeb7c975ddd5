//! What the server knows itself.

use crate::asking::{Asked, negative_secs, query, read_message, said, until, with_edns, write_message};
use ginnel_control::dns::{DnsConfig, DnsServer, Problem, StaticRecord};
use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};
use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};

#[test]
fn names_have_addresses_and_addresses_have_names() {
    let asked = Asked::alone();
    asked.register("web.prod.local", "10.200.0.1");
    asked.register("web.prod.local", "fd00::1");
    let answer = asked.ask("wEb.PROD.local.", RecordType::A);
    assert_eq!(said(&answer), ["10.200.0.1"]);
    assert!(answer.metadata.authoritative && answer.metadata.recursion_available);
    assert_eq!(answer.queries[0].name().to_ascii(), "wEb.PROD.local.");
    assert_eq!((answer.answers[0].name.to_ascii().as_str(), answer.answers[0].ttl), ("wEb.PROD.local.", 5));
    assert_eq!(said(&asked.ask("web.prod.local.", RecordType::AAAA)), ["fd00::1"]);
    assert_eq!(said(&asked.ask("1.0.200.10.in-addr.arpa.", RecordType::PTR)), ["web.prod.local."]);
    let reverse = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.";
    assert_eq!(said(&asked.ask(reverse, RecordType::PTR)), ["web.prod.local."]);
    asked.server.records().unregister("web.prod.local", None).unwrap();
    assert_eq!(asked.ask("web.prod.local.", RecordType::A).metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(asked.ask(reverse, RecordType::PTR).metadata.response_code, ResponseCode::NXDomain);
}

#[test]
fn nothing_of_a_kind_is_not_nothing_at_all() {
    let asked = Asked::alone();
    asked.register("web.prod.local", "10.200.0.1");
    for (name, kind, code) in [
        ("web.prod.local.", RecordType::AAAA, ResponseCode::NoError),
        ("web.prod.local.", RecordType::MX, ResponseCode::NoError),
        ("prod.local.", RecordType::A, ResponseCode::NoError),
        ("local.", RecordType::A, ResponseCode::NoError),
        ("1.0.200.10.in-addr.arpa.", RecordType::A, ResponseCode::NoError),
        ("db.prod.local.", RecordType::A, ResponseCode::NXDomain),
        ("a.web.prod.local.", RecordType::A, ResponseCode::NXDomain),
        ("2.0.200.10.in-addr.arpa.", RecordType::PTR, ResponseCode::NXDomain),
        ("alone.", RecordType::AAAA, ResponseCode::NXDomain),
    ] {
        let answer = asked.ask(name, kind);
        assert_eq!((answer.metadata.response_code, said(&answer)), (code, Vec::<String>::new()), "{name} {kind}");
        assert_eq!(negative_secs(&answer), Some(1), "{name} {kind}");
        assert!(answer.authorities[0].name.zone_of(answer.queries[0].name()));
    }
}

#[test]
fn a_zone_has_a_server_and_a_serial_that_grows() {
    let asked = Asked::alone();
    let serial = || said(&asked.ask("local.", RecordType::SOA))[0].split(' ').nth(2).unwrap().parse::<u32>().unwrap();
    let before = serial();
    assert_eq!(said(&asked.ask("local.", RecordType::NS)), ["ns.local."]);
    assert_eq!(said(&asked.ask("ns.local.", RecordType::A)), ["127.0.0.1"]);
    asked.register("a.local", "10.200.0.1");
    assert!(serial() > before);
}

#[test]
fn addresses_of_one_name_take_turns() {
    let asked = Asked::alone();
    let all = ["10.200.0.1", "10.200.0.2", "10.200.0.3"];
    all.iter().for_each(|ip| asked.register("web.local", ip));
    let mut first: Vec<_> = (0..3).map(|_| said(&asked.ask("web.local.", RecordType::A))[0].clone()).collect();
    first.sort();
    assert_eq!(first, all);
}

#[test]
fn records_of_the_configuration_are_answered_with_the_addresses_they_lead_to() {
    let lines = ["_http._tcp.web.local SRV 0 5 8080 web.local", "web.local TXT \"v=1 x\""];
    let records = lines.map(|line| StaticRecord::parse(line).unwrap()).to_vec();
    let asked = Asked::new(&DnsConfig { records, search: vec!["local".into()], ..DnsConfig::default() });
    asked.register("web.local", "10.200.0.1");
    let answer = asked.ask("_http._tcp.web.local.", RecordType::SRV);
    assert_eq!(said(&answer), ["0 5 8080 web.local."]);
    assert_eq!(answer.additionals[0].data.to_string(), "10.200.0.1");
    assert_eq!(said(&asked.ask("web.local.", RecordType::TXT)), ["v=1 x"]);
    assert_eq!(said(&asked.ask("web.", RecordType::A)), ["10.200.0.1"]);
    assert_eq!(said(&asked.ask("localhost.", RecordType::A)), ["127.0.0.1"]);
}

#[test]
fn what_does_not_fit_a_datagram_is_cut_and_had_over_tcp() {
    let asked = Asked::alone();
    for number in 0..100 {
        asked.register("many.local", &format!("10.200.1.{number}"));
    }
    let plain = asked.ask("many.local.", RecordType::A);
    assert!(plain.metadata.truncation && plain.answers.is_empty() && plain.edns.is_none());
    let small = asked.send(&with_edns(query("many.local.", RecordType::A), 1_000, 0));
    let edns = small.edns.as_ref().unwrap();
    assert!(small.metadata.truncation && edns.flags().dnssec_ok);
    assert_eq!((edns.max_payload(), edns.version()), (1_232, 0));
    let mut stream = asked.connect();
    write_message(&mut stream, &query("many.local.", RecordType::A));
    let whole = read_message(&mut stream).unwrap();
    assert_eq!((whole.metadata.truncation, whole.answers.len()), (false, 100));
    // 65 addresses of 16 bytes and the rest stay below 1,232, whatever the client could take.
    (0..35).for_each(|number| {
        asked.server.records().unregister("many.local", Some([10, 200, 1, number].into())).unwrap();
    });
    let large = asked.send(&with_edns(query("many.local.", RecordType::A), 4_096, 0));
    assert_eq!((large.metadata.truncation, large.answers.len()), (false, 65));
}

#[test]
fn what_is_not_understood_is_said_so() {
    let asked = Asked::alone();
    let versioned = asked.send(&with_edns(query("a.local.", RecordType::A), 1_232, 1));
    // The number has two meanings, and without a signature this is the one.
    assert_eq!(u16::from(versioned.metadata.response_code), u16::from(ResponseCode::BADVERS));
    for kind in [RecordType::AXFR, RecordType::IXFR] {
        assert_eq!(asked.ask("local.", kind).metadata.response_code, ResponseCode::Refused);
    }
    let mut chaos = query("version.bind.", RecordType::TXT);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(asked.send(&chaos).metadata.response_code, ResponseCode::Refused);
    let mut update = query("local.", RecordType::SOA);
    update.metadata.op_code = OpCode::Notify;
    assert_eq!(asked.send(&update).metadata.response_code, ResponseCode::NotImp);
    let mut twice = query("local.", RecordType::SOA);
    twice.queries.push(twice.queries[0].clone());
    assert_eq!(asked.send(&twice).metadata.response_code, ResponseCode::FormErr);
    let mut not_recursive = query("example.com.", RecordType::A);
    not_recursive.metadata.recursion_desired = false;
    assert_eq!(asked.send(&not_recursive).metadata.response_code, ResponseCode::Refused);
}

#[test]
fn strangers_are_refused_and_seldom() {
    let asked = Asked::alone();
    asked.register("web.local", "10.200.0.1");
    let bytes = query("web.local.", RecordType::A).to_vec().unwrap();
    let ask = |client: &str| asked.server.answer(&bytes, client.parse().unwrap());
    let code = |answer: Vec<u8>| Message::from_vec(&answer).unwrap().metadata.response_code;
    assert_eq!(code(ask("10.200.9.9").unwrap()), ResponseCode::NoError);
    let refusals: Vec<_> = (0..10_000).filter_map(|_| ask("192.0.2.1")).collect();
    assert!(refusals.len() < 1_000, "{}", refusals.len());
    assert!(refusals.iter().all(|answer| answer.len() <= bytes.len()));
    assert_eq!(code(refusals[0].clone()), ResponseCode::Refused);
    assert!(asked.server.explain("web.local", "192.0.2.1".parse().unwrap()).unwrap().starts_with("refused"));
}

#[test]
fn many_queries_of_one_connection_are_answered_each() {
    let asked = Asked::alone();
    asked.register("web.local", "10.200.0.1");
    let queries: Vec<_> = (0..500).map(|_| query("web.local.", RecordType::A)).collect();
    let mut stream = asked.connect();
    queries.iter().for_each(|query| write_message(&mut stream, query));
    let mut ids: Vec<_> = queries.iter().map(|_| read_message(&mut stream).unwrap().metadata.id).collect();
    let mut sent: Vec<_> = queries.iter().map(|query| query.metadata.id).collect();
    ids.sort_unstable();
    sent.sort_unstable();
    assert_eq!(ids, sent);
    // One that sends what is no query is cut off, and one byte at a time is as good as all at once.
    let bytes = query("web.local.", RecordType::A).to_vec().unwrap();
    let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
    length.iter().chain(&bytes).for_each(|byte| stream.write_all(&[*byte]).unwrap());
    assert_eq!(said(&read_message(&mut stream).unwrap()), ["10.200.0.1"]);
    stream.write_all(&[0, 3, 1, 2, 3]).unwrap();
    assert_eq!(stream.read(&mut [0; 10]).unwrap(), 0);
}

#[test]
fn one_client_has_so_many_connections_and_no_more() {
    let asked = Asked::alone();
    asked.register("web.local", "10.200.0.1");
    let answered = |stream: &mut std::net::TcpStream| {
        // It may have been closed already.
        let bytes = query("web.local.", RecordType::A).to_vec().unwrap();
        let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
        stream.write_all(&[&length, bytes.as_slice()].concat()).is_ok() && read_message(stream).is_some()
    };
    let mut streams: Vec<_> = (0..40).map(|_| asked.connect()).collect();
    let served = streams.iter_mut().filter_map(|stream| answered(stream).then_some(())).count();
    assert_eq!(served, 16);
    assert_eq!(asked.count("crowded_out"), 24);
    drop(streams);
    until("a new connection is served", || answered(&mut asked.connect()));
}

#[test]
fn garbage_changes_nothing_but_counters() {
    let asked = Asked::alone();
    asked.register("web.local", "10.200.0.1");
    let client = "10.200.0.9".parse().unwrap();
    let good = with_edns(query("web.local.", RecordType::A), 1_232, 0).to_vec().unwrap();
    for round in 0..50_000_usize {
        let mut bytes = match round % 3 {
            0 => (0..rand::random_range(0..80)).map(|_| rand::random()).collect(),
            1 => good[..round % good.len()].to_vec(),
            _ => good.clone(),
        };
        if !bytes.is_empty() {
            let at = rand::random_range(0..bytes.len());
            bytes[at] = rand::random();
        }
        if let Some(answer) = asked.server.answer(&bytes, client) {
            assert_eq!((&answer[..2], answer[2] & 0x80), (&bytes[..2], 0x80));
        }
    }
    assert_eq!(said(&asked.ask("web.local.", RecordType::A)), ["10.200.0.1"]);
}

#[test]
fn a_taken_port_is_told_with_its_holder_and_had_when_it_is_free() {
    let server = DnsServer::start(&DnsConfig::default()).unwrap();
    let other = UdpSocket::bind("127.0.0.1:0").unwrap();
    let at = other.local_addr().unwrap();
    let absent = "192.0.2.1:53".parse().unwrap();
    server.listen_at(&[at, absent].into());
    let problems = server.problems();
    let taken = problems.iter().find(|problem| problem.at() == Some(at)).unwrap().to_string();
    assert!(taken.contains(&format!("(process {}) at {at}", std::process::id())), "{taken}");
    // A bridge that is being made has no address for a moment.
    assert!(!problems.contains(&Problem::Absent { at: absent }));
    until("a missing address is told", || server.problems().contains(&Problem::Absent { at: absent }));
    assert!(server.status().listening.is_empty());
    drop(other);
    until("it listens", || server.status().listening == [at]);
    server.listen_at(&[].into());
    until("the port is free again", || UdpSocket::bind(at).is_ok() && TcpListener::bind(at).is_ok());
    server.listen_at(&["0.0.0.0:0".parse().unwrap()].into());
    assert!(matches!(server.problems()[..], [Problem::Unavailable { .. }, ..]));
    server.stop();
}
