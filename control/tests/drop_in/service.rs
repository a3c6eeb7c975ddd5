//! The daemon under a service manager, with a configuration, and with the command line of its operators.

use super::*;
use crate::common::machine::HOME;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::process::Stdio;

const OWN_SOCKET: &str = "/var/run/ginnel/ginneld.sock";
const CONFIG: &str = "/var/run/ginneld.toml";

/// What the daemon tells its service manager.
struct Manager(UnixDatagram);

impl Manager {
    fn listen() -> Self {
        let socket = UnixDatagram::bind("/var/run/notify").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Self(socket)
    }

    fn heard(&self) -> String {
        let mut bytes = [0; 128];
        let length = self.0.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    /// What comes next that is no sign of life.
    fn told(&self) -> String {
        loop {
            match self.heard() {
                ping if ping == "WATCHDOG=1" => {}
                told => return told,
            }
        }
    }
}

fn json_of(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn conditions() -> Vec<String> {
    let health = json_of(&ginnel(&["health", "--json"]));
    health["conditions"].as_array().unwrap().iter().map(|found| found["code"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn signs_of_life_and_reloads_are_told() {
    in_private_machine(|| {
        let manager = Manager::listen();
        fs::write(CONFIG, "[ipc]\nconnections = 100\n").unwrap();
        let variables = [("NOTIFY_SOCKET", "/var/run/notify"), ("WATCHDOG_USEC", "600000")];
        let mut daemon = Daemon::start_with(&installed_as("ginneld"), &["--config", CONFIG], &variables);
        assert_eq!(manager.heard(), "READY=1");
        assert_eq!([manager.heard(), manager.heard()], ["WATCHDOG=1", "WATCHDOG=1"]);
        let reload = |text: &str| {
            fs::write(CONFIG, text).unwrap();
            daemon.signal(Signal::SIGHUP);
            let told = manager.told();
            assert!(told.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{told}");
            assert_eq!(manager.told(), "READY=1");
        };
        reload("[ipc]\nconections = 100\n");
        assert_eq!(conditions(), ["config_invalid"]);
        assert_eq!(ginnel(&["health"]).status.code(), Some(1));
        reload("data_dir = \"/var/lib/other\"\n");
        assert_eq!(conditions(), ["restart_needed"]);
        reload("[ipc]\nconnections = 200\n");
        assert_eq!(conditions(), Vec::<String>::new());
        assert!(ginnel(&["health"]).status.success());
        daemon.signal(Signal::SIGTERM);
        assert_eq!(manager.told(), "STOPPING=1");
        assert!(daemon.end().0.success());
    });
}

#[test]
fn a_socket_of_the_service_manager_is_used_and_left_to_it() {
    in_private_machine(|| {
        let path = "/var/run/handed.sock";
        let listener = UnixListener::bind(path).unwrap();
        // An order that waits before there is a daemon.
        let mut waiting = UnixStream::connect(path).unwrap();
        let mut command = Command::new("sh");
        let script =
            "exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=ginneld; exec \"$0\" \"$@\"";
        command.args(["-c", script]).arg(installed_as("ginneld")).args(["--socket", "/var/run/unused.sock"]);
        command.env("HOME", HOME).env_remove("RUST_LOG").env_remove("NOTIFY_SOCKET");
        command.stdin(Stdio::from(std::os::fd::OwnedFd::from(listener))).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let body = r#"{"frame":"request","id":1,"request":{"op":"status"}}"#;
        waiting.write_all(&u32::try_from(body.len()).unwrap().to_le_bytes()).unwrap();
        waiting.write_all(body.as_bytes()).unwrap();
        waiting.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        waiting.read_to_end(&mut answer).unwrap();
        assert!(String::from_utf8_lossy(&answer[4..]).contains("\"result\":\"status\""));
        assert!(!Path::new("/var/run/unused.sock").exists());
        let mut wire = Wire::connect(path);
        assert_eq!(wire.ask(r#"{"op":"shutdown"}"#), OK);
        assert!(child.wait().unwrap().success());
        assert!(is_socket(path));
    });
}

#[test]
fn a_wrong_configuration_is_told_by_its_place_and_starts_nothing() {
    in_private_machine(|| {
        let check = |arguments: &[&str]| {
            let output = Command::new(installed_as("ginneld")).args(arguments).output().unwrap();
            let text = [output.stdout, output.stderr].concat();
            (output.status.code(), String::from_utf8(text).unwrap())
        };
        fs::write(CONFIG, "[ipc]\nmode = \"0660\"\nworkers = 1\n[dns]\nttl_secs = -1\n").unwrap();
        for arguments in [&["--check-config", "--config", CONFIG][..], &["--config", CONFIG]] {
            let (status, text) = check(arguments);
            assert_eq!(status, Some(78), "{text}");
            let lines: Vec<_> = text.lines().collect();
            assert_eq!(lines.len(), 2, "{text}");
            assert!(
                lines[0].starts_with(
                    "/var/run/ginneld.toml:3:1: there is no key ipc.workers; did you mean device.workers?"
                )
            );
            assert!(
                lines[1].starts_with("/var/run/ginneld.toml:5:12: dns.ttl_secs: a number from 0 to 86400 is wanted")
            );
        }
        assert_eq!(check(&["--check-config", "--config", "/var/run/none"]).0, Some(78));
        fs::write(CONFIG, "[ipc]\nmode = \"0660\"\n").unwrap();
        let (status, text) = check(&["--check-config", "--config", CONFIG]);
        assert!(status == Some(0) && text.contains("1 keys"), "{text}");
        assert!(!Path::new("/var/lib/ginnel").exists(), "a check made something");
    });
}

#[test]
fn the_command_line_shows_what_there_is_and_ends_with_a_status_that_says_why() {
    in_private_machine(|| {
        let nobody = ginnel(&["leases"]);
        assert_eq!(nobody.status.code(), Some(69), "{nobody:?}");
        let _daemon = Daemon::start(&installed_as("ginneld"), &[]);
        let mut wire = Wire::connect(OWN_SOCKET);
        assert_eq!(wire.ask(SET_UP), IS_UP);
        let text = |args: &[&str]| String::from_utf8(ginnel(args).stdout).unwrap();
        assert_eq!(text(&["leases"]), "no leases\n");
        assert_eq!(json_of(&ginnel(&["services", "--json"])), json!({"schema": 1, "services": []}));
        assert_eq!(text(&["health"]), "nothing is wrong\n");
        assert_eq!(json_of(&ginnel(&["call", "set_local_node_id", r#"{"node_id":9}"#])), json!({"result": "ok"}));
        assert_eq!(wire.status()["node_id"], 9);
        let refused = ginnel(&["call", "begin_sync", r#"{"epoch":1,"kinds":["drops"]}"#]);
        assert_eq!((refused.status.code(), json_of(&refused)["code"].as_str()), (Some(1), Some("invalid_argument")));
        assert_eq!(json_of(&ginnel(&["call", "of_a_later_version"]))["code"], "bad_request");
        let schema = json_of(&ginnel(&["schema"]));
        assert_eq!(schema["title"], "Frame");
        assert!(text(&["completions", "bash"]).contains("attachments") && text(&["man"]).contains(".TH"));
        assert_eq!(ginnel(&["--socket"]).status.code(), Some(2));
        assert_eq!(ginnel(&["status", "--data-dir", "/nowhere"]).status.code(), Some(69));
    });
}

#[test]
fn events_are_followed_as_they_come() {
    in_private_machine(|| {
        fs::write(CONFIG, "").unwrap();
        let daemon = Daemon::start(&installed_as("ginneld"), &["--config", CONFIG]);
        let _wire = Wire::connect(OWN_SOCKET);
        let mut command = Command::new(GINNEL);
        command.args(["events", "--follow", "--json", "--kind", "health_changed"]).stdout(Stdio::piped());
        let mut follower = command.spawn().unwrap();
        let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
        let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
        for (text, active) in [("[x]\n", true), ("", false)] {
            fs::write(CONFIG, text).unwrap();
            daemon.signal(Signal::SIGHUP);
            let event = next();
            assert_eq!((&event["event"], &event["active"]), (&json!("health_changed"), &json!(active)));
            assert_eq!(event["condition"]["code"], "config_invalid");
        }
        let _ = follower.kill();
        let _ = follower.wait();
        let past = String::from_utf8(ginnel(&["events"]).stdout).unwrap();
        assert_eq!(past.lines().count(), 2, "{past}");
        assert!(
            past.lines().all(|line| line.contains("health_changed") && line.contains("code=config_invalid")),
            "{past}"
        );
    });
}

#[test]
fn other_users_may_what_their_role_says() {
    in_private_machine(|| {
        fs::write(CONFIG, "[ipc]\nmode = \"0666\"\n[access]\nread = [\"user:65533\"]\nattach = [\"group:65532\"]\n")
            .unwrap();
        let daemon = Daemon::start(&installed_as("ginneld"), &["--config", CONFIG]);
        assert_eq!(Wire::connect(OWN_SOCKET).ask(r#"{"op":"set_local_node_id","node_id":1}"#), OK);
        let ask = |uid: u32, gid: u32, op: &str, fields: &str| {
            let mut command = Command::new(GINNEL);
            command.uid(uid).gid(gid).args(["call", "--socket", OWN_SOCKET, op, fields]).output().unwrap()
        };
        let code = |output: &Output| json_of(output)["code"].as_str().map(str::to_owned);
        let dns = r#"{"name":"a"}"#;
        // Who may look, who may attach by a group, and who may nothing.
        let looked = ask(65_533, 65_533, "status", "{}");
        assert_eq!(
            (looked.status.code(), json_of(&looked)["result"].as_str()),
            (Some(0), Some("status")),
            "{looked:?}"
        );
        let refused = ask(65_533, 65_533, "unregister_dns", dns);
        assert_eq!((refused.status.code(), code(&refused).as_deref()), (Some(77), Some("forbidden")), "{refused:?}");
        let hint = json_of(&refused)["hint"].as_str().unwrap().to_owned();
        assert_eq!(hint, "add \"user:65533\" to access.attach in /var/run/ginneld.toml");
        assert_ne!(code(&ask(65_531, 65_532, "unregister_dns", dns)).as_deref(), Some("forbidden"));
        assert_eq!(code(&ask(65_531, 65_532, "shutdown", "{}")).as_deref(), Some("forbidden"));
        assert_eq!(code(&ask(65_530, 65_530, "status", "{}")).as_deref(), Some("forbidden"));
        let log = daemon.log();
        assert!(log.contains("op=set_local_node_id") && log.contains("carried out"), "{log}");
        assert!(log.contains("shutdown needs the role admin"), "{log}");
    });
}

#[test]
fn the_drop_in_keeps_its_log_files() {
    in_private_machine(|| {
        let mut daemon = Daemon::start(&installed_as("zlayer-overlayd"), &["--log-format", "json"]);
        let mut wire = Wire::connect(SOCKET);
        assert_eq!(wire.ask(SET_UP), IS_UP);
        assert_eq!(wire.ask(r#"{"op":"shutdown"}"#), OK);
        assert!(daemon.end().0.success());
        let logs: Vec<_> = fs::read_dir(format!("{}/.zlayer/logs", HOME)).unwrap().collect();
        assert_eq!(logs.len(), 1);
        let path = logs[0].as_ref().unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with("overlayd.log.20") && name.len() == "overlayd.log.2026-11-25".len(), "{name}");
        for text in [fs::read_to_string(&path).unwrap(), daemon.log()] {
            let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            let said = |op: &str| lines.iter().filter(|line| line["op"] == op && line["msg"] == "carried out").count();
            assert_eq!((said("setup_global_overlay"), said("shutdown")), (1, 1), "{text}");
            assert!(lines.iter().all(|line| line["ts"].is_string() && line["level"].is_string()));
        }
    });
}
