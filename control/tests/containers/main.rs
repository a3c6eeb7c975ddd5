//! Containers on two nodes, as the orchestrator attaches them: the program itself, frames written by hand, real processes in
//! namespaces of their own, and packets that arrive or do not.

#[path = "../common/mod.rs"]
mod common;
mod names;
mod world;

use common::machine::in_private_machine;
use common::until;
use ginnel_control::host::Netns;
use ginnel_control::lab::container::Container;
use ginnel_control::lab::traffic::{Amount, End, TcpPlan, tcp};
use serde_json::json;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;
use world::{Damage, Matrix, Node, World, arrives, attach, reaches, unbound, wait_for_tunnel};

/// Containers of each mode on both nodes, the nodes themselves, and the outside: who reaches whom.
///
/// `isolated` stands for two networks: members of one reach each other and the node, and nobody else of the cluster, nor
/// are they reached: who on another node is a member, nobody has said. A dedicated service has its own way to other nodes
/// and does not use the others'.
#[test]
fn who_reaches_whom_in_each_mode() {
    in_private_machine(|| {
        let mut world = World::build();
        let plan = [
            ("web", "auto", None),
            ("db", "auto", None),
            ("cache", "shared", None),
            ("queue", "shared", None),
            ("pay", "dedicated", None),
            ("job", "isolated", Some("red")),
            ("task", "isolated", Some("blue")),
        ];
        for node in [&mut world.a, &mut world.b] {
            for (service, mode, _) in plan {
                node.service(service, mode);
            }
        }
        world.introduce();
        world.introduce_service("pay");
        wait_for_tunnel(&world.a.end("10.200.5.1"), &world.b.end("10.200.9.1"));
        let containers: Vec<_> = (0..12).map(|_| Container::start().unwrap()).collect();
        let mut ends: Vec<(&str, End)> = Vec::new();
        let mut next = containers.iter();
        for (name, service, network) in [
            ("web 1", "web", None),
            ("web 2", "web", None),
            ("db", "db", None),
            ("cache", "cache", None),
            ("queue", "queue", None),
            ("pay", "pay", None),
            ("red 1", "job", Some("red")),
            ("red 2", "job", Some("red")),
            ("blue", "task", Some("blue")),
        ] {
            let container = next.next().unwrap();
            let fields = network.map_or(json!({}), |network| json!({"isolation_network": network}));
            ends.push((name, container.end(world.a.attach(container, service, fields))));
        }
        for (name, service) in [("web b", "web"), ("pay b", "pay")] {
            let container = next.next().unwrap();
            ends.push((name, container.end(world.b.attach(container, service, json!({})))));
        }
        let container = next.next().unwrap();
        let red = json!({"isolation_network": "red"});
        ends.push(("red b", container.end(world.b.attach(container, "job", red))));
        let pay = ends.iter().find(|(name, _)| *name == "pay").unwrap().1.clone();
        let pay_b = ends.iter().find(|(name, _)| *name == "pay b").unwrap().1.clone();
        wait_for_tunnel(&pay, &pay_b);
        ends.push(("node a", world.a.end("10.200.5.1")));

        let matrix = Matrix::measure(&ends).show();
        println!("{matrix}");
        //                      w w d c q p r r b w p r n
        let expected = concat!(
            " web 1  - + + + + + . . . + . . +\n",
            " web 2  + - + + + + . . . + . . +\n",
            "    db  + + - + + + . . . + . . +\n",
            " cache  + + + - + + . . . + . . +\n",
            " queue  + + + + - + . . . + . . +\n",
            "   pay  + + + + + - . . . . + . +\n",
            " red 1  . . . . . . - + . . . . +\n",
            " red 2  . . . . . . + - . . . . +\n",
            "  blue  . . . . . . . . - . . . +\n",
            " web b  + + + + + . . . . - + . +\n",
            " pay b  . . . . . + . . . + - . .\n",
            " red b  . . . . . . . . . . . - .\n",
            "node a  + + + + + + + + + + . . -\n",
        );
        assert_eq!(matrix, expected);
        // Its address is one of the global overlay; by that of the service it gets there.
        arrives(&unbound(&world.a.netns), &pay_b);

        // The outside sees the node and cannot call in; what is fenced may go out as well.
        let outside = End { netns: world.outside.clone(), ip: IpAddr::from([203, 0, 113, 9]) };
        for name in ["web 1", "cache", "pay", "red 1"] {
            let end = &ends.iter().find(|(found, _)| *found == name).unwrap().1;
            arrives(end, &outside);
            assert!(!reaches(&outside, end), "{name} is open to the outside");
        }
    });
}

