//! How containers leave: detached, dead, replaced, swept up; and what looks like them and stays.

use crate::world::{Host, block_on, bridge_plan, global, ip, links, member, net, owner, reaches, service, traces};
use ginnel_control::attach::wiring::container;
use ginnel_control::attach::{AttachError, Attached, Plan};
use ginnel_control::host::{Change, Endings, Event, LinkChange, Netlink, Netns, Process, RuleInfo, Watch};
use ginnel_control::lab::container::Container;
use ginnel_control::lab::rights_or_skip;
use std::collections::HashSet;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(30);

/// A service of its own, large enough for many, and the node's address for global ones.
async fn ready() -> Host {
    let host = Host::new("a");
    host.bridge("br0", 1420, &["10.200.64.1/22", "fd00:64::1/112"]).await;
    let netlink = host.attacher.netlink();
    let tunnel = netlink.create_veth("tunnel", "far", None).await.unwrap();
    netlink.set_up(tunnel, true).await.unwrap();
    netlink.add_address(tunnel, net("10.200.1.1/16")).await.unwrap();
    host
}

fn plan(of: &Container, number: usize) -> Plan {
    let own = [format!("10.200.64.{}/22", number + 2), format!("fd00:64::{}/112", number + 2)];
    let service = service(of, "br0", 1420, &[&own[0], &own[1]], &["10.200.64.1", "fd00:64::1"]);
    let everywhere = format!("10.200.1.{}", number + 2);
    let global = global(of, &[&everywhere], &["10.200.1.1"], &["10.200.0.0/16"]);
    container(owner(of), Some(&service), Some(&global))
}

fn names(plan: &Plan) -> Vec<String> {
    plan.links.iter().map(|link| link.host_name.clone()).collect()
}

#[test]
fn who_is_detached_is_gone_at_once_and_may_come_back_at_once() {
    if !rights_or_skip() {
        return;
    }
    block_on(async {
        let host = ready().await;
        let of = Container::start().unwrap();
        let plan = plan(&of, 0);
        let before = [traces(&host.netns), traces(of.netns())];
        for _ in 0..20 {
            host.attach(&of, &plan).await;
            let detached = host.attacher.detach(&plan.owner, &names(&plan)).await.unwrap();
            assert_eq!((detached.removed, detached.others), (names(&plan), vec![]));
            assert_eq!((host.links(), links(of.netns())), (vec!["br0".into(), "far".into(), "tunnel".into()], vec![]));
            host.attacher.forget_rules(of.netns()).await.unwrap();
            assert_eq!([traces(&host.netns), traces(of.netns())], before);
        }
        // Once more is no error, nor is it for one who never was.
        for owner in [&*plan.owner, "nobody"] {
            assert_eq!(host.attacher.detach(owner, &names(&plan)).await.unwrap(), Default::default());
        }
    });
}

#[test]
fn what_was_left_in_a_container_is_no_obstacle_and_what_is_anothers_stays() {
    if !rights_or_skip() {
        return;
    }
    block_on(async {
        let host = ready().await;
        let of = Container::start().unwrap();
        let plan = plan(&of, 0);
        // Another instance has a link and a rule in the same container.
        let second = Host::beside(&host.netns, "b");
        second.bridge("br-b", 1420, &["10.9.0.1/24"]).await;
        let mut theirs = member(&of, "br-b", &["10.9.0.2/24"], &[]);
        theirs.links[0].host_name = "veth-b".into();
        theirs.links[0].name = "eth2".into();
        theirs.links[0].rules = vec![RuleInfo { source: ip("10.9.0.2"), table: 7, priority: 7 }];
        second.attach(&of, &theirs).await;
        let rules = || of.netns().configure(async |inside: &Netlink| inside.rules().await).unwrap();
        let before = rules();
        assert_eq!(before, theirs.links[0].rules);

        let attached = host.attach(&of, &plan).await;
        let whole = rules();
        // A daemon that died in between: the link is ours and nobody's, the rules are there.
        for link in &attached.links {
            let change = LinkChange { alias: Some(""), ..LinkChange::default() };
            host.attacher.netlink().change_link(link.host_index, &change).await.unwrap();
        }
        let attached = host.attach(&of, &plan).await;
        assert!(attached.links.iter().all(|link| link.created), "{attached:#?}");
        // Nor is it one where nobody removed them.
        host.attacher.detach(&plan.owner, &names(&plan)).await.unwrap();
        assert_eq!(rules(), whole);
        host.attach(&of, &plan).await;
        assert_eq!(rules(), whole);
        // They stay while the addresses do.
        host.attacher.forget_rules(of.netns()).await.unwrap();
        assert_eq!(rules(), whole);
        host.attacher.detach(&plan.owner, &names(&plan)).await.unwrap();
        host.attacher.forget_rules(of.netns()).await.unwrap();
        assert_eq!(rules(), before);
    });
}

