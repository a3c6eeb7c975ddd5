//! What the server asks others.

use crate::asking::{Asked, negative_secs, query, read_message, said, until, with_edns, write_message};
use crate::upstream::{Upstream, address, knows, nothing, reply};
use ginnel_control::dns::{DnsConfig, Problem};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

fn before(upstreams: &[&Upstream]) -> Asked {
    Asked::new(&DnsConfig { upstreams: upstreams.iter().map(|one| one.at).collect(), ..DnsConfig::default() })
}

#[test]
fn other_names_are_asked_of_an_upstream_once() {
    let upstream = Upstream::new(knows(1));
    let asked = before(&[&upstream]);
    let answer = asked.ask("wWw.example.", RecordType::A);
    assert_eq!((said(&answer), answer.metadata.authoritative), (vec!["192.0.2.1".to_owned()], false));
    assert_eq!(answer.queries[0].name().to_ascii(), "wWw.example.");
    assert_eq!(said(&asked.ask("WWW.example.", RecordType::A)), ["192.0.2.1"]);
    assert_eq!((upstream.asked(), asked.count("from_cache")), (1, 1));
    // With other wishes it is another question.
    asked.send(&with_edns(query("www.example.", RecordType::A), 1_232, 0));
    assert_eq!(upstream.asked(), 2);
    // Ours never go out.
    for name in ["no.local.", "web.", "7.0.200.10.in-addr.arpa.", "x.onion."] {
        assert_eq!(asked.ask(name, RecordType::A).metadata.response_code, ResponseCode::NXDomain);
    }
    assert_eq!(upstream.asked(), 2);
    assert_eq!(asked.ask("7.0.201.10.in-addr.arpa.", RecordType::A).metadata.response_code, ResponseCode::NoError);
    assert_eq!(upstream.asked(), 3);
}

#[test]
fn that_there_is_nothing_is_remembered_too() {
    let upstream = Upstream::new(|query, _| vec![nothing(query, ResponseCode::NXDomain).to_vec().unwrap()]);
    let asked = before(&[&upstream]);
    for _ in 0..3 {
        let answer = asked.ask("no.example.", RecordType::A);
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
        assert!(negative_secs(&answer).is_some_and(|secs| (25..=30).contains(&secs)));
    }
    assert_eq!(upstream.asked(), 1);
}

#[test]
fn only_the_answer_to_the_question_counts() {
    let upstream = Upstream::new(|query, _| {
        let (mut other_id, mut other_name, mut no_response) = (address(query, 6), address(query, 6), address(query, 6));
        other_id.metadata.id ^= 1;
        other_name.queries[0].set_name("evil.example.".parse().unwrap());
        no_response.metadata.message_type = hickory_proto::op::MessageType::Query;
        let all = [other_id, other_name, no_response, address(query, 1)];
        let mut all: Vec<_> = all.iter().map(|message| message.to_vec().unwrap()).collect();
        all.insert(0, vec![1, 2, 3]);
        all
    });
    assert_eq!(said(&before(&[&upstream]).ask("www.example.", RecordType::A)), ["192.0.2.1"]);
}

#[test]
fn what_was_cut_is_had_over_tcp() {
    let upstream = Upstream::new(|query, stream| {
        let mut answer = address(query, 1);
        if !stream {
            answer = reply(query, ResponseCode::NoError);
            answer.metadata.truncation = true;
        }
        vec![answer.to_vec().unwrap()]
    });
    let answer = before(&[&upstream]).ask("www.example.", RecordType::A);
    assert_eq!((said(&answer), answer.metadata.truncation), (vec!["192.0.2.1".to_owned()], false));
}

#[test]
fn one_that_knows_no_edns_is_asked_without() {
    let upstream = Upstream::new(|query, _| {
        let answer = if query.edns.is_some() { reply(query, ResponseCode::FormErr) } else { address(query, 1) };
        vec![answer.to_vec().unwrap()]
    });
    assert_eq!(said(&before(&[&upstream]).ask("www.example.", RecordType::A)), ["192.0.2.1"]);
}

#[test]
fn where_one_fails_the_next_is_asked_and_stays_the_first() {
    let silent = Upstream::new(|_, _| Vec::new());
    let failing = Upstream::new(|query, _| vec![reply(query, ResponseCode::ServFail).to_vec().unwrap()]);
    let good = Upstream::new(knows(3));
    let asked = before(&[&silent, &failing, &good]);
    assert_eq!(said(&asked.ask("a.example.", RecordType::A)), ["192.0.2.3"]);
    for name in ["b.example.", "c.example."] {
        assert_eq!(said(&asked.ask(name, RecordType::A)), ["192.0.2.3"]);
    }
    assert_eq!((silent.asked(), failing.asked(), good.asked()), (1, 1, 3));
    assert_eq!(asked.server.problems(), []);
}

