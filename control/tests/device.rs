//! The real `ginnel device` on a real kernel: how it starts, how it ends, and what it leaves behind, which is nothing.

mod common;

use common::{GINNEL, has_link, is_running, on_own_ground, run, run_well, until};
use ginnel_control::host::{LinkChange, Netns};
use ginnel_control::lab::process::Keeper;
use ginnel_control::lab::traffic::{Amount, End, TcpPlan, tcp, wait_reachable};
use ginnel_control::lab::{Lab, LabOptions};
use ginnel_control::uapi;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::Pid;
use std::fs;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

fn device(arguments: &[&str]) -> Command {
    let mut command = Command::new(GINNEL);
    command.arg("device").args(arguments).env_remove("WG_PROCESS_FOREGROUND").env_remove("LOG_LEVEL");
    command.stdin(Stdio::null());
    command
}

fn socket(interface: &str) -> PathBuf {
    Path::new(uapi::DIRECTORY).join(format!("{interface}.sock"))
}

/// Asks a device for its configuration. `None` where nobody answers.
fn ask(interface: &str) -> Option<String> {
    let mut stream = UnixStream::connect(socket(interface)).ok()?;
    stream.write_all(b"get=1\n\n").ok()?;
    stream.shutdown(std::net::Shutdown::Write).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.ends_with("errno=0\n\n").then_some(answer)
}

/// A device process in the background, found by its control socket. Dropping it ends it.
struct Background(Pid);

impl Background {
    fn of(interface: &str) -> Self {
        let stream = UnixStream::connect(socket(interface)).expect("the device is ready");
        Self(Pid::from_raw(getsockopt(&stream, PeerCredentials).expect("the socket knows").pid()))
    }

    fn signal(&self, signal: Signal) {
        kill(self.0, signal).expect("the process is there");
    }

    fn has_ended(&self) -> bool {
        !is_running(self.0.as_raw())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // The number may be another's by now.
        if fs::read_link(format!("/proc/{}/exe", self.0)).is_ok_and(|program| program == Path::new(GINNEL)) {
            let _ = kill(self.0, Signal::SIGKILL);
        }
    }
}

/// A device process in the foreground. Dropping it ends it.
struct Foreground(Child);

