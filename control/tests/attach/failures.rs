//! Why attachments really fail, and that nothing is left of them then.

use crate::world::{Host, block_on, bridge_plan, global, ip, links, member, net, owner, reaches, service, traces};
use ginnel_control::attach::wiring::container;
use ginnel_control::attach::{AttachError, BridgePlan, Plan};
use ginnel_control::host::{HostError, LinkChange, Netlink, Netns, Process, RouteInfo};
use ginnel_control::lab::container::Container;
use ginnel_control::lab::rights_or_skip;

const ADDRESSES: [&str; 2] = ["10.200.5.2/26", "fd00:5::2/120"];
const GATEWAYS: [&str; 2] = ["10.200.5.1", "fd00:5::1"];

/// A host with a bridge, and a container with a plan for both of its links.
async fn ready() -> (Host, Container, Plan) {
    let host = Host::new("a");
    host.bridge("br0", 1420, &["10.200.5.1/26", "fd00:5::1/120"]).await;
    let of = Container::start().unwrap();
    let netlink = host.attacher.netlink();
    let tunnel = netlink.create_veth("tunnel", "far", None).await.unwrap();
    netlink.set_up(tunnel, true).await.unwrap();
    netlink.add_address(tunnel, net("10.200.1.1/16")).await.unwrap();
    let service = service(&of, "br0", 1420, &ADDRESSES, &GATEWAYS);
    let global = global(&of, &["10.200.1.2"], &["10.200.1.1"], &["10.200.0.0/16"]);
    let plan = container(owner(&of), Some(&service), Some(&global));
    (host, of, plan)
}

/// Attaches, and sees that a failure changes nothing on either side.
async fn fails(host: &Host, netns: &Netns, plan: &Plan) -> AttachError {
    let before = [traces(&host.netns), traces(netns)];
    let error = host.attacher.attach(plan, netns).await.unwrap_err();
    assert_eq!([traces(&host.netns), traces(netns)], before, "{error}");
    error
}

#[test]
fn a_name_that_is_taken_stays_with_its_holder() {
    if !rights_or_skip() {
        return;
    }
    block_on(async {
        let (host, of, plan) = ready().await;
        let netlink = host.attacher.netlink();
        for name in [&plan.links[0].host_name, &plan.links[1].host_name] {
            // An administrator's, with and without a word about it.
            let index = netlink.create_veth(name, "theirs", None).await.unwrap();
            for alias in ["", "uplink", "ginnel:b:x/eth0"] {
                let change = LinkChange { alias: Some(alias), up: Some(true), ..LinkChange::default() };
                netlink.change_link(index, &change).await.unwrap();
                let error = fails(&host, of.netns(), &plan).await;
                assert!(matches!(&error, AttachError::Host(HostError::Foreign { .. })), "{error}");
                assert!(error.to_string().contains(name.as_str()), "{error}");
            }
            netlink.delete_link(index).await.unwrap();
        }
        for name in ["eth0", "eth1"] {
            let make = async |inside: &Netlink| inside.create_veth(name, "theirs", None).await;
            let index = of.netns().configure(make).unwrap();
            let error = fails(&host, of.netns(), &plan).await;
            assert!(matches!(&error, AttachError::Host(HostError::Exists { .. })), "{error}");
            assert!(error.to_string().contains(name), "{error}");
            of.netns().configure(async |inside: &Netlink| inside.delete_link(index).await).unwrap();
        }
        // A default route of the container's own.
        let make = async |inside: &Netlink| {
            let index = inside.create_veth("own0", "theirs", None).await?;
            inside.set_up(index, true).await?;
            inside.add_route(&RouteInfo::new(net("0.0.0.0/0"), index)).await?;
            Ok(index)
        };
        let index = of.netns().configure(make).unwrap();
        let error = fails(&host, of.netns(), &plan).await;
        assert!(error.to_string().contains("0.0.0.0/0"), "{error}");
        of.netns().configure(async |inside: &Netlink| inside.delete_link(index).await).unwrap();
        host.attach(&of, &plan).await;
    });
}