/// Each node is told the same list of who is in a network, and takes from it who is elsewhere.
#[test]
fn members_of_a_network_reach_each_other_across_nodes_once_they_are_told() {
    in_private_machine(|| {
        let mut world = World::build();
        let containers: Vec<_> = (0..5).map(|_| Container::start().unwrap()).collect();
        let [red, blue, red_b, own_b, web_b] = &containers[..] else { unreachable!() };
        for node in [&mut world.a, &mut world.b] {
            node.service("job", "isolated");
        }
        world.b.service("web", "auto");
        world.introduce();
        wait_for_tunnel(&world.a.end("10.200.5.1"), &world.b.end("10.200.9.1"));
        let network = |name: &str| json!({"isolation_network": name, "publish": []});
        let red_end = red.end(world.a.attach(red, "job", network("red")));
        let blue_end = blue.end(world.a.attach(blue, "job", network("blue")));
        let red_b_end = red_b.end(world.b.attach(red_b, "job", network("red")));
        // In no network by name, so in that of its service.
        let own_b_end = own_b.end(world.b.attach(own_b, "job", json!({})));
        let web_b_end = web_b.end(world.b.attach(web_b, "web", json!({})));
        let ends = [
            ("red", &red_end),
            ("blue", &blue_end),
            ("red b", &red_b_end),
            ("own b", &own_b_end),
            ("web b", &web_b_end),
        ]
        .map(|(name, end)| (name, end.clone()));
        let alone = "  red  - . . . .\n blue  . - . . .\nred b  . . - . .\nown b  . . . - .\nweb b  . . . . -\n";
        assert_eq!(Matrix::measure(&ends).show(), alone);

        let tell = |node: &mut Node, network: &str, members: &[&End]| {
            let members: Vec<_> = members.iter().map(|end| end.ip).collect();
            node.answered(json!({"op": "set_network_members", "network": network, "members": members}));
        };
        for node in [&mut world.a, &mut world.b] {
            tell(node, "red", &[&red_end, &red_b_end]);
            tell(node, "service:job", &[&own_b_end]);
        }
        let together = "  red  - . + . .\n blue  . - . . .\nred b  + . - . .\nown b  . . . - .\nweb b  . . . . -\n";
        assert_eq!(Matrix::measure(&ends).show(), together);
        let listed = world.a.list("networks");
        let of_red = listed.iter().find(|item| item["network"] == "red").unwrap();
        assert_eq!(of_red["members"], json!([format!("linux_pid:{}", red.pid())]));
        assert_eq!(of_red["elsewhere"], json!([red_b_end.ip]));
        let taken = json!({"op": "set_network_members", "network": "blue", "members": [red_b_end.ip]});
        assert!(world.a.refused(taken).contains("is in network red"));

        // It is remembered.
        world.a.kill_and_restart();
        until("the daemon has it again", || reaches(&red_end, &red_b_end));
        assert_eq!(Matrix::measure(&ends).show(), together);
        // Who is no longer named is out, and so are connections of before; a sync says the rest.
        for node in [&mut world.a, &mut world.b] {
            node.answered(json!({"op": "begin_sync", "epoch": 1, "kinds": ["networks"]}));
            tell(node, "service:job", &[&own_b_end]);
            let ended = node.answered(json!({"op": "end_sync", "epoch": 1}));
            assert_eq!(ended["removed"], json!([{"kind": "networks", "key": "red"}]));
        }
        assert_eq!(Matrix::measure(&ends).show(), alone);
    });
}

