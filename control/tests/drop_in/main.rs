//! The daemon as it is installed: the program itself, under either of its names, on a machine of its own, driven with
//! frames written by hand. What it answers, what it does to the host, and what is left of it when it ends or is killed.

#[path = "../common/mod.rs"]
mod common;
mod service;

use common::machine::{Daemon, ask_kernel, in_private_machine, installed_as, link};
use common::wire::Wire;
use common::{GINNEL, until};
use ginnel_control::host::LinkKind;
use nix::mount::{MsFlags, mount};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

const NAME: &str = "zl-prod-0-g";
const SOCKET: &str = "/var/run/zlayer-overlayd.sock";
const UAPI_SOCKET: &str = "/var/run/wireguard/zl-prod-0-g.sock";
const KEY_FILE: &str = "/var/lib/zlayer/overlayd/private.key";
const MARKER: &str = "/var/lib/zlayer/agent_network.json";
const PEER: &str = "CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=";
const OK: &str = r#"{"result":"ok"}"#;
const SET_UP: &str = r#"{"op":"setup_global_overlay","deployment":"prod","instance_id":"0","cluster_cidr":"10.200.0.0/16","slice_cidr":"10.200.5.0/28","wg_port":51420,"host_adapter_mandatory":false,"nat":{"enabled":false}}"#;
const IS_UP: &str = r#"{"result":"bridge_name","name":"zl-prod-0-g"}"#;
const ADD_PEER: &str = r#"{"op":"add_peer","public_key":"CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=","endpoint":"192.0.2.50:51420","allowed_ips":"10.200.9.0/28","persistent_keepalive_secs":25,"candidates":[{"candidate_type":"host","address":"192.168.1.5:51420","priority":100}],"scope":{"scope":"global"}}"#;

fn mode(path: &str) -> u32 {
    fs::metadata(path).unwrap_or_else(|error| panic!("{path}: {error}")).permissions().mode() & 0o7777
}

fn is_socket(path: &str) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
}

/// The addresses of an interface with the prefix length, IPv4 only.
fn addresses(name: &str) -> Vec<String> {
    let index = link(name).map_or(0, |link| link.index);
    let all = ask_kernel(async |netlink| netlink.addresses(index).await);
    all.into_iter().filter(|address| address.addr().is_ipv4()).map(|address| address.to_string()).collect()
}

/// The output of wg(8), if that is installed.
fn wg(arguments: &str) -> Option<String> {
    let program = Path::new("/usr/bin/wg");
    if !program.exists() {
        println!("not looked at with wg: it is not installed");
        return None;
    }
    let output = Command::new(program).args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "wg {arguments}: {output:?}");
    Some(String::from_utf8(output.stdout).unwrap())
}

fn ginnel(args: &[&str]) -> Output {
    let mut command = Command::new(GINNEL);
    for variable in ["ZLAYER_DATA_DIR", "GINNEL_SOCKET", "GINNEL_DATA_DIR"] {
        command.env_remove(variable);
    }
    command.args(args).output().unwrap()
}