#[test]
fn a_sweep_has_no_bound() {
    if !rights_or_skip() {
        return;
    }
    block_on(async {
        let host = Host::new("a");
        let (netlink, group) = (host.attacher.netlink(), host.attacher.mark().group());
        for number in 0..600 {
            let index = netlink.create_veth(&format!("veth-{number}-s"), &format!("p{number}"), None).await.unwrap();
            netlink.change_link(index, &LinkChange { group: Some(group), ..LinkChange::default() }).await.unwrap();
        }
        assert_eq!(host.attacher.sweep(|_| false).await.unwrap().removed.len(), 600);
        assert_eq!(host.links(), [""; 0]);
    });
}

#[test]
fn many_come_and_go_at_once() {
    if !rights_or_skip() {
        return;
    }
    block_on(async {
        let host = ready().await;
        let before = traces(&host.netns);
        let containers: Vec<_> = (0..16).map(|_| Container::start().unwrap()).collect();
        let plans: Vec<_> = containers.iter().enumerate().map(|(number, of)| plan(of, number)).collect();
        for _ in 0..3 {
            let attaching: Vec<_> = plans
                .iter()
                .zip(&containers)
                .map(|(plan, of)| {
                    let (attacher, plan, netns) = (host.attacher.clone(), plan.clone(), of.netns().clone());
                    tokio::spawn(async move { attacher.attach(&plan, &netns).await.unwrap() })
                })
                .collect();
            let mut indices = HashSet::new();
            for attaching in attaching {
                let attached: Attached = attaching.await.unwrap();
                indices.extend(attached.links.iter().map(|link| link.host_index));
            }
            assert_eq!(indices.len(), 32);
            assert_eq!(host.attacher.ports("br0").await.unwrap().len(), 16);
            for (number, of) in containers.iter().enumerate() {
                reaches(&of.end(ip(&format!("10.200.64.{}", number + 2))), &host.end("10.200.64.1"));
                reaches(&of.end(ip(&format!("10.200.1.{}", number + 2))), &host.end("10.200.1.1"));
            }
            let detaching: Vec<_> = plans
                .iter()
                .map(|plan| {
                    let (attacher, owner, names) = (host.attacher.clone(), plan.owner.clone(), names(plan));
                    tokio::spawn(async move { attacher.detach(&owner, &names).await.unwrap() })
                })
                .collect();
            for detaching in detaching {
                assert_eq!(detaching.await.unwrap().removed.len(), 2);
            }
            assert_eq!(traces(&host.netns), before);
            for of in &containers {
                host.attacher.forget_rules(of.netns()).await.unwrap();
            }
        }
    });
}

#[test]
fn a_container_that_dies_is_noticed_and_its_links_go_by_themselves() {
    if !rights_or_skip() {
        return;
    }
    block_on(async {
        let host = ready().await;
        let endings = Endings::open().unwrap();
        let mut watch = Watch::open(host.attacher.netlink(), host.attacher.mark()).await.unwrap();
        let mut of = Container::start().unwrap();
        let process = Process::open(of.pid()).unwrap();
        let plan = plan(&of, 0);
        let attached = host.attacher.attach(&plan, &process.netns().unwrap()).await.unwrap();
        let mut ending = endings.watch(&process).unwrap();
        of.kill();
        timeout(DEADLINE, ending.reached()).await.unwrap().unwrap();
        // Nobody holds the namespace any more.
        drop(of);
        let mut gone = HashSet::new();
        while gone.len() < 2 {
            if let Event::Link { index, object, change: Change::Gone, .. } =
                timeout(DEADLINE, watch.next()).await.unwrap().unwrap()
            {
                assert!(object.unwrap().starts_with(&plan.owner));
                gone.insert(index);
            }
        }
        assert!(attached.links.iter().all(|link| gone.contains(&link.host_index)));
        assert_eq!(host.attacher.detach(&plan.owner, &names(&plan)).await.unwrap(), Default::default());
        assert_eq!(host.links(), ["br0", "far", "tunnel"]);
    });
}