/// Whatever is repeated says the same; another owner, service or network is refused; a container that dies is detached.
#[test]
fn attaching_is_idempotent_and_ends_with_the_container() {
    in_private_machine(|| {
        let mut world = World::build();
        let a = &mut world.a;
        a.service("web", "auto");
        a.service("db", "auto");
        let mut container = Container::start().unwrap();
        let fields = || json!({"join_global": true, "owner": "ctr-1"});
        let first = a.answered(attach(&container, "web", fields()));
        assert_eq!(first["addresses"].as_array().unwrap().len(), 2, "{first}");
        let links = a.links();
        assert_eq!(world::links(container.netns()), ["eth0", "eth1"]);
        for _ in 0..3 {
            assert_eq!(a.answered(attach(&container, "web", fields())), first);
            assert_eq!(a.links(), links);
        }
        for (service, fields) in [
            ("web", json!({"join_global": true, "owner": "ctr-2"})),
            ("db", fields()),
            ("web", json!({"join_global": true, "owner": "ctr-1", "isolation_network": "red"})),
        ] {
            let reason = a.refused(attach(&container, service, fields));
            assert!(reason.contains("detach that first"), "{reason}");
        }
        let handle = json!({"platform": "linux_pid", "pid": container.pid()});
        let reason = a.refused(json!({"op": "detach_container", "handle": handle, "owner": "ctr-2"}));
        assert!(reason.contains("ctr-1"), "{reason}");
        assert_eq!(a.list("attachments").len(), 1);
        assert_eq!(a.answered(json!({"op": "status"}))["attachment_count"], 1);
        let leased = |a: &mut world::Node| a.list("leases").iter().filter(|lease| lease["state"] == "leased").count();
        assert_eq!(leased(a), 2);

        container.kill();
        until("the end of the container is noticed", || a.list("attachments").is_empty());
        until("its addresses rest", || leased(a) == 0);
        assert_eq!(a.list("leases").len(), 2);
        until("its links are gone", || !a.links().iter().any(|link| link.starts_with("veth-")));
        // A pid that is nobody's.
        let reason = a.refused(attach(&container, "web", json!({})));
        assert!(reason.contains("Failed to open the network namespace"), "{reason}");
    });
}

/// What fails leaves nothing: no lease, no link, no record.
#[test]
fn what_cannot_be_attached_leaves_nothing() {
    in_private_machine(|| {
        let mut world = World::build();
        let a = &mut world.a;
        a.service("web", "auto");
        let container = Container::start().unwrap();
        let before = a.links();
        assert!(a.refused(attach(&container, "db", json!({}))).contains("no service bridge for service db"));
        // Somebody else's link has the name inside.
        let netns = container.netns();
        netns.configure(async |netlink| netlink.create_veth("eth0", "other", None).await).unwrap();
        a.refused(attach(&container, "web", json!({})));
        for (field, value) in [
            ("isolation_network", json!("")),
            ("addresses", json!(["10.9.9.9"])),
            ("publish", json!([{"host_port": 0, "container_port": 80}])),
            ("netns", json!("/nowhere")),
            // It has the files of the host.
            ("resolv_conf", json!(true)),
        ] {
            a.refused(attach(&container, "web", json!({field: value})));
        }
        assert_eq!(a.links(), before);
        assert!(a.list("attachments").is_empty());
        assert!(a.list("leases").iter().all(|lease| lease["state"] != "leased"));
        netns.configure(async |netlink| netlink.delete_link_named("eth0").await).unwrap();
        let ip = a.attach(&container, "web", json!({}));
        arrives(&unbound(&world.a.netns), &container.end(ip));
    });
}