#[test]
fn a_bridge_has_to_be_there_and_ours() {
    if !rights_or_skip() {
        return;
    }
    block_on(async {
        let (host, of, plan) = ready().await;
        let netlink = host.attacher.netlink();
        let index = netlink.link("br0").await.unwrap().index;
        netlink.delete_link(index).await.unwrap();
        let error = fails(&host, of.netns(), &plan).await;
        assert!(matches!(&error, AttachError::NoBridge { name } if name == "br0"), "{error}");
        // Neither an administrator's bridge nor another kind of link is taken over, not even with our mark.
        let alias = host.attacher.mark().alias("service:br0").unwrap();
        for (bridge, marked) in [(true, false), (false, false), (false, true)] {
            let index = match bridge {
                true => netlink.create_bridge("br0").await.unwrap(),
                false => netlink.create_veth("br0", "theirs", None).await.unwrap(),
            };
            let change = LinkChange { alias: marked.then_some(&*alias), up: Some(true), ..LinkChange::default() };
            netlink.change_link(index, &change).await.unwrap();
            netlink.add_address(index, net("192.0.2.7/24")).await.unwrap();
            let error = fails(&host, of.netns(), &plan).await;
            assert!(matches!(&error, AttachError::Host(HostError::Foreign { .. })), "{error}");
            let before = traces(&host.netns);
            let error = host.attacher.ensure_bridge(&bridge_plan("br0", 1400, &["10.200.5.1/26"])).await.unwrap_err();
            assert!(matches!(&error, AttachError::Host(HostError::Foreign { .. })), "{error}");
            assert!(host.attacher.remove_bridge("br0", "service:br0").await.is_err());
            assert_eq!(traces(&host.netns), before);
            netlink.delete_link(index).await.unwrap();
        }
    });
}

#[test]
fn two_services_whose_names_meet_do_not_share_a_bridge() {
    if !rights_or_skip() {
        return;
    }
    block_on(async {
        let (host, of, plan) = ready().await;
        host.attach(&of, &plan).await;
        let before = traces(&host.netns);
        let other = BridgePlan { object: "service:other".into(), ..bridge_plan("br0", 1400, &["10.200.9.1/26"]) };
        let refusals = [
            host.attacher.ensure_bridge(&other).await.unwrap_err(),
            host.attacher.remove_bridge("br0", &other.object).await.unwrap_err(),
        ];
        for error in refusals {
            assert!(matches!(&error, AttachError::OtherBridge { object, .. } if object == "service:br0"), "{error}");
        }
        assert_eq!(traces(&host.netns), before);
    });
}

#[test]
fn a_bridge_that_goes_meanwhile_is_noticed() {
    if !rights_or_skip() {
        return;
    }
    block_on(async {
        let host = Host::new("a");
        let of = Container::start().unwrap();
        let plan = member(&of, "br0", &ADDRESSES, &GATEWAYS);
        let bridge = bridge_plan("br0", 1420, &["10.200.5.1/26", "fd00:5::1/120"]);
        let (mut whole, mut failed) = (0, 0);
        for _ in 0..60 {
            let index = host.attacher.ensure_bridge(&bridge).await.unwrap().index;
            let netlink = Netlink::open_in(&host.netns, 1).unwrap();
            let deleted = tokio::spawn(async move { netlink.delete_link(index).await });
            let attached = host.attacher.attach(&plan, of.netns()).await;
            deleted.await.unwrap().unwrap();
            match attached {
                Ok(attached) => {
                    whole += 1;
                    assert_eq!(links(of.netns()), ["eth0"]);
                    let names = [attached.links[0].host_name.clone()];
                    assert_eq!(host.attacher.detach(&plan.owner, &names).await.unwrap().removed, names);
                }
                Err(_) => failed += 1,
            }
            assert_eq!((host.links(), links(of.netns())), (vec![], vec![]));
        }
        println!("{whole} were attached before the bridge went, {failed} were not");
    });
}

#[test]
fn a_container_needs_a_namespace_of_its_own() {
    if !rights_or_skip() {
        return;
    }
    block_on(async {
        let (host, mut of, plan) = ready().await;
        let error = fails(&host, &host.netns, &plan).await;
        assert!(matches!(error, AttachError::HostNamespace), "{error}");
        let process = Process::open(of.pid()).unwrap();
        let held = process.netns().unwrap();
        of.kill();
        assert!(process.netns().unwrap_err().is_not_found());
        // A namespace that is held can still be attached to, and does not keep the process.
        host.attacher.attach(&plan, &held).await.unwrap();
    });
}

