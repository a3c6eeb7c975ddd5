//! Containers find each other by name: at the gateway of their service, and across nodes.

use crate::common::machine::in_private_machine;
use crate::common::until;
use crate::world::{Node, World, arrives};
use ginnel_control::host::Netns;
use ginnel_control::lab::container::Container;
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

/// For one try. The machine may be slow.
const TRY: Duration = Duration::from_secs(3);

fn query(name: &str) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.queries.push(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message.to_vec().unwrap()
}

fn addresses(answer: &[u8]) -> Result<Vec<IpAddr>, ResponseCode> {
    let message = Message::from_vec(answer).unwrap();
    if message.metadata.response_code != ResponseCode::NoError {
        return Err(message.metadata.response_code);
    }
    let mut found: Vec<_> = message
        .answers
        .iter()
        .filter_map(|record| match record.data {
            RData::A(ip) => Some(IpAddr::from(ip.0)),
            _ => None,
        })
        .collect();
    found.sort();
    Ok(found)
}

/// What the server at `at` says of a name to somebody in `netns`; nothing where it says nothing.
fn asked(netns: &Netns, at: IpAddr, name: &str) -> Option<Result<Vec<IpAddr>, ResponseCode>> {
    let socket = netns.run_in(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    socket.set_read_timeout(Some(TRY)).unwrap();
    socket.send_to(&query(name), SocketAddr::new(at, 53)).ok()?;
    let mut buffer = [0; 1_500];
    let length = socket.recv(&mut buffer).ok()?;
    Some(addresses(&buffer[..length]))
}

fn asked_over_tcp(netns: &Netns, at: IpAddr, name: &str) -> Result<Vec<IpAddr>, ResponseCode> {
    let connect = || TcpStream::connect_timeout(&SocketAddr::new(at, 53), 10 * TRY);
    let mut stream = netns.run_in(connect).unwrap().unwrap();
    stream.set_read_timeout(Some(10 * TRY)).unwrap();
    let query = query(name);
    stream.write_all(&[&u16::try_from(query.len()).unwrap().to_be_bytes(), query.as_slice()].concat()).unwrap();
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut answer).unwrap();
    addresses(&answer)
}

fn gateway(node: &mut Node, service: &str) -> IpAddr {
    let services = node.list("services");
    let found = services.iter().find(|known| known["service"] == service).unwrap();
    found["gateways"][0].as_str().unwrap().parse().unwrap()
}

fn condition(node: &mut Node, code: &str) -> Option<Value> {
    let health = node.answered(json!({"op": "health"}));
    health["conditions"].as_array().unwrap().iter().find(|found| found["code"] == code).cloned()
}

#[test]
fn a_container_has_its_resolver_set_on_request() {
    in_private_machine(|| {
        let mut world = World::build();
        world.a.service("web", "auto");
        let root = world.a.scratch("root");
        fs::create_dir(root.join("etc")).unwrap();
        let container = Container::start_rooted(&root).unwrap();
        let read = || fs::read_to_string(root.join("etc/resolv.conf"));
        world.a.attach(&container, "web", json!({"dns_domain": "lab"}));
        assert!(read().is_err());
        let ip = world.a.attach(&container, "web", json!({"dns_domain": "lab", "resolv_conf": true}));
        let text = read().unwrap();
        let gateway = gateway(&mut world.a, "web");
        assert!(text.ends_with(&format!("\nnameserver {gateway}\nsearch lab\n")), "{text}");
        assert_eq!(asked(container.netns(), gateway, "web.lab."), Some(Ok(vec![ip])));
        // It is the container's when that is detached.
        world.a.detach(&container);
        assert_eq!(read().unwrap(), text);
    });
}