/// A kill takes nothing from containers: they stay connected while no daemon runs, and the next one knows them.
#[test]
fn containers_outlive_the_daemon() {
    in_private_machine(|| {
        let mut world = World::build();
        world.a.service("web", "auto");
        world.a.service("job", "isolated");
        let [one, two, fenced, mut gone] = [(); 4].map(|()| Container::start().unwrap());
        let [ip_one, ip_two] =
            [&one, &two].map(|container| world.a.attach(container, "web", json!({"join_global": true})));
        let ip_fenced = world.a.attach(&fenced, "job", json!({"isolation_network": "red"}));
        world.a.attach(&gone, "web", json!({}));
        gone.kill();
        until("its end is noticed", || world.a.list("attachments").len() == 3);
        let gone = Container::start().unwrap();
        world.a.attach(&gone, "web", json!({}));
        let (attachments, leases) = (world.a.list("attachments"), world.a.list("leases"));
        world.a.kill_and_restart();
        assert_eq!((world.a.list("attachments"), world.a.list("leases")), (attachments, leases));
        assert!(reaches(&one.end(ip_one), &two.end(ip_two)));
        assert!(!reaches(&one.end(ip_one), &fenced.end(ip_fenced)));
        // One that ends while nobody looks is let go at the start.
        drop(gone);
        world.a.kill_and_restart();
        assert_eq!(world.a.list("attachments").len(), 3);
        for container in [&one, &two, &fenced] {
            world.a.detach(container);
        }
        assert!(!world.a.links().iter().any(|link| link.starts_with("veth-")), "{:?}", world.a.links());
        assert!(world::links(one.netns()).is_empty());
    });
}

/// The interface of the overlay can be removed by anybody with the rights, and the kernel drops the routes to containers
/// with its address. They come back with it.
#[test]
fn containers_of_the_global_overlay_outlive_its_interface() {
    in_private_machine(|| {
        let mut world = World::build();
        world.a.service("web", "auto");
        world.introduce();
        let container = Container::start().unwrap();
        world.a.attach(&container, "web", json!({"join_global": true}));
        let ip = world.a.list("attachments")[0]["addresses"][1].as_str().unwrap().parse().unwrap();
        let (here, there) = (world.a.end("10.200.5.1"), world.b.end("10.200.9.1"));
        let near = container.end(ip);
        let index = || world.a.netns.configure(async |netlink| netlink.find_link("zl-prod-a-g").await);
        for _ in 0..2 {
            arrives(&here, &near);
            arrives(&there, &near);
            arrives(&near, &there);
            let former = index().unwrap().unwrap().index;
            world.a.netns.configure(async |netlink| netlink.delete_link(former).await).unwrap();
            until("there is another", || index().unwrap().is_some_and(|link| link.index != former && link.up));
        }
        arrives(&there, &near);
    });
}