#[test]
fn a_later_container_with_the_same_number_takes_the_name_and_keeps_it() {
    if !rights_or_skip() {
        return;
    }
    block_on(async {
        let host = ready().await;
        // The links of the first outlive its process, because somebody holds its namespace.
        let (first, second) = (Container::start().unwrap(), Container::start().unwrap());
        let old = plan(&first, 0);
        host.attach(&first, &old).await;
        let mut new = plan(&second, 1);
        new.owner = "a-later-one".into();
        new.links.iter_mut().zip(&old.links).for_each(|(new, old)| new.host_name = old.host_name.clone());
        let attached = host.attach(&second, &new).await;
        assert!(attached.links.iter().all(|link| link.created));
        assert_eq!((links(first.netns()), links(second.netns())), (vec![], vec!["eth0".into(), "eth1".into()]));
        // Whoever still has to detach the first does not harm the second.
        let detached = host.attacher.detach(&old.owner, &names(&old)).await.unwrap();
        assert_eq!((detached.removed, detached.others), (vec![], names(&new)));
        assert_eq!(links(second.netns()), ["eth0", "eth1"]);
        let (one, host_end) = (second.end(ip("10.200.64.3")), host.end("10.200.64.1"));
        tokio::task::spawn_blocking(move || reaches(&one, &host_end)).await.unwrap();
    });
}

#[test]
fn a_namespace_is_found_by_process_by_path_and_by_descriptor() {
    if !rights_or_skip() {
        return;
    }
    block_on(async {
        let host = ready().await;
        let of = Container::start().unwrap();
        let path = format!("/proc/{}/ns/net", of.pid());
        let ways = [
            Process::open(of.pid()).unwrap().netns().unwrap(),
            Netns::at_path(path.as_ref()).unwrap(),
            Netns::try_from(OwnedFd::from(File::open(&path).unwrap())).unwrap(),
        ];
        let plan = plan(&of, 0);
        for (number, netns) in ways.iter().enumerate() {
            let attached = host.attacher.attach(&plan, netns).await.unwrap();
            assert!(attached.links.iter().all(|link| link.created == (number == 0)), "{attached:#?}");
        }
        // Another kind of namespace looks the same until it is entered.
        let other = Netns::at_path(format!("/proc/{}/ns/uts", of.pid()).as_ref()).unwrap();
        assert!(matches!(host.attacher.attach(&plan, &other).await, Err(AttachError::Host(_))));
        host.attach(&of, &plan).await;
    });
}

#[test]
fn a_sweep_takes_what_is_ours_and_unwanted_and_nothing_that_looks_like_it() {
    if !rights_or_skip() {
        return;
    }
    block_on(async {
        let host = ready().await;
        let (netlink, mark) = (host.attacher.netlink(), host.attacher.mark());
        let (wanted, orphan) = (Container::start().unwrap(), Container::start().unwrap());
        for (number, of) in [&wanted, &orphan].into_iter().enumerate() {
            host.attach(of, &plan(of, number)).await;
        }
        host.bridge("zl-idle-b", 1420, &["10.201.0.1/24"]).await;
        host.bridge("zl-busy-b", 1420, &["10.202.0.1/24"]).await;
        // An administrator's: names of our patterns without a living process, marks nearly ours, a port at our bridge.
        let group = LinkChange { group: Some(mark.group() ^ 1), ..LinkChange::default() };
        let near =
            [format!("{}x", mark.alias("x").unwrap().replace(":a:", ":ab:")), "ginnel".into(), "ginnel:a".into()];
        for (number, name) in ["veth-999-lan", "veth-4000000-s", "vc-1-s", "zl-x-d"].into_iter().enumerate() {
            let index = netlink.create_veth(name, &format!("p{number}"), None).await.unwrap();
            netlink.change_link(index, &group).await.unwrap();
            if let Some(alias) = near.get(number) {
                netlink.change_link(index, &LinkChange { alias: Some(alias), ..LinkChange::default() }).await.unwrap();
            }
        }
        netlink.create_bridge("zl-x-b").await.unwrap();
        let busy = netlink.link("zl-busy-b").await.unwrap().index;
        let port = netlink.create_veth("guest0", "guest1", None).await.unwrap();
        netlink.change_link(port, &LinkChange { controller: Some(busy), ..LinkChange::default() }).await.unwrap();
        // Ours, left between two requests by a crash.
        let half = netlink.create_veth("veth-5-s", "gone0", None).await.unwrap();
        let change = LinkChange { group: Some(mark.group()), ..LinkChange::default() };
        netlink.change_link(half, &change).await.unwrap();

        let foreign = |host: &Host| -> Vec<String> {
            let ours = ["veth-5-s", "gone0", "zl-idle-b"].map(String::from);
            let theirs = |name: &String| !ours.contains(name) && !name.ends_with(&format!("-{}-s", orphan.pid()));
            host.links()
                .into_iter()
                .filter(theirs)
                .filter(|name| !name.ends_with(&format!("-{}-g", orphan.pid())))
                .collect()
        };
        let before = foreign(&host);
        let swept =
            host.attacher.sweep(|found| found.owner() == Some(&owner(&wanted)) || found.name == "br0").await.unwrap();
        let removed: HashSet<_> = swept.removed.into_iter().collect();
        let mut expected: HashSet<_> = names(&plan(&orphan, 1)).into_iter().collect();
        expected.extend(["veth-5-s".into(), "zl-idle-b".into()]);
        assert_eq!(removed, expected);
        assert_eq!(swept.in_use, ["zl-busy-b"]);
        assert_eq!(host.links(), before);
        assert_eq!((links(orphan.netns()), links(wanted.netns())), (vec![], vec!["eth0".into(), "eth1".into()]));

        let error = host.attacher.remove_bridge("zl-busy-b", "service:zl-busy-b").await.unwrap_err();
        assert!(matches!(&error, AttachError::BridgeInUse { ports, .. } if *ports == ["guest0"]), "{error}");
        assert!(host.attacher.remove_bridge("zl-x-b", "service:zl-x-b").await.is_err());
        assert!(!host.attacher.remove_bridge("zl-idle-b", "service:zl-idle-b").await.unwrap());
        netlink.delete_link(port).await.unwrap();
        assert!(host.attacher.remove_bridge("zl-busy-b", "service:zl-busy-b").await.unwrap());
    });
}

