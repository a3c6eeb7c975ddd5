//! The real `wg(8)` against the server, in a `/var/run` of its own.

use super::testing::{FakeDevice, hex_key, in_private_run};
use super::{Configurable, DIRECTORY, UapiServer};
use ginnel_backends::device::DeviceError;
use ginnel_engine::key::{PrivateKey, PublicKey};
use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

const PRIVATE: [u8; 32] = [0x40; 32];

/// The output of `wg`, or its complaint.
fn wg(arguments: &str) -> Result<String, String> {
    let output = Command::new("/usr/bin/wg").args(arguments.split_whitespace()).output().expect("wg starts");
    let text = |bytes| String::from_utf8(bytes).expect("wg speaks UTF-8");
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// A file that `wg` can read, in the private `/var/run`.
fn file(name: &str, text: impl AsRef<[u8]>) -> String {
    let path = format!("/var/run/{name}");
    std::fs::write(&path, text).expect("the private /var/run is writable");
    path
}

fn start() -> (Arc<FakeDevice>, UapiServer) {
    let device = Arc::new(FakeDevice::new("wgtest"));
    let server = UapiServer::start(Path::new(DIRECTORY), "wgtest", device.clone(), || {}).expect("the place is free");
    (device, server)
}

fn base64(byte: u8) -> String {
    PublicKey([byte; 32]).to_base64()
}

#[test]
fn wg_sets_and_shows() {
    in_private_run(|| {
        let (device, server) = start();
        assert_eq!(wg("show interfaces").unwrap(), "wgtest\n");

        let (one, two) = (base64(1), base64(2));
        let private = file("private", PrivateKey::new(PRIVATE).to_base64());
        let preshared = file("preshared", base64(9));
        wg(&format!(
            "set wgtest private-key {private} listen-port 51820 fwmark 0xca6c \
             peer {one} preshared-key {preshared} endpoint 192.0.2.1:51821 persistent-keepalive 25 \
             allowed-ips 10.0.0.0/8,fd00::/64 \
             peer {two} endpoint [2001:db8::1]:7 allowed-ips 10.1.0.0/16"
        ))
        .unwrap();
        assert_eq!(device.updates(), 1);
        let state = device.state();
        assert_eq!(state.private_key, Some(PrivateKey::new(PRIVATE)));
        assert_eq!((state.listen_port, state.fwmark, state.peers.len()), (51820, 0xca6c, 2));

        device.edit(|state| {
            state.peers[0].last_handshake = Some(UNIX_EPOCH + Duration::new(1_700_000_000, 999));
            (state.peers[0].rx_bytes, state.peers[0].tx_bytes) = (1 << 40, 7);
        });
        let private = PrivateKey::new(PRIVATE);
        assert_eq!(
            wg("show wgtest dump").unwrap(),
            format!(
                "{}\t{}\t51820\t0xca6c\n\
                 {one}\t{}\t192.0.2.1:51821\t10.0.0.0/8,fd00::/64\t1700000000\t1099511627776\t7\t25\n\
                 {two}\t(none)\t[2001:db8::1]:7\t10.1.0.0/16\t0\t0\t0\toff\n",
                private.to_base64(),
                private.public(),
                base64(9),
            )
        );
        let shown = wg("show").unwrap();
        for expected in
            ["interface: wgtest", "listening port: 51820", "fwmark: 0xca6c", "latest handshake:", "1.00 TiB"]
        {
            assert!(shown.contains(expected), "{expected} in {shown}");
        }

        // Moving a prefix, removing keys and removing a peer.
        wg(&format!("set wgtest fwmark off peer {two} allowed-ips 10.0.0.0/8 persistent-keepalive 3 peer {one} preshared-key /dev/null")).unwrap();
        assert_eq!(wg("show wgtest allowed-ips").unwrap(), format!("{one}\tfd00::/64\n{two}\t10.0.0.0/8\n"));
        assert_eq!(wg("show wgtest fwmark").unwrap(), "off\n");
        assert_eq!(wg("show wgtest preshared-keys").unwrap(), format!("{one}\t(none)\n{two}\t(none)\n"));
        wg(&format!("set wgtest private-key /dev/null peer {one} remove peer {} remove", base64(7))).unwrap();
        assert_eq!(wg("show wgtest peers").unwrap(), format!("{two}\n"));
        assert_eq!(wg("show wgtest private-key").unwrap(), "(none)\n");

        drop(server);
        assert_eq!(wg("show interfaces").unwrap().trim(), "");
    });
}

#[test]
fn wg_configuration_files_go_round() {
    in_private_run(|| {
        let (device, _server) = start();
        let text = format!(
            "[Interface]\nListenPort = 51820\nPrivateKey = {}\n\n\
             [Peer]\nPublicKey = {}\nAllowedIPs = 10.0.0.0/8\nEndpoint = 192.0.2.1:7\n\n\
             [Peer]\nPublicKey = {}\nPresharedKey = {}\nAllowedIPs = ::/0\nPersistentKeepalive = 5\n",
            PrivateKey::new(PRIVATE).to_base64(),
            base64(1),
            base64(2),
            base64(3),
        );
        wg(&format!("setconf wgtest {}", file("first", &text))).unwrap();
        let shown = wg("showconf wgtest").unwrap();
        assert_eq!(shown.trim(), text.trim());

        // Back in, it is the same; with syncconf, only the differences travel.
        wg(&format!("setconf wgtest {}", file("again", &shown))).unwrap();
        assert_eq!(wg("showconf wgtest").unwrap(), shown);
        device.edit(|state| state.peers[0].rx_bytes = 42);
        let added = format!("{text}\n[Peer]\nPublicKey = {}\nAllowedIPs = 10.9.0.0/16\n", base64(4));
        let without = added.replacen(&format!("PublicKey = {}", base64(2)), &format!("PublicKey = {}", base64(5)), 1);
        wg(&format!("syncconf wgtest {}", file("second", without))).unwrap();
        let state = device.state();
        let mut keys: Vec<_> = state.peers.iter().map(|peer| peer.public_key.0[0]).collect();
        keys.sort_unstable();
        assert_eq!(keys, [1, 4, 5]);
        assert_eq!(state.peers[0].rx_bytes, 42, "the peer that stays is not made anew");

        wg(&format!("addconf wgtest {}", file("third", format!("[Peer]\nPublicKey = {}\n", base64(6))))).unwrap();
        assert_eq!(device.state().peers.len(), 4);
    });
}

#[test]
fn wg_prints_what_went_wrong() {
    in_private_run(|| {
        let (device, _server) = start();
        for (error, text) in [
            (DeviceError::PortTaken { port: 7 }, "Address already in use"),
            (DeviceError::TooManyPeers(1), "Invalid argument"),
            (DeviceError::Stopped, "Input/output error"),
        ] {
            device.fail_next(error);
            assert_eq!(wg("set wgtest listen-port 7").unwrap_err(), format!("Unable to modify interface: {text}\n"));
        }
    });
}

#[test]
fn wg_replaces_ten_thousand_peers() {
    const PEERS: usize = 10_000;
    in_private_run(|| {
        let (device, _server) = start();
        let mut text = format!("[Interface]\nPrivateKey = {}\n", PrivateKey::new(PRIVATE).to_base64());
        for peer in 0..PEERS {
            let mut key = [7; 32];
            key[..8].copy_from_slice(&peer.to_le_bytes());
            let (high, low) = (peer >> 8, peer & 255);
            let _ = write!(
                text,
                "[Peer]\nPublicKey = {}\nPresharedKey = {}\nEndpoint = 192.0.2.1:{}\nPersistentKeepalive = 25\nAllowedIPs = ",
                PublicKey(key).to_base64(),
                base64(9),
                peer + 1
            );
            let prefixes: Vec<_> = (0..10).map(|i| format!("fd00:{i}:{high:x}:{low:x}::/64")).collect();
            text += &prefixes.join(", ");
            text.push('\n');
        }
        let path = file("large", &text);
        let started = Instant::now();
        wg(&format!("setconf wgtest {path}")).unwrap();
        let took = started.elapsed();
        let state = device.state();
        assert_eq!((device.updates(), state.peers.len()), (1, PEERS));
        assert!(state.peers.iter().all(|peer| peer.allowed_ips.len() == 10));
        // And out again, in an answer of several megabytes.
        let dump = wg("show wgtest dump").unwrap();
        assert_eq!(dump.lines().count(), 1 + PEERS);
        println!("wg setconf of {PEERS} peers and {} allowed IPs took {took:?}", 10 * PEERS);
    });
}

#[test]
fn a_killed_client_changes_nothing() {
    in_private_run(|| {
        let (device, server) = start();
        let mut stream = std::os::unix::net::UnixStream::connect(server.path()).unwrap();
        let half = format!("set=1\nreplace_peers=true\npublic_key={}\nallowed_ip=", hex_key(1));
        std::io::Write::write_all(&mut stream, half.as_bytes()).unwrap();
        drop(stream);
        wg("set wgtest listen-port 9").unwrap();
        assert_eq!((device.updates(), device.state().peers.len()), (1, 0));
    });
}