/// What an administrator or a network manager does to links of ours is noticed and put right; what the daemon does itself is
/// not mistaken for it.
#[test]
fn what_others_do_to_our_links_is_put_right() {
    in_private_machine(|| {
        let mut world = World::build();
        world.a.service("web", "auto");
        world.b.service("web", "auto");
        world.introduce();
        world.introduce_service("pay");
        let [container, guest, other] = [(); 3].map(|()| Container::start().unwrap());
        world.a.attach(&container, "web", json!({"join_global": true}));
        world.a.attach(&guest, "pay", json!({}));
        world.a.attach(&other, "web", json!({}));
        world.a.detach(&other);
        let (veth, routed) = (format!("veth-{}-s", container.pid()), format!("veth-{}-g", container.pid()));
        let ip = world.a.list("attachments")[0]["addresses"][1].as_str().unwrap().parse().unwrap();
        let (near, there) = (container.end(ip), world.b.end("10.200.9.1"));
        arrives(&there, &near);
        const SAYS: &str = "others changed what is ours";
        assert!(!world.a.log().contains(SAYS), "{}", world.a.log());

        let netns = world.a.netns.clone();
        let before = world::shape(&netns);
        let (bridge, tunnel, dedicated) = ("zl-prod-a-web-b", "zl-prod-a-g", "zl-prod-a-pay-d");
        let damages = [
            (tunnel, Damage::Address),
            (tunnel, Damage::Down),
            (tunnel, Damage::Mtu),
            (dedicated, Damage::Address),
            (dedicated, Damage::Routes),
            (bridge, Damage::Address),
            (bridge, Damage::Down),
            (bridge, Damage::Mtu),
            (bridge, Damage::Gone),
            (&veth, Damage::Down),
            (&veth, Damage::Mtu),
            (&veth, Damage::Controller),
            (&routed, Damage::Down),
            (&routed, Damage::Routes),
        ];
        for (number, (link, damage)) in damages.iter().enumerate() {
            damage.inflict(&netns, link);
            let what = format!("{link} is as before {damage:?}: {before:#?}");
            until(&what, || world::shape(&netns) == before && world.a.log().matches(SAYS).count() > number);
        }
        arrives(&there, &near);
        arrives(&near, &there);
    });
}

/// No device has a port that another one is about to ask for, where the kernel chooses among few and all come up at once.
#[test]
fn devices_that_come_back_together_have_their_ports_at_once() {
    in_private_machine(|| {
        let mut world = World::build();
        let range = "/proc/sys/net/ipv4/ip_local_port_range";
        world.a.netns.run_in(|| std::fs::write(range, "51420 51427")).unwrap().unwrap();
        for service in ["pay", "job", "db"] {
            world.a.service(service, "dedicated");
        }
        for _ in 0..5 {
            world.a.kill_and_restart();
            assert_eq!(world.a.links().iter().filter(|link| link.starts_with("zl-prod-a-")).count(), 7);
        }
        assert!(!world.a.log().contains("in use"));
    });
}