#[test]
fn containers_find_each_other_by_name() {
    in_private_machine(|| {
        let mut world = World::build();
        let [one, two, fenced, far] = [(); 4].map(|()| Container::start().unwrap());
        world.a.service("web", "auto");
        world.a.service("job", "isolated");
        world.b.service("db", "auto");
        world.introduce();
        let fields = || json!({"join_global": true, "dns_domain": "prod.local"});
        let ip_one = world.a.attach(&one, "web", fields());
        let ip_two = world.a.attach(&two, "web", fields());
        world.a.attach(&fenced, "job", json!({"isolation_network": "red"}));
        let ip_far = world.b.attach(&far, "db", fields());
        let (at, at_far) = (gateway(&mut world.a, "web"), gateway(&mut world.b, "db"));
        let both = {
            let mut both = vec![ip_one, ip_two];
            both.sort();
            both
        };

        // Whatever was answered over IPC is answered to containers, the first time they ask.
        let from_one = |name: &str| asked(one.netns(), at, name).expect("no answer");
        assert_eq!(from_one("Web.prod.local."), Ok(both.clone()));
        assert_eq!(from_one("web."), Ok(both.clone()));
        assert_eq!(asked_over_tcp(two.netns(), at, "web.prod.local."), Ok(both.clone()));
        world.a.answered(json!({"op": "register_dns", "name": "two.prod.local", "ip": ip_two}));
        assert_eq!(from_one("two.prod.local."), Ok(vec![ip_two]));
        world.a.answered(json!({"op": "unregister_dns", "name": "two.prod.local"}));
        assert_eq!(from_one("two.prod.local."), Err(ResponseCode::NXDomain));
        // One that reaches nobody still asks its gateway, as the host does.
        let at_fenced = gateway(&mut world.a, "job");
        assert_eq!(asked(fenced.netns(), at_fenced, "web.prod.local."), Some(Ok(both.clone())));
        assert_eq!(asked(&world.a.netns, at, "web.prod.local."), Some(Ok(both.clone())));

        // Across nodes: a name of the other node, told to this one and asked of that one.
        arrives(&one.end(ip_one), &far.end(ip_far));
        assert_eq!(asked(far.netns(), at_far, "db.prod.local."), Some(Ok(vec![ip_far])));
        let node_b = "10.200.9.1".parse().unwrap();
        until("the other node answers", || asked(one.netns(), node_b, "db.prod.local.") == Some(Ok(vec![ip_far])));
        world.a.answered(json!({"op": "register_dns", "name": "db.prod.local", "ip": ip_far}));
        let found = from_one("db.prod.local.").unwrap();
        arrives(&one.end(ip_one), &far.end(found[0]));

        world.a.detach(&two);
        assert_eq!(from_one("web.prod.local."), Ok(vec![ip_one]));
        world.a.kill_and_restart();
        assert_eq!(from_one("web.prod.local."), Ok(vec![ip_one]));
        assert_eq!(from_one("web."), Ok(vec![ip_one]));
        let status = world.a.answered(json!({"op": "status"}));
        let listening = status["dns"]["listening"].as_array().unwrap();
        for at in [format!("{at}:53"), format!("{at_fenced}:53"), "10.200.5.1:53".into()] {
            assert!(listening.contains(&json!(at)), "{listening:?}");
        }
        // With its service an address goes, and the others stay.
        world.a.answered(json!({"op": "teardown_service_overlay", "service": "job"}));
        let status = world.a.answered(json!({"op": "status"}));
        assert!(!status["dns"]["listening"].as_array().unwrap().contains(&json!(format!("{at_fenced}:53"))));
        assert_eq!(from_one("web.prod.local."), Ok(vec![ip_one]));
    });
}

#[test]
fn a_port_that_somebody_has_is_told_and_taken_when_it_is_free() {
    in_private_machine(|| {
        let mut node = Node::start("c", 2);
        let other = node.netns.run_in(|| UdpSocket::bind("0.0.0.0:53")).unwrap().unwrap();
        node.set_up("10.200.13.0/28");
        let told = condition(&mut node, "dns_not_served").unwrap();
        assert_eq!(told["subject"], "10.200.13.1:53");
        let text = told["text"].as_str().unwrap();
        assert!(text.contains(&format!("(process {})", std::process::id())), "{text}");
        drop(other);
        until("the port is taken", || condition(&mut node, "dns_not_served").is_none());
        let end: IpAddr = "10.200.13.1".parse().unwrap();
        assert_eq!(asked(&node.netns, end, "no.local."), Some(Err(ResponseCode::NXDomain)));
    });
}