#[test]
fn links_that_stood_before_a_restart_are_taken_up_again() {
    if !rights_or_skip() {
        return;
    }
    let of = Container::start().unwrap();
    let host = block_on(async {
        let host = ready().await;
        host.attach(&of, &plan(&of, 0)).await;
        // The next daemon on this host.
        let host = Host::beside(&host.netns, "a");
        let before = [traces(&host.netns), traces(of.netns())];
        let bridge = bridge_plan("br0", 1420, &["10.200.64.1/22", "fd00:64::1/112"]);
        let bridge = host.attacher.ensure_bridge(&bridge).await.unwrap();
        assert!(!bridge.created && !bridge.repaired);
        let attached = host.attach(&of, &plan(&of, 0)).await;
        assert!(attached.links.iter().all(|link| !link.created && link.repaired.is_empty()), "{attached:#?}");
        assert_eq!([traces(&host.netns), traces(of.netns())], before);
        // Meanwhile somebody took the bridge; the port is put back on the new one.
        let netlink = host.attacher.netlink();
        netlink.delete_link(bridge.index).await.unwrap();
        host.bridge("br0", 1420, &["10.200.64.1/22", "fd00:64::1/112"]).await;
        let attached = host.attach(&of, &plan(&of, 0)).await;
        assert!(attached.links.iter().all(|link| !link.created), "{attached:#?}");
        host
    });
    reaches(&of.end(ip("fd00:64::2")), &host.end("fd00:64::1"));
    reaches(&of.end(ip("10.200.1.2")), &host.end("10.200.1.1"));
}

#[test]
fn whatever_the_container_made_of_its_end_it_goes_with_the_hosts() {
    if !rights_or_skip() {
        return;
    }
    block_on(async {
        let host = ready().await;
        let of = Container::start().unwrap();
        let elsewhere = Netns::create().unwrap();
        let plan = member(&of, "br0", &["10.200.64.2/22"], &["10.200.64.1"]);
        for moved in [false, true] {
            host.attach(&of, &plan).await;
            let spoil = async |inside: &Netlink| {
                let index = inside.link("eth0").await?.index;
                inside.set_up(index, false).await?;
                inside.change_link(index, &LinkChange { name: Some("lan0"), ..LinkChange::default() }).await?;
                if moved { inside.move_link(index, elsewhere.as_fd()).await } else { Ok(()) }
            };
            of.netns().configure(spoil).unwrap();
            let detached = host.attacher.detach(&plan.owner, &names(&plan)).await.unwrap();
            assert_eq!(detached.removed, names(&plan));
            assert_eq!((links(of.netns()), links(&elsewhere)), (vec![], vec![]));
        }
    });
}