/// A port of the host leads to a container, from outside, from the node and from other containers.
#[test]
fn published_ports_lead_to_their_container() {
    in_private_machine(|| {
        let mut world = World::build();
        world.a.service("web", "shared");
        let [server, client] = [(); 2].map(|()| Container::start().unwrap());
        let publish = json!({"publish": [{"host_port": 8080, "container_port": 80}, {"host_port": 5353, "container_port": 53, "protocol": "udp"}]});
        let ip = world.a.attach(&server, "web", publish);
        world.a.attach(&client, "web", json!({}));
        let listener = server.netns().run_in(|| TcpListener::bind(SocketAddr::new(ip, 80))).unwrap().unwrap();
        let udp = server.netns().run_in(|| UdpSocket::bind(SocketAddr::new(ip, 53))).unwrap().unwrap();
        udp.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        for (from, to) in
            [(&world.outside, "203.0.113.1"), (&world.a.netns, "192.0.2.1"), (client.netns(), "203.0.113.1")]
        {
            let to: IpAddr = to.parse().unwrap();
            let connect = || TcpStream::connect_timeout(&SocketAddr::new(to, 8080), Duration::from_secs(20));
            let stream = from.run_in(connect).unwrap().unwrap_or_else(|error| panic!("{to}: {error}"));
            drop((stream, listener.accept().unwrap()));
            let socket = from.run_in(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
            socket.send_to(b"?", SocketAddr::new(to, 5353)).unwrap();
            assert_eq!(udp.recv_from(&mut [0; 8]).unwrap().0, 1);
        }
        world.a.detach(&server);
        let connect = || TcpStream::connect_timeout(&"203.0.113.1:8080".parse().unwrap(), Duration::from_secs(20));
        assert!(world.outside.run_in(connect).unwrap().is_err());
    });
}

/// Services end with their workloads where that was asked, and workloads with their service where it is torn down.
#[test]
fn services_and_their_workloads_end_together() {
    in_private_machine(|| {
        let mut world = World::build();
        let a = &mut world.a;
        let [one, two] = [(); 2].map(|()| Container::start().unwrap());
        a.service("job", "auto");
        for container in [&one, &two] {
            a.attach(container, "job", json!({"ephemeral": true}));
        }
        a.detach(&one);
        assert_eq!(a.list("services").len(), 1);
        a.detach(&two);
        assert!(a.list("services").is_empty());
        assert!(!a.links().contains(&"zl-prod-a-job-b".to_owned()));

        a.service("web", "auto");
        a.attach(&one, "web", json!({"join_global": true}));
        a.answered(json!({"op": "teardown_service_overlay", "service": "web"}));
        assert!(a.list("attachments").is_empty() && a.list("services").is_empty());
        assert!(world::links(one.netns()).is_empty());

        a.service("web", "auto");
        a.attach(&one, "web", json!({}));
        a.answered(json!({"op": "teardown_global_overlay"}));
        assert!(a.list("attachments").is_empty());
        assert_eq!(a.links(), ["isp", "wan"]);
    });
}

/// A guest is told what its own WireGuard needs, the same each time; a workload in the host's namespace has an address.
#[test]
fn guests_and_host_workloads_have_addresses_of_the_slice() {
    in_private_machine(|| {
        let mut world = World::build();
        let a = &mut world.a;
        a.service("web", "auto");
        let handle = json!({"platform": "guest_managed", "id": "vm-1"});
        let request = json!({"op": "attach_container", "handle": handle, "service": "web", "join_global": true, "dns_server": "10.200.5.1", "dns_domain": "overlay"});
        let first = a.answered(request.clone());
        assert_eq!(
            (&first["result"], &first["prefix_len"], &first["listen_port"]),
            (&json!("guest_config"), &json!(28), &json!(51420))
        );
        assert_eq!(first["peers"][0]["endpoint"], "10.200.5.1:51420");
        assert_eq!(a.answered(request), first);
        let peers = a.list("peers");
        assert_eq!(
            (&peers[0]["public_key"], &peers[0]["allowed_ips"][0]),
            (&first["public_key"], &json!(format!("{}/32", first["overlay_ip"].as_str().unwrap())))
        );
        let shared = json!({"platform": "host_shared", "id": "ctr-7"});
        let answer =
            a.answered(json!({"op": "attach_container", "handle": shared, "service": "web", "join_global": false}));
        let ip = answer["ip"].as_str().unwrap().to_owned();
        let bound = |a: &world::Node| a.netns.run_in(|| UdpSocket::bind(format!("{ip}:7000")).is_ok()).unwrap();
        assert!(bound(a));
        a.kill_and_restart();
        assert!(bound(a));
        assert_eq!(a.list("peers").len(), 1);
        for handle in [handle, shared] {
            a.answered(json!({"op": "detach_container", "handle": handle}));
        }
        assert!(!bound(a));
        assert!(a.list("peers").is_empty() && a.list("attachments").is_empty());
    });
}

/// One size of packets from the paths to the peers, on tunnel, bridge and both ends of a container's link; packets of that
/// size pass, bulk and single.
#[test]
fn packets_have_the_size_that_the_path_leaves() {
    in_private_machine(|| {
        for (underlay, size) in [(1_500, 1_420), (1_400, 1_320), (9_000, 8_920)] {
            let mut world = World::build();
            for (netns, name) in [(&world.a.netns, "wan"), (&world.b.netns, "wan")] {
                let resized = netns.configure(async |netlink| {
                    let index = netlink.link(name).await?.index;
                    netlink.set_mtu(index, underlay).await
                });
                resized.unwrap();
            }
            let [one, two] = [(); 2].map(|()| Container::start().unwrap());
            world.a.service("web", "auto");
            world.b.service("web", "auto");
            // One is there before the path is known.
            let ip_one = world.a.attach(&one, "web", json!({"join_global": true}));
            world.introduce();
            let ip_two = world.b.attach(&two, "web", json!({}));
            let mtus = |netns: &Netns| -> Vec<(String, u32)> {
                let links = netns.configure(async |netlink| netlink.links().await).unwrap();
                let ours = links.into_iter().filter(|link| !["lo", "wan", "isp"].contains(&link.name.as_str()));
                ours.map(|link| (link.name, link.mtu)).collect()
            };
            for netns in [&world.a.netns, &world.b.netns, one.netns(), two.netns()] {
                let mtus = mtus(netns);
                assert!(!mtus.is_empty() && mtus.iter().all(|(_, mtu)| *mtu == size), "{mtus:?}");
            }
            let (near, far) = (one.end(ip_one), two.end(ip_two));
            arrives(&near, &far);
            let plan = TcpPlan { streams: 1, amount: Amount::Bytes(5_000_000), verify: true };
            tcp(&near, &far, &plan).unwrap();
            // A datagram of full size: the kernel forbids to fragment what fits its link.
            let server = two.netns().run_in(|| UdpSocket::bind(SocketAddr::new(ip_two, 7_000))).unwrap().unwrap();
            server.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let client = one.netns().run_in(|| UdpSocket::bind(SocketAddr::new(ip_one, 0))).unwrap().unwrap();
            client.send_to(&vec![7; size as usize - 28], SocketAddr::new(ip_two, 7_000)).unwrap();
            assert_eq!(server.recv_from(&mut vec![0; 10_000]).unwrap().0, size as usize - 28);
        }
    });
}

/// A narrow place on the way out is told of by ICMP, and what is too big for it comes in pieces from then on; also for a
/// member of an isolation network, whose address the outside never sees.
#[test]
fn a_narrow_place_outside_is_heard_of() {
    in_private_machine(|| {
        let mut world = World::build();
        let far = world.narrow_place(1_280);
        let [open, fenced] = [(); 2].map(|()| Container::start().unwrap());
        world.a.service("web", "auto");
        world.a.service("job", "isolated");
        world.a.attach(&open, "web", json!({}));
        world.a.attach(&fenced, "job", json!({"isolation_network": "red"}));
        let server = far.run_in(|| UdpSocket::bind("198.51.100.9:7000")).unwrap().unwrap();
        server.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        for (name, container) in [("open", &open), ("fenced", &fenced)] {
            let client = container.netns().run_in(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
            let mut sent = 0;
            until(&format!("something large of the {name} one arrives"), || {
                sent += 1;
                client.send_to(&[7; 1_350], "198.51.100.9:7000").unwrap();
                server.recv_from(&mut [0; 2_000]).is_ok_and(|(bytes, _)| bytes == 1_350)
            });
            assert!(sent > 1, "the first one of the {name} one was too large");
        }
    });
}

/// What a guest is told is all it needs: a second WireGuard device, on a machine that has nothing but a cable to the node,
/// comes up with it and talks with containers, both ways.
#[test]
fn a_guest_comes_up_with_what_it_is_told() {
    in_private_machine(|| {
        let mut world = World::build();
        let container = Container::start().unwrap();
        world.a.service("web", "auto");
        let ip = world.a.attach(&container, "web", json!({}));
        let handle = json!({"platform": "guest_managed", "id": "vm-1"});
        let request = json!({"op": "attach_container", "handle": handle, "service": "web", "join_global": true});
        let config = world.a.answered(request);
        let guest = world::Guest::start(&world.a, &config);
        let end = guest.end();
        arrives(&end, &container.end(ip));
        arrives(&container.end(ip), &end);
        world.a.answered(json!({"op": "detach_container", "handle": handle}));
        assert!(!reaches(&end, &container.end(ip)));
    });
}
