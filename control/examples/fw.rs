use ginnel_control::firewall::*;
use ginnel_control::host::Netns;
fn main() {
    let ns = Netns::create().unwrap();
    ns.bring_lo_up().unwrap();
    ns.run_in(|| {
        let fw = Firewall::start("t").unwrap();
        let mut d = Desired::default();
        d.prefixes.insert("10.200.0.0/16".parse().unwrap());
        d.prefixes.insert("fd00::/48".parse().unwrap());
        d.interfaces.insert("zl-t-g".into(), Role::Tunnel);
        d.interfaces.insert("zl-t-b".into(), Role::Bridge);
        d.containers.insert(
            "c1".into(),
            Container {
                links: vec![
                    ContainerLink::Port { veth: "veth-1-s".into(), bridge: "zl-t-b".into() },
                    ContainerLink::Routed { veth: "veth-1-g".into() },
                ],
                addresses: vec!["10.200.1.2".parse().unwrap(), "fd00::2".parse().unwrap()],
                network: NetworkId::new(7),
            },
        );
        d.members.insert("10.200.9.0/24".parse().unwrap(), NetworkId::new(7).unwrap());
        d.publications.insert(
            Listen { protocol: Protocol::Tcp, socket: "0.0.0.0:80".parse().unwrap() },
            "10.200.1.2:8080".parse().unwrap(),
        );
        d.publications.insert(
            Listen { protocol: Protocol::Udp, socket: "[fd01::1]:53".parse().unwrap() },
            "[fd00::2]:5353".parse().unwrap(),
        );
        d.services.insert(Service { protocol: Protocol::Udp, port: 53, clients: Clients::Overlay });
        match fw.apply(&d) {
            Ok(c) => println!("changed {c}"),
            Err(e) => println!("ERR {e}"),
        }
        match fw.apply(&d) {
            Ok(c) => println!("changed {c}"),
            Err(e) => println!("ERR {e}"),
        }
        let out = std::process::Command::new("nft").args(["list", "ruleset"]).output().unwrap();
        std::fs::write("/tmp/fw/out.nft", &out.stdout).unwrap();
        println!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        println!("{:?} {:?}", fw.health(), fw.drops());
        fw.stop().unwrap();
        let out = std::process::Command::new("nft").args(["list", "ruleset"]).output().unwrap();
        println!("left: {}", String::from_utf8_lossy(&out.stdout));
    })
    .unwrap();
}