#[test]
fn the_container_of_another_is_not_taken_over() {
    if !rights_or_skip() {
        return;
    }
    block_on(async {
        let (host, of, plan) = ready().await;
        host.attach(&of, &plan).await;
        let other = Plan { owner: "somebody-else".into(), ..plan.clone() };
        let error = fails(&host, of.netns(), &other).await;
        assert!(matches!(&error, AttachError::OtherOwner { owner, .. } if *owner == plan.owner), "{error}");
        // The owner may ask as often as he likes.
        let before = [traces(&host.netns), traces(of.netns())];
        for _ in 0..3 {
            let attached = host.attach(&of, &plan).await;
            assert!(attached.links.iter().all(|link| !link.created && link.repaired.is_empty()), "{attached:#?}");
        }
        assert_eq!([traces(&host.netns), traces(of.netns())], before);
    });
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_made() {
    if !rights_or_skip() {
        return;
    }
    block_on(async {
        let (host, of, good) = ready().await;
        let spoil = |change: &dyn Fn(&mut Plan)| {
            let mut plan = good.clone();
            change(&mut plan);
            plan
        };
        for (plan, reason) in [
            (spoil(&|plan| plan.links.clear()), "0 links"),
            (spoil(&|plan| plan.links = vec![plan.links[0].clone(); 5]), "5 links"),
            (spoil(&|plan| plan.links[1].name = "eth0".into()), "one name"),
            (spoil(&|plan| plan.links[1].host_name = plan.links[0].host_name.clone()), "one name"),
            (spoil(&|plan| plan.links[0].host_name = "veth-1234567-service".into()), "interface name"),
            (spoil(&|plan| plan.links[0].name = "eth/0".into()), "interface name"),
            (spoil(&|plan| plan.links[0].mtu = 1279), "MTU 1279"),
            (spoil(&|plan| plan.links[1].mtu = 67), "MTU 67"),
            (spoil(&|plan| plan.links[0].mtu = 65_536), "MTU 65536"),
            (spoil(&|plan| plan.links[0].addresses.clear()), "no address"),
            (spoil(&|plan| plan.links[0].mac[0] = 1), "link-layer address"),
            (spoil(&|plan| plan.links[0].mac = [0; 6]), "link-layer address"),
            (spoil(&|plan| plan.links[0].neighbours = vec![ip("10.0.0.1"); 65]), "more than 64"),
            (spoil(&|plan| plan.owner = "x".repeat(250)), "cannot mark a link"),
            (spoil(&|plan| plan.owner = "a\nb".into()), "cannot mark a link"),
        ] {
            let error = fails(&host, of.netns(), &plan).await;
            assert!(matches!(&error, AttachError::Plan { .. }), "{error}");
            assert!(error.to_string().contains(reason), "{error}");
        }
        host.attach(&of, &good).await;
        let good = bridge_plan("br1", 1420, &["10.200.6.1/26", "fd00:6::1/120"]);
        for (plan, reason) in [
            (BridgePlan { name: "a-bridge-too-far".into(), ..good.clone() }, "interface name"),
            (BridgePlan { object: String::new(), ..good.clone() }, "cannot mark a link"),
            (BridgePlan { mtu: 1279, ..good.clone() }, "MTU 1279"),
            (BridgePlan { mac: [0xff; 6], ..good.clone() }, "link-layer address"),
        ] {
            let before = traces(&host.netns);
            let error = host.attacher.ensure_bridge(&plan).await.unwrap_err();
            assert!(matches!(&error, AttachError::Plan { .. }) && error.to_string().contains(reason), "{error}");
            assert_eq!(traces(&host.netns), before);
        }
    });
}

#[test]
fn a_failed_attachment_can_be_tried_again() {
    if !rights_or_skip() {
        return;
    }
    let (host, of) = block_on(async {
        let (host, of, plan) = ready().await;
        let netlink = host.attacher.netlink();
        for _ in 0..3 {
            let theirs = netlink.create_veth(&plan.links[1].host_name, "theirs", None).await.unwrap();
            fails(&host, of.netns(), &plan).await;
            netlink.delete_link(theirs).await.unwrap();
        }
        host.attach(&of, &plan).await;
        (host, of)
    });
    reaches(&of.end(ip("10.200.5.2")), &host.end("10.200.5.1"));
    reaches(&of.end(ip("10.200.1.2")), &host.end("10.200.1.1"));
}