#[test]
fn where_all_fail_the_client_learns_it_and_so_does_the_operator() {
    let refusing = Upstream::new(|query, _| vec![reply(query, ResponseCode::Refused).to_vec().unwrap()]);
    let asked = before(&[&refusing]);
    for name in ["a.example.", "b.example.", "c.example."] {
        assert_eq!(asked.ask(name, RecordType::A).metadata.response_code, ResponseCode::ServFail);
    }
    assert_eq!(asked.server.problems(), [Problem::UpstreamsSilent { servers: vec![refusing.at] }]);
    assert_eq!(asked.ask("a.local.", RecordType::A).metadata.response_code, ResponseCode::NXDomain);
}

#[test]
fn many_who_ask_the_same_at_once_are_one() {
    let slow = Upstream::new(|query, _| {
        thread::sleep(Duration::from_millis(300));
        knows(1)(query, false)
    });
    let asked = before(&[&slow]);
    thread::scope(|scope| {
        let all: Vec<_> = (0..20).map(|_| scope.spawn(|| said(&asked.ask("www.example.", RecordType::A)))).collect();
        all.into_iter().for_each(|one| assert_eq!(one.join().unwrap(), ["192.0.2.1"]));
    });
    assert_eq!(slow.asked(), 1);
}

#[test]
fn what_is_known_overtakes_what_is_asked_of_others() {
    let slow = Upstream::new(|query, _| {
        thread::sleep(Duration::from_millis(300));
        knows(1)(query, false)
    });
    let asked = before(&[&slow]);
    asked.register("web.local", "10.200.0.1");
    let mut stream = asked.connect();
    write_message(&mut stream, &query("www.example.", RecordType::A));
    write_message(&mut stream, &query("web.local.", RecordType::A));
    assert_eq!(said(&read_message(&mut stream).unwrap()), ["10.200.0.1"]);
    assert_eq!(said(&read_message(&mut stream).unwrap()), ["192.0.2.1"]);
}

#[test]
fn our_own_queries_are_never_asked_again() {
    // A server that asks us in turn, with everything it was asked.
    let relay = UdpSocket::bind("127.0.0.1:0").unwrap();
    let asked = Asked::new(&DnsConfig { upstreams: vec![relay.local_addr().unwrap()], ..DnsConfig::default() });
    let at = asked.at;
    thread::spawn(move || {
        let (mut buffer, onward) = ([0; 4_096], UdpSocket::bind("127.0.0.1:0").unwrap());
        while let Ok((length, client)) = relay.recv_from(&mut buffer) {
            onward.send_to(&buffer[..length], at).unwrap();
            let length = onward.recv(&mut buffer).unwrap();
            relay.send_to(&buffer[..length], client).unwrap();
        }
    });
    let answer = asked.ask("www.example.", RecordType::A);
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert!(asked.server.problems().contains(&Problem::Loop));
    assert!(asked.count("looped") <= 2);
}

#[test]
fn an_upstream_that_is_ourselves_is_not_asked() {
    let at = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let asked = Asked::new(&DnsConfig { upstreams: vec![at], ..DnsConfig::default() });
    asked.server.listen_at(&[at].into());
    let asked = Asked { at, ..asked };
    assert_eq!(asked.server.status().listening, [at]);
    assert_eq!(asked.ask("www.example.", RecordType::A).metadata.response_code, ResponseCode::ServFail);
    assert_eq!((asked.count("queries"), asked.count("looped")), (1, 0));
}

#[test]
fn a_domain_has_servers_of_its_own() {
    let (usual, split) = (Upstream::new(knows(1)), Upstream::new(knows(2)));
    let split = vec![("corp.example".to_owned(), vec![split.at])];
    let asked = Asked::new(&DnsConfig { upstreams: vec![usual.at], split, ..DnsConfig::default() });
    assert_eq!(said(&asked.ask("a.corp.example.", RecordType::A)), ["192.0.2.2"]);
    assert_eq!(said(&asked.ask("a.example.", RecordType::A)), ["192.0.2.1"]);
}

#[test]
fn resolv_conf_is_followed_and_we_are_no_upstream_of_ours() {
    let dir = std::env::temp_dir().join(format!("ginnel-dns-{}", rand::random::<u64>()));
    fs::create_dir(&dir).unwrap();
    let resolv_conf = dir.join("resolv.conf");
    let asked = Asked::new(&DnsConfig { resolv_conf: resolv_conf.clone(), ..DnsConfig::default() });
    assert_eq!(asked.server.problems(), [Problem::NoUpstream]);
    assert_eq!(asked.ask("a.example.", RecordType::A).metadata.response_code, ResponseCode::ServFail);
    fs::write(&resolv_conf, "nameserver 192.0.2.53\n").unwrap();
    let expected: [SocketAddr; 1] = ["192.0.2.53:53".parse().unwrap()];
    until("the file is read", || asked.server.status().upstreams == expected);
    assert_eq!(asked.server.problems(), []);
    fs::write(&resolv_conf, "nameserver 192.0.2.54\nnameserver 192.0.2.55\n").unwrap();
    until("the change is noticed", || asked.server.status().upstreams.len() == 2);
    fs::remove_dir_all(&dir).unwrap();
}