#[test]
fn every_operation_is_answered_as_the_contract_says() {
    in_private_machine(|| {
        let mut daemon = Daemon::start(&installed_as("zlayer-overlayd"), &[]);
        let mut wire = Wire::connect(SOCKET);
        assert_eq!(mode(SOCKET), 0o660);
        let fresh = wire.ask(r#"{"op":"status"}"#);
        let published = r#"{"result":"status","overlay_cidr":"10.200.0.0/16","peer_count":0,"service_count":0,"#;
        assert!(fresh.starts_with(published), "{fresh}");

        assert_eq!(wire.ask(r#"{"op":"set_local_node_id","node_id":7}"#), OK);
        let key = r#"{"op":"set_local_wg_pubkey","pubkey":"4AElotbq1WFIQS1gXC08H4KIZU0ufarA+N6/FDl3elI="}"#;
        assert_eq!(wire.ask(key), OK);
        assert_eq!(wire.ask(SET_UP), IS_UP);
        let found = link(NAME).unwrap();
        assert_eq!((found.up, found.mtu), (true, 1420));
        assert_eq!(addresses(NAME), ["10.200.5.1/16"]);
        assert_eq!((mode(KEY_FILE), mode("/var/lib/zlayer/overlayd")), (0o600, 0o700));

        assert_eq!(wire.ask(ADD_PEER), OK);
        let prefix =
            |op| format!(r#"{{"op":"{op}","pubkey":"{PEER}","cidr":"10.200.10.0/26","scope":{{"scope":"global"}}}}"#);
        assert_eq!(wire.ask(&prefix("add_allowed_ip")), OK);
        let status = wire.status();
        assert_eq!(status["interface"], NAME);
        assert_eq!((&status["node_ip"], &status["node_id"]), (&json!("10.200.5.1"), &json!(7)));
        assert_eq!((&status["slice_cidr"], &status["peer_count"]), (&json!("10.200.5.0/28"), &json!(1)));
        assert_eq!(
            status["peers"],
            json!([{"public_key": "09".repeat(32), "endpoint": "192.0.2.50:51420",
                "allowed_ips": "10.200.9.0/28,10.200.10.0/26", "last_handshake_unix_secs": 0, "rx_bytes": 0,
                "tx_bytes": status["peers"][0]["tx_bytes"]}])
        );
        assert_eq!(wire.ask(&prefix("remove_allowed_ip")), OK);
        assert_eq!(wire.status()["peers"][0]["allowed_ips"], "10.200.9.0/28");
        let elsewhere =
            format!(r#"{{"op":"remove_peer","pubkey":"{PEER}","scope":{{"scope":"service","service":"pay"}}}}"#);
        let no_service = r#"{"result":"err","message":"no dedicated overlay for service pay","code":"not_found"}"#;
        assert_eq!(wire.ask(&elsewhere), no_service);
        assert_eq!(wire.ask(&format!(r#"{{"op":"remove_peer","pubkey":"{PEER}"}}"#)), OK);
        assert_eq!(wire.status()["peer_count"], 0);
        assert_eq!(wire.ask(r#"{"op":"nat_status"}"#), r#"{"result":"nat_status","last_refresh":0}"#);

        let service =
            |name: &str, mode| format!(r#"{{"op":"setup_service_overlay","service":"{name}","mode":"{mode}"}}"#);
        let is_up = r#"{"result":"service_overlay","name":"zl-prod-0-web-b","mode":"auto"}"#;
        wire.ask(r#"{"op":"set_local_node_id","node_id":0}"#);
        assert_eq!(wire.ask(&service("web", "auto")), is_up);
        let allocate = r#"{"op":"allocate_ip","service":"web","join_global":false}"#;
        assert_eq!(wire.ask(allocate), r#"{"result":"ip","ip":"10.200.187.130"}"#);
        assert_eq!(wire.ask(r#"{"op":"release_ip","ip":"10.200.187.130"}"#), OK);
        let bridge = link("zl-prod-0-web-b").unwrap();
        assert_eq!((bridge.kind, bridge.up, bridge.mtu), (Some(LinkKind::Bridge), true, 1420));
        assert_eq!(addresses("zl-prod-0-web-b"), ["10.200.187.129/26"]);
        let dedicated: Value = serde_json::from_str(&wire.ask(&service("pay", "dedicated"))).unwrap();
        assert_eq!(dedicated["wg_port"], 51421);
        assert_eq!(addresses("zl-prod-0-pay-d"), ["10.200.141.129/32"]);
        assert_eq!(mode(MARKER), 0o600);
        let marker: Value = serde_json::from_slice(&fs::read(MARKER).unwrap()).unwrap();
        assert_eq!(marker["networks"][0]["wg_public_key"], dedicated["wg_public_key"]);
        for name in ["web", "pay"] {
            assert_eq!(wire.ask(&format!(r#"{{"op":"teardown_service_overlay","service":"{name}"}}"#)), OK);
        }
        for name in ["zl-prod-0-web-b", "zl-prod-0-pay-b", "zl-prod-0-pay-d"] {
            assert_eq!(link(name), None);
        }
        assert_eq!(wire.ask(r#"{"op":"register_dns","name":"web.prod.local","ip":"10.200.187.130"}"#), OK);
        assert_eq!(wire.ask(r#"{"op":"unregister_dns","name":"web.prod.local"}"#), OK);

        assert_eq!(wire.ask(r#"{"op":"detach_container","handle":{"platform":"linux_pid","pid":4242}}"#), OK);
        assert_eq!(wire.ask(r#"{"op":"nat_tick"}"#), OK);
        assert_eq!(wire.ask(&service("web", "auto")), is_up);
        let prune = |live: &str| format!(r#"{{"op":"prune_orphan_bridges","live_bridge_names":[{live}]}}"#);
        let pruned = |names: &str| format!(r#"{{"result":"pruned_bridges","reclaimed":[{names}]}}"#);
        assert_eq!(wire.ask(&prune(r#""zl-prod-0-web-b""#)), pruned(""));
        assert_eq!(wire.ask(&prune("")), pruned(r#""zl-prod-0-web-b""#));
        assert_eq!(link("zl-prod-0-web-b"), None);

        // What cannot be, or is of another system, is refused by name, and the connection goes on.
        for request in [
            r#"{"op":"attach_container","handle":{"platform":"linux_pid","pid":4242},"service":"web","join_global":true}"#,
            r#"{"op":"write_scoped_resolver","zone":"prod.local","node_ip":"10.200.5.1","port":15353}"#,
            r#"{"op":"remove_scoped_resolver","zone":"prod.local"}"#,
            r#"{"op":"of_a_later_version"}"#,
        ] {
            let answer: Value = serde_json::from_str(&wire.ask(request)).unwrap();
            assert_eq!(answer["result"], "err", "{request}");
            assert!(answer["message"].as_str().is_some_and(|message| !message.is_empty()));
        }

        assert_eq!(wire.ask(r#"{"op":"teardown_global_overlay"}"#), OK);
        assert_eq!(link(NAME), None);
        assert!(wire.status().get("interface").is_none());
        assert_eq!(wire.ask(SET_UP), IS_UP);
        assert_eq!(wire.ask(r#"{"op":"shutdown"}"#), OK);
        assert!(wire.receive().is_none());
        assert!(daemon.end().0.success());
        assert_eq!(link(NAME), None);
        assert!(!Path::new(SOCKET).exists() && !Path::new(UAPI_SOCKET).exists());
    });
}

#[test]
fn a_killed_daemon_leaves_nothing_that_hinders_the_next() {
    in_private_machine(|| {
        let program = installed_as("zlayer-overlayd");
        let mut killed = Daemon::start(&program, &[]);
        let mut wire = Wire::connect(SOCKET);
        assert_eq!(wire.ask(SET_UP), IS_UP);
        let key = wire.status()["public_key"].clone();
        let boot = wire.status()["boot_id"].clone();
        killed.signal(Signal::SIGKILL);
        killed.end();
        assert!(is_socket(SOCKET) && is_socket(UAPI_SOCKET), "nobody could tidy up");
        until("the kernel removes the interface", || link(NAME).is_none());

        let next = Daemon::start(&program, &[]);
        until("the next one is ready", || next.log().contains("ready"));
        let mut wire = Wire::connect(SOCKET);
        // It is up again before anybody asks, and to ask changes nothing.
        assert!(link(NAME).is_some_and(|link| link.up));
        assert_eq!(wire.status()["public_key"], key);
        assert_eq!(wire.ask(SET_UP), IS_UP);
        assert_eq!(wire.status()["public_key"], key);
        assert_ne!(wire.status()["boot_id"], boot);
        assert_eq!(wg("show interfaces").unwrap_or(format!("{NAME}\n")), format!("{NAME}\n"));
    });
}

#[test]
fn signals_end_it_within_seconds_and_nothing_stays() {
    in_private_machine(|| {
        for (round, signal) in [Signal::SIGTERM, Signal::SIGINT].into_iter().enumerate() {
            let mut daemon = Daemon::start(&installed_as("zlayer-overlayd"), &[]);
            let mut wire = Wire::connect(SOCKET);
            // What a signal took away the next start makes again.
            assert_eq!(wire.status().get("interface").is_some(), round > 0);
            assert_eq!(wire.ask(SET_UP), IS_UP);
            assert!(is_socket(UAPI_SOCKET));
            daemon.signal(signal);
            let (status, time) = daemon.end();
            assert!(status.success() && time < Duration::from_secs(5), "{status} after {time:?}");
            assert_eq!(link(NAME), None);
            assert!(!Path::new(SOCKET).exists() && !Path::new(UAPI_SOCKET).exists());
            assert!(!daemon.log().contains("making it again"), "{}", daemon.log());
        }
    });
}

#[test]
fn a_full_disk_refuses_changes_and_the_daemon_lives() {
    in_private_machine(|| {
        // Room for a journal and not much more.
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        fs::create_dir_all("/var/lib/zlayer").unwrap();
        mount(Some("tmpfs"), "/var/lib/zlayer", Some("tmpfs"), flags, Some("size=256k")).unwrap();
        let _daemon = Daemon::start(&installed_as("zlayer-overlayd"), &[]);
        let mut wire = Wire::connect(SOCKET);
        assert_eq!(wire.ask(SET_UP), IS_UP);
        assert_eq!(wire.ask(ADD_PEER), OK);
        let before = wire.status();
        let filler = "/var/lib/zlayer/filler";
        let mut file = fs::File::create(filler).unwrap();
        while file.write_all(&[0; 512]).is_ok() {}
        drop(file);
        let mut refused = 0;
        for number in 0..64 {
            let answer =
                wire.ask(&format!(r#"{{"op":"register_dns","name":"n{number}.prod.local","ip":"10.200.5.9"}}"#));
            refused += usize::from(answer.contains("cannot be stored") && answer.contains("No space left on device"));
        }
        assert!(refused > 0);
        let teardown = wire.ask(r#"{"op":"teardown_global_overlay"}"#);
        assert!(teardown.contains("cannot be stored"), "{teardown}");
        // It goes on asking for a handshake, which counts.
        let asked = |status: &Value| {
            let fields = ["public_key", "endpoint", "allowed_ips"];
            status["peers"]
                .as_array()
                .unwrap()
                .iter()
                .map(|peer| fields.map(|name| peer[name].clone()))
                .collect::<Vec<_>>()
        };
        assert_eq!(asked(&wire.status()), asked(&before));
        assert!(link(NAME).is_some_and(|link| link.up));
        fs::remove_file(filler).unwrap();
        assert_eq!(wire.ask(r#"{"op":"teardown_global_overlay"}"#), OK);
        assert_eq!(link(NAME), None);
    });
}

#[test]
fn the_service_manager_is_told() {
    in_private_machine(|| {
        let manager = UnixDatagram::bind("/var/run/notify").unwrap();
        manager.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let heard = || {
            let mut bytes = [0; 64];
            let length = manager.recv(&mut bytes).unwrap();
            String::from_utf8(bytes[..length].to_vec()).unwrap()
        };
        let variables = [("NOTIFY_SOCKET", "/var/run/notify")];
        let mut daemon = Daemon::start_with(&installed_as("ginneld"), &[], &variables);
        assert_eq!(heard(), "READY=1");
        // Ready means that an order is taken at the first try.
        assert!(UnixStream::connect("/var/run/ginnel/ginneld.sock").is_ok());
        daemon.signal(Signal::SIGTERM);
        assert_eq!(heard(), "STOPPING=1");
        assert!(daemon.end().0.success());
    });
}

#[test]
fn a_second_instance_refuses_and_the_first_goes_on() {
    in_private_machine(|| {
        let program = installed_as("zlayer-overlayd");
        let _first = Daemon::start(&program, &[]);
        let mut wire = Wire::connect(SOCKET);
        assert_eq!(wire.ask(SET_UP), IS_UP);
        // The same state; another state and the same socket.
        for args in [&[][..], &["--data-dir", "/var/run/other", "--socket", SOCKET]] {
            let mut second = Daemon::start(&program, args);
            assert_eq!(second.end().0.code(), Some(1));
            let log = second.log();
            assert!(log.contains("another daemon") || log.contains("already listening"), "{log}");
        }
        assert_eq!(wire.status()["interface"], NAME);
        assert_eq!(Wire::connect(SOCKET).status()["interface"], NAME);
        assert!(link(NAME).is_some() && is_socket(UAPI_SOCKET));
    });
}

#[test]
fn wg_shows_and_sets_the_overlay() {
    in_private_machine(|| {
        let daemon = Daemon::start(&installed_as("zlayer-overlayd"), &[]);
        let mut wire = Wire::connect(SOCKET);
        assert_eq!(wire.ask(SET_UP), IS_UP);
        assert_eq!(wire.ask(ADD_PEER), OK);
        let key = wire.status()["public_key"].as_str().unwrap().to_owned();
        let Some(shown) = wg(&format!("show {NAME}")) else { return };
        for part in [&format!("public key: {key}"), "listening port: 51420", PEER, "10.200.9.0/28"] {
            assert!(shown.contains(part), "{part} in {shown}");
        }
        let other = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
        wg(&format!("set {NAME} peer {other} endpoint 192.0.2.1:7 allowed-ips 10.200.1.0/28 peer {PEER} remove"));
        let status = wire.status();
        assert_eq!((&status["peer_count"], &status["peers"][0]["public_key"]), (&json!(1), &json!("01".repeat(32))));

        // Whoever sweeps the directory takes neither the overlay nor the way to it.
        fs::remove_dir_all("/var/run/wireguard").unwrap();
        // Not by asking wg: it removes a socket that does not answer yet.
        until("the control socket is back", || UnixStream::connect(UAPI_SOCKET).is_ok());
        assert_eq!(wg("show interfaces"), Some(format!("{NAME}\n")));
        assert!(daemon.log().contains("made it again"));
        assert_eq!(wire.status()["interface"], NAME);
    });
}

#[test]
fn a_control_socket_that_cannot_be_is_a_warning() {
    in_private_machine(|| {
        fs::create_dir_all("/var/run/wireguard").unwrap();
        fs::write(UAPI_SOCKET, "in the way").unwrap();
        let daemon = Daemon::start(&installed_as("zlayer-overlayd"), &[]);
        let mut wire = Wire::connect(SOCKET);
        assert_eq!(wire.ask(SET_UP), IS_UP);
        assert!(daemon.log().contains("is in the way and is no socket: remove it"), "{}", daemon.log());
        assert_eq!(wire.ask(r#"{"op":"teardown_global_overlay"}"#), OK);
        assert_eq!(fs::read(UAPI_SOCKET).unwrap(), b"in the way");
    });
}

#[test]
fn another_data_directory_works_as_a_whole() {
    in_private_machine(|| {
        let _daemon = Daemon::start(&installed_as("zlayer-overlayd"), &["--data-dir", "/var/run/data"]);
        let mut wire = Wire::connect("/var/run/data/run/zlayer-overlayd.sock");
        assert_eq!(wire.ask(SET_UP), IS_UP);
        assert!(is_socket("/var/run/data/run/wireguard/zl-prod-0-g.sock"));
        assert!(Path::new("/var/run/data/overlayd/private.key").exists());
        for untouched in ["/var/run/wireguard", "/var/run/zlayer-overlayd.sock", "/var/lib/zlayer"] {
            assert!(!Path::new(untouched).exists(), "{untouched}");
        }
    });
}

#[test]
fn under_its_own_name_it_has_its_own_places() {
    in_private_machine(|| {
        let _daemon = Daemon::start(&installed_as("ginneld"), &[]);
        let mut wire = Wire::connect("/var/run/ginnel/ginneld.sock");
        assert_eq!(wire.ask(SET_UP), IS_UP);
        assert!(is_socket(UAPI_SOCKET));
        assert_eq!((mode("/var/lib/ginnel"), mode("/var/lib/ginnel/private.key")), (0o700, 0o600));
        let output = ginnel(&["status"]);
        assert!(String::from_utf8_lossy(&output.stdout).contains(NAME), "{output:?}");
    });
}

#[test]
fn a_deleted_interface_comes_back_with_its_peers() {
    in_private_machine(|| {
        let daemon = Daemon::start(&installed_as("zlayer-overlayd"), &[]);
        let mut wire = Wire::connect(SOCKET);
        assert_eq!(wire.ask(SET_UP), IS_UP);
        assert_eq!(wire.ask(ADD_PEER), OK);
        let before = wire.status();
        let mut index = link(NAME).unwrap().index;
        for _ in 0..3 {
            ask_kernel(async |netlink| netlink.delete_link(index).await);
            until("another interface is up", || link(NAME).is_some_and(|link| link.index != index && link.up));
            index = link(NAME).unwrap().index;
            until("status shows it", || wire.status()["interface"] == NAME);
            let after = wire.status();
            for field in ["public_key", "node_ip", "overlay_cidr", "slice_cidr", "boot_id"] {
                assert_eq!(after[field], before[field], "{field}");
            }
            for field in ["public_key", "endpoint", "allowed_ips"] {
                assert_eq!(after["peers"][0][field], before["peers"][0][field], "{field}");
            }
            assert_eq!(addresses(NAME), ["10.200.5.1/16"]);
            if let Some(port) = wg(&format!("show {NAME} listen-port")) {
                assert_eq!(port, "51420\n");
            }
        }
        assert!(daemon.log().contains("making it again"));
    });
}