impl Foreground {
    fn start(netns: &Netns, arguments: &[&str]) -> Self {
        Self(netns.spawn(device(arguments).arg("--foreground").stderr(Stdio::null())).expect("it starts"))
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().try_into().expect("numbers are small")), signal).expect("the process is there");
    }

    #[track_caller]
    fn ends_well(mut self) {
        let mut status = None;
        until("the process ends", || {
            status = self.0.try_wait().expect("it is our child");
            status.is_some()
        });
        assert!(status.is_some_and(|status| status.success()), "{status:?}");
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_background_is_ready_when_the_command_returns() {
    on_own_ground(&[], || {
        let netns = Netns::current().expect("a namespace");
        for round in 0..5 {
            let name = format!("wg{round}");
            run_well(&netns, &mut device(&[&name]));
            let answer = ask(&name).expect("it answers at once");
            assert!(answer.contains("listen_port="), "{answer}");
            assert!(has_link(&netns, &name));
            let mode = fs::metadata(socket(&name)).expect("the socket is there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            let background = Background::of(&name);
            background.signal(Signal::SIGTERM);
            until("the process ends", || background.has_ended());
            assert!(!has_link(&netns, &name) && !socket(&name).exists());
        }
    });
}

#[test]
fn signals_clean_up() {
    on_own_ground(&[], || {
        let netns = Netns::current().expect("a namespace");
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            let foreground = Foreground::start(&netns, &["wg0"]);
            until("it answers", || ask("wg0").is_some());
            foreground.signal(signal);
            foreground.ends_well();
            assert!(!has_link(&netns, "wg0") && !socket("wg0").exists());
        }
    });
}

#[test]
fn a_device_ends_with_its_interface() {
    on_own_ground(&[], || {
        let netns = Netns::current().expect("a namespace");
        for up in [false, true] {
            let foreground = Foreground::start(&netns, &["wg0"]);
            until("it answers", || ask("wg0").is_some());
            let work = netns.configure(async |netlink| {
                let link = netlink.link("wg0").await?;
                netlink.set_up(link.index, up).await?;
                netlink.delete_link(link.index).await
            });
            work.expect("the interface can be deleted");
            foreground.ends_well();
            assert!(!socket("wg0").exists());
        }
    });
}

#[test]
fn a_device_ends_with_its_socket() {
    on_own_ground(&[], || {
        let netns = Netns::current().expect("a namespace");
        let foreground = Foreground::start(&netns, &["wg0"]);
        until("it answers", || ask("wg0").is_some());
        fs::remove_file(socket("wg0")).expect("the socket can be removed");
        foreground.ends_well();
        assert!(!has_link(&netns, "wg0"));
    });
}

#[test]
fn a_killed_device_can_be_started_again() {
    on_own_ground(&[], || {
        let netns = Netns::current().expect("a namespace");
        let foreground = Foreground::start(&netns, &["wg0"]);
        until("it answers", || ask("wg0").is_some());
        drop(foreground);
        // The kernel takes the interface, nobody the socket.
        until("the interface goes", || !has_link(&netns, "wg0"));
        assert!(socket("wg0").exists());
        run_well(&netns, &mut device(&["wg0"]));
        let _again = Background::of("wg0");
        assert!(ask("wg0").is_some());
    });
}

#[test]
fn what_cannot_start_says_why_and_leaves_nothing() {
    on_own_ground(&[], || {
        let netns = Netns::current().expect("a namespace");
        let work = netns.configure(async |netlink| netlink.create_veth("taken0", "taken1", None).await);
        work.expect("a link can be made");
        for arguments in [&["taken0"][..], &["--foreground", "taken0"]] {
            let output = run(&netns, &mut device(arguments));
            assert!(!output.status.success());
            let words = String::from_utf8_lossy(&output.stderr);
            assert!(words.contains("taken0 exists already"), "{words}");
            assert!(!socket("taken0").exists() && has_link(&netns, "taken0"));
        }
    });
}

/// Two devices, two nodes, configured by `wg` alone, as the README shows.
#[test]
fn wg_configures_two_devices_that_talk() {
    on_own_ground(&["wg"], || {
        let lab = Lab::build(LabOptions::default()).expect("a laboratory");
        let keeper = Keeper::default();
        let scratch = keeper.scratch().expect("a directory");
        let names = ["wg1", "wg2"];
        let processes = [0, 1].map(|at| Foreground::start(&lab.nodes()[at].netns, &[names[at]]));
        names.iter().for_each(|name| until("it answers", || ask(name).is_some()));
        let keys: Vec<_> = (0..2_usize)
            .map(|at| {
                let netns = &lab.nodes()[at].netns;
                let private = run_well(netns, Command::new("wg").arg("genkey"));
                let file = scratch.path().join(names[at]);
                fs::write(&file, &private).expect("a file can be written");
                run_well(
                    netns,
                    Command::new("wg").args(["set", names[at], "listen-port", "51820", "private-key"]).arg(file),
                );
                run_well(netns, Command::new("wg").args(["show", names[at], "public-key"])).trim().to_owned()
            })
            .collect();
        for (at, other) in [(0, 1), (1, 0)] {
            let node = &lab.nodes()[at];
            let endpoint = format!("{}:51820", lab.nodes()[other].underlay_v4);
            let allowed = format!("10.9.0.{}/32", other + 1);
            let peer = ["peer", &keys[other], "endpoint", &endpoint, "allowed-ips", &allowed];
            run_well(&node.netns, Command::new("wg").args(["set", names[at]]).args(peer));
            let work = node.netns.configure(async |netlink| {
                let link = netlink.link(names[at]).await?;
                let change = LinkChange { up: Some(true), ..LinkChange::default() };
                netlink.change_link(link.index, &change).await?;
                netlink.add_address(link.index, format!("10.9.0.{}/24", at + 1).parse().expect("a prefix")).await
            });
            work.expect("the interface comes up");
        }
        let ends = [1, 2].map(|last: u8| End {
            netns: lab.nodes()[usize::from(last) - 1].netns.clone(),
            ip: IpAddr::from([10, 9, 0, last]),
        });
        wait_reachable(&ends[0], &ends[1], common::PATIENCE).expect("they talk");
        let plan = TcpPlan { streams: 2, amount: Amount::Bytes(5_000_000), verify: true };
        assert_eq!(tcp(&ends[1], &ends[0], &plan).expect("every byte arrives").bytes, 10_000_000);
        let shown = run_well(&lab.nodes()[0].netns, Command::new("wg").args(["show", "wg1"]));
        assert!(shown.contains("latest handshake:") && shown.contains("MiB received"), "{shown}");
        for process in processes {
            process.signal(Signal::SIGTERM);
            process.ends_well();
        }
    });
}

/// `wg-quick` takes it for wireguard-go, started under a name of its own.
#[test]
fn wg_quick_brings_it_up_and_down() {
    if Path::new("/sys/module/wireguard").exists() {
        return println!("not run: wg-quick prefers the WireGuard of this kernel");
    }
    on_own_ground(&["wg", "wg-quick", "ip"], || {
        let netns = Netns::current().expect("a namespace");
        let keeper = Keeper::default();
        let scratch = keeper.scratch().expect("a directory");
        symlink(GINNEL, scratch.path().join("ginnel-device")).expect("a link can be made");
        let configuration = scratch.path().join("wg0.conf");
        let key = run_well(&netns, Command::new("wg").arg("genkey"));
        let peer = run_well(&netns, Command::new("wg").arg("genkey"));
        let text = format!(
            "[Interface]\nPrivateKey = {}\nListenPort = 51820\nAddress = 10.9.0.1/24, fd09::1/64\nMTU = 1400\n\
             [Peer]\nPublicKey = {}\nAllowedIPs = 10.10.0.0/16, fd0a::/64\nEndpoint = 192.0.2.9:51820\n",
            key.trim(),
            peer.trim(),
        );
        fs::write(&configuration, text).expect("a file can be written");
        fs::set_permissions(&configuration, fs::Permissions::from_mode(0o600)).expect("it is ours");
        let path = std::env::join_paths(
            [scratch.path().to_owned()]
                .into_iter()
                .chain(std::env::split_paths(&std::env::var_os("PATH").expect("set"))),
        );
        let quick = |action: &str| {
            let mut command = Command::new("wg-quick");
            command.arg(action).arg(&configuration).env("WG_QUICK_USERSPACE_IMPLEMENTATION", "ginnel-device");
            command.env("PATH", path.as_ref().expect("no colon in it")).stdin(Stdio::null());
            run_well(&netns, &mut command)
        };
        for _ in 0..3 {
            quick("up");
            let background = Background::of("wg0");
            assert_eq!(run_well(&netns, Command::new("wg").args(["show", "wg0", "listen-port"])), "51820\n");
            let work = netns.configure(async |netlink| {
                let link = netlink.link("wg0").await?;
                Ok((link.up, link.mtu, netlink.addresses(link.index).await?.len()))
            });
            let (up, mtu, addresses) = work.expect("the interface is there");
            assert!(up && mtu == 1_400 && addresses >= 2, "{up} {mtu} {addresses}");
            quick("down");
            until("the process ends", || background.has_ended());
            assert!(!socket("wg0").exists() && !has_link(&netns, "wg0"));
        }
    });
}

#[test]
fn logs_go_where_they_are_asked_for() {
    on_own_ground(&[], || {
        let netns = Netns::current().expect("a namespace");
        for (level, told) in [("verbose", true), ("error", false), ("silent", false)] {
            let mut command = device(&["--foreground", "wg0"]);
            let child = netns.spawn(command.env("LOG_LEVEL", level).stderr(Stdio::piped())).expect("it starts");
            let mut foreground = Foreground(child);
            until("it answers", || ask("wg0").is_some());
            foreground.signal(Signal::SIGTERM);
            let mut words = String::new();
            let mut stderr = foreground.0.stderr.take().expect("it is piped");
            stderr.read_to_string(&mut words).expect("logs are UTF-8");
            foreground.ends_well();
            assert_eq!(words.contains("ready"), told, "{level}: {words}");
            assert!(told || words.is_empty(), "{level}: {words}");
        }
    });
}
