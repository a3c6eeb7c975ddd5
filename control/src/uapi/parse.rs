//! The body of a `set`: text in, one [`DeviceUpdate`] out. No I/O.
//!
//! Each line is looked at once and touches only the last peer named, so the cost is linear in the number of lines. The
//! same peer may be named many times: each naming is a change of its own, and the device applies them in order.
//!
//! Within one naming the order of lines matters in two places. `remove` makes the device ignore the rest, and
//! `replace_allowed_ips` forgets the allowed IPs given before it.

use ginnel_engine::command::{AllowedIpUpdate, DeviceUpdate, PeerUpdate, PrivateKeyUpdate};
use ginnel_engine::key::{KeyError, PresharedKey, PrivateKey, PublicKey};
use ipnet::IpNet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::str::FromStr;

/// Why a line of a `set` was refused. No variant repeats a value: it may be a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// No `=`, or not text at all.
    #[error("a line is not of the form key=value")]
    NotAPair,
    /// Not a key of the device, and no peer was named yet.
    #[error("{0:?} is not a key of a device: name a peer with public_key= before its keys")]
    UnknownDeviceKey(String),
    /// Not a key of a peer.
    #[error("{0:?} is not a key of a peer: keys of the device come before the first public_key=")]
    UnknownPeerKey(String),
    /// A key that is none.
    #[error("{key}: {source}")]
    BadKey {
        /// Which line.
        key: &'static str,
        /// What is wrong with it.
        source: KeyError,
    },
    /// A value of the wrong form.
    #[error("{key} needs {expected}")]
    BadValue {
        /// Which line.
        key: &'static str,
        /// What would be right.
        expected: &'static str,
    },
}

/// Collects the lines of one `set`.
///
/// Input is [`SetParser::handle_line`] for each line between `set=1` and the blank line; output is
/// [`SetParser::into_update`] after the last. After an error the parser is of no more use.
pub struct SetParser<'a> {
    update: DeviceUpdate,
    scope_id: &'a dyn Fn(&str) -> Option<u32>,
}

impl<'a> SetParser<'a> {
    /// A parser that asks `scope_id` for the number of an IPv6 scope written as an interface name.
    pub fn new(scope_id: &'a dyn Fn(&str) -> Option<u32>) -> Self {
        Self { update: DeviceUpdate::default(), scope_id }
    }

    /// Takes one line, without its line end.
    ///
    /// # Errors
    /// [`ParseError`] where it has no meaning here.
    pub fn handle_line(&mut self, line: &[u8]) -> Result<(), ParseError> {
        let line = std::str::from_utf8(line).map_err(|_| ParseError::NotAPair)?;
        let (key, value) = line.split_once('=').ok_or(ParseError::NotAPair)?;
        if key == "public_key" {
            let public_key = PublicKey::from_hex(value).map_err(bad_key("public_key"))?;
            self.update.peers.push(PeerUpdate::new(public_key));
            return Ok(());
        }
        match self.update.peers.last_mut() {
            None => device_line(&mut self.update, key, value),
            Some(peer) => peer_line(peer, key, value, self.scope_id),
        }
    }

    /// Everything the lines asked for.
    #[must_use]
    pub fn into_update(self) -> DeviceUpdate {
        self.update
    }
}

fn device_line(update: &mut DeviceUpdate, key: &str, value: &str) -> Result<(), ParseError> {
    match key {
        "private_key" => update.private_key = Some(private_key(value)?),
        "listen_port" => update.listen_port = Some(decimal("listen_port", value, "a port from 0 to 65535")?),
        "fwmark" => update.fwmark = Some(fwmark(value)?),
        "replace_peers" => update.replace_peers = flag("replace_peers", value)?,
        _ => return Err(ParseError::UnknownDeviceKey(key.to_owned())),
    }
    Ok(())
}

fn peer_line(
    peer: &mut PeerUpdate,
    key: &str,
    value: &str,
    scope_id: &dyn Fn(&str) -> Option<u32>,
) -> Result<(), ParseError> {
    match key {
        "remove" => peer.remove = flag("remove", value)?,
        "update_only" => peer.update_only = flag("update_only", value)?,
        "preshared_key" => {
            peer.preshared_key = Some(PresharedKey::from_hex(value).map_err(bad_key("preshared_key"))?);
        }
        "endpoint" => peer.endpoint = Some(endpoint(value, scope_id)?),
        "persistent_keepalive_interval" => {
            let seconds = decimal("persistent_keepalive_interval", value, "seconds from 0 to 65535")?;
            peer.persistent_keepalive_secs = Some(seconds);
        }
        "replace_allowed_ips" => {
            peer.replace_allowed_ips = flag("replace_allowed_ips", value)?;
            peer.allowed_ips.clear();
        }
        "allowed_ip" => peer.allowed_ips.push(allowed_ip(value)?),
        "protocol_version" if value == "1" => {}
        "protocol_version" => return Err(ParseError::BadValue { key: "protocol_version", expected: "1" }),
        _ => return Err(ParseError::UnknownPeerKey(key.to_owned())),
    }
    Ok(())
}

/// The all-zero key means "have none". It is told by its text because [`PrivateKey`] clamps what it is given.
fn private_key(value: &str) -> Result<PrivateKeyUpdate, ParseError> {
    let key = PrivateKey::from_hex(value).map_err(bad_key("private_key"))?;
    if value.bytes().all(|digit| digit == b'0') {
        return Ok(PrivateKeyUpdate::Clear);
    }
    Ok(PrivateKeyUpdate::Set(key))
}

fn bad_key(key: &'static str) -> impl Fn(KeyError) -> ParseError {
    move |source| ParseError::BadKey { key, source }
}

/// The one value a flag can have; "false" is not part of the protocol.
fn flag(key: &'static str, value: &str) -> Result<bool, ParseError> {
    if value == "true" { Ok(true) } else { Err(ParseError::BadValue { key, expected: "the value true" }) }
}

/// Digits only: the parsers of the standard library would take a sign.
fn decimal<T: FromStr>(key: &'static str, value: &str, expected: &'static str) -> Result<T, ParseError> {
    let digits = Some(value).filter(|value| value.bytes().all(|byte| byte.is_ascii_digit()));
    digits.and_then(|value| value.parse().ok()).ok_or(ParseError::BadValue { key, expected })
}

fn fwmark(value: &str) -> Result<u32, ParseError> {
    const EXPECTED: &str = "32 bits, decimal or hexadecimal behind 0x";
    let Some(digits) = value.strip_prefix("0x").or_else(|| value.strip_prefix("0X")) else {
        return decimal("fwmark", value, EXPECTED);
    };
    let digits = Some(digits).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    digits
        .and_then(|digits| u32::from_str_radix(digits, 16).ok())
        .ok_or(ParseError::BadValue { key: "fwmark", expected: EXPECTED })
}

fn endpoint(value: &str, scope_id: &dyn Fn(&str) -> Option<u32>) -> Result<SocketAddr, ParseError> {
    // The standard library knows numeric scopes; `wg` writes the name of the interface.
    value.parse().ok().or_else(|| scoped_endpoint(value, scope_id)).ok_or(ParseError::BadValue {
        key: "endpoint",
        expected: "address:port, with an IPv6 address in brackets and its scope, if any, an existing interface",
    })
}

/// `[address%interface]:port`.
fn scoped_endpoint(value: &str, scope_id: &dyn Fn(&str) -> Option<u32>) -> Option<SocketAddr> {
    let (host, port) = value.strip_prefix('[')?.rsplit_once("]:")?;
    let (address, scope) = host.split_once('%')?;
    let address: Ipv6Addr = address.parse().ok()?;
    let port = decimal("endpoint", port, "").ok()?;
    Some(SocketAddrV6::new(address, port, 0, scope_id(scope)?).into())
}

fn allowed_ip(value: &str) -> Result<AllowedIpUpdate, ParseError> {
    let (remove, prefix) = value.strip_prefix('-').map_or((false, value), |prefix| (true, prefix));
    let prefix = prefix_of(prefix).ok_or(ParseError::BadValue {
        key: "allowed_ip",
        expected: "one prefix as address/length, with a leading '-' to remove it",
    })?;
    Ok(AllowedIpUpdate { prefix, remove })
}

/// Stricter than the parser of [`IpNet`], which reads `010.0.0.1` as decimal where other programs read octal.
fn prefix_of(text: &str) -> Option<IpNet> {
    let (address, length) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let length: u8 = decimal("allowed_ip", length, "").ok()?;
    Some(IpNet::new(address, length).ok()?.trunc())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: &str = "0101010101010101010101010101010101010101010101010101010101010101";
    const OTHER: &str = "02020202020202020202020202020202020202020202020202020202020202fF";

    fn scope_id(name: &str) -> Option<u32> {
        (name == "eth0").then_some(7)
    }

    fn parse(text: &str) -> Result<DeviceUpdate, ParseError> {
        let mut parser = SetParser::new(&scope_id);
        text.lines().try_for_each(|line| parser.handle_line(line.as_bytes()))?;
        Ok(parser.into_update())
    }

    fn peer(lines: &str) -> Result<PeerUpdate, ParseError> {
        parse(&format!("public_key={KEY}\n{lines}")).map(|mut update| update.peers.remove(0))
    }

    #[test]
    fn nothing_asks_for_nothing() {
        let update = parse("").unwrap();
        assert!(update.private_key.is_none() && update.listen_port.is_none() && update.fwmark.is_none());
        assert!(!update.replace_peers && update.peers.is_empty());
    }

    #[test]
    fn every_device_line() {
        let text = format!("private_key={KEY}\nlisten_port=51820\nfwmark=42\nreplace_peers=true");
        let update = parse(&text).unwrap();
        assert!(matches!(update.private_key, Some(PrivateKeyUpdate::Set(key)) if key == PrivateKey::new([1; 32])));
        assert_eq!((update.listen_port, update.fwmark, update.replace_peers), (Some(51820), Some(42), true));
        let cleared = parse(&format!("private_key={}", "0".repeat(64))).unwrap();
        assert!(matches!(cleared.private_key, Some(PrivateKeyUpdate::Clear)));
    }

    #[test]
    fn marks_are_decimal_or_hexadecimal() {
        for (text, mark) in [("0", 0), ("4294967295", u32::MAX), ("0xca6c", 0xca6c), ("0XFFFFFFFF", u32::MAX)] {
            assert_eq!(parse(&format!("fwmark={text}")).unwrap().fwmark, Some(mark), "{text}");
        }
        for text in ["", "off", "-1", "+1", "0x", "0x+1", "4294967296", "0x100000000", " 1", "ca6c"] {
            assert!(parse(&format!("fwmark={text}")).is_err(), "{text:?}");
        }
    }

    #[test]
    fn every_peer_line() {
        let peer = peer(&format!(
            "update_only=true\npreshared_key={OTHER}\nendpoint=192.0.2.1:51820\npersistent_keepalive_interval=25\n\
             replace_allowed_ips=true\nallowed_ip=10.1.2.3/8\nallowed_ip=-fd00::/64\nprotocol_version=1"
        ))
        .unwrap();
        assert!(peer.update_only && peer.replace_allowed_ips && !peer.remove);
        assert_eq!(peer.public_key, PublicKey([1; 32]));
        let preshared_key = peer.preshared_key.flatten().expect("a preshared key was given");
        assert_eq!(preshared_key.to_hex(), OTHER.to_lowercase());
        assert_eq!(peer.endpoint, Some("192.0.2.1:51820".parse().unwrap()));
        assert_eq!(peer.persistent_keepalive_secs, Some(25));
        let given = AllowedIpUpdate { prefix: "10.0.0.0/8".parse().unwrap(), remove: false };
        let taken = AllowedIpUpdate { prefix: "fd00::/64".parse().unwrap(), remove: true };
        assert_eq!(peer.allowed_ips, [given, taken]);
    }

    #[test]
    fn a_zero_preshared_key_removes_it() {
        let zero = peer(&format!("preshared_key={}", "0".repeat(64))).unwrap();
        assert_eq!(zero.preshared_key, Some(None));
        assert_eq!(peer("").unwrap().preshared_key, None);
    }

    #[test]
    fn peers_are_kept_in_order_and_may_repeat() {
        let text = format!("public_key={KEY}\nremove=true\npublic_key={OTHER}\npublic_key={KEY}\nallowed_ip=::/0");
        let peers = parse(&text).unwrap().peers;
        assert_eq!(peers.iter().map(|peer| peer.remove).collect::<Vec<_>>(), [true, false, false]);
        assert_eq!((peers[0].public_key, peers[2].allowed_ips.len()), (peers[2].public_key, 1));
    }

    #[test]
    fn replacing_forgets_what_was_given_before() {
        let peer = peer("allowed_ip=10.0.0.0/8\nreplace_allowed_ips=true\nallowed_ip=10.1.0.0/16").unwrap();
        assert!(peer.replace_allowed_ips);
        assert_eq!(peer.allowed_ips, [allowed_ip("10.1.0.0/16").unwrap()]);
    }

    #[test]
    fn endpoints_of_every_form() {
        let scoped = |scope| SocketAddr::V6(SocketAddrV6::new("fe80::1".parse().unwrap(), 5, 0, scope));
        for (text, address) in [
            ("192.0.2.1:0", "192.0.2.1:0".parse().unwrap()),
            ("[2001:db8::1]:51820", "[2001:db8::1]:51820".parse().unwrap()),
            ("[fe80::1%3]:5", scoped(3)),
            ("[fe80::1%eth0]:5", scoped(7)),
        ] {
            assert_eq!(peer(&format!("endpoint={text}")).unwrap().endpoint, Some(address), "{text}");
        }
        for text in [
            "",
            "192.0.2.1",
            "192.0.2.1:65536",
            "2001:db8::1:5",
            "[::1]",
            "[::1]:",
            "[fe80::1%]:5",
            "[fe80::1%lan]:5",
            "[192.0.2.1%eth0]:5",
            "[fe80::1%eth0]:+5",
            "example.org:5",
        ] {
            assert!(peer(&format!("endpoint={text}")).is_err(), "{text:?}");
        }
    }

    #[test]
    fn allowed_ips_are_single_prefixes() {
        for text in [
            "",
            "-",
            "--10.0.0.0/8",
            "10.0.0.0",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/8,10.1.0.0/16",
            "/8",
            "010.0.0.0/8",
            "10.0.0.0/+8",
            "10.0.0.0/",
            "10.0.0.0/255.0.0.0",
            "fe80::1%1/64",
        ] {
            assert!(peer(&format!("allowed_ip={text}")).is_err(), "{text:?}");
        }
        assert_eq!(allowed_ip("::ffff:1.2.3.4/128").unwrap().prefix.to_string(), "::ffff:1.2.3.4/128");
    }

    #[test]
    fn lines_out_of_place_are_refused() {
        assert_eq!(parse("listen_port").unwrap_err(), ParseError::NotAPair);
        assert_eq!(parse("allowed_ip=::/0").unwrap_err(), ParseError::UnknownDeviceKey("allowed_ip".into()));
        assert_eq!(peer("listen_port=1").unwrap_err(), ParseError::UnknownPeerKey("listen_port".into()));
        assert_eq!(SetParser::new(&scope_id).handle_line(b"\xff=1"), Err(ParseError::NotAPair));
        for text in [
            "replace_peers=false",
            "replace_peers=",
            "listen_port=-1",
            "listen_port=65536",
            "=",
            "a=b",
            "public_key=1",
            "private_key=",
            "listen_port= 1",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        for text in [
            "remove=false",
            "update_only=1",
            "protocol_version=2",
            "persistent_keepalive_interval=off",
            "preshared_key=00",
        ] {
            assert!(peer(text).is_err(), "{text}");
        }
    }

    #[test]
    fn errors_do_not_repeat_secrets() {
        let message = parse(&format!("private_key={OTHER}0")).unwrap_err().to_string();
        assert!(!message.contains("02020202"), "{message}");
    }

    proptest! {
        #[test]
        fn garbage_is_refused_without_panic(
            named in any::<bool>(),
            key in prop_oneof![
                "[a-z_]{0,12}",
                Just("endpoint".to_owned()),
                Just("allowed_ip".to_owned()),
                Just("fwmark".to_owned()),
                Just("private_key".to_owned()),
                Just("preshared_key".to_owned()),
            ],
            value in prop_oneof!["\\PC{0,80}", "[-0-9a-fA-Fx:.%/\\[\\]]{0,80}", "[0-9a-f]{64}"],
        ) {
            let mut parser = SetParser::new(&scope_id);
            if named {
                parser.handle_line(format!("public_key={KEY}").as_bytes()).unwrap();
            }
            let _ = parser.handle_line(format!("{key}={value}").as_bytes());
        }

        #[test]
        fn bytes_are_refused_without_panic(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = SetParser::new(&scope_id).handle_line(&line);
        }

        #[test]
        fn what_is_printed_is_read(address: IpAddr, port: u16, length in 0_u8..=128, remove: bool) {
            let socket = SocketAddr::new(address, port);
            prop_assert_eq!(peer(&format!("endpoint={socket}")).unwrap().endpoint, Some(socket));
            if let Ok(prefix) = IpNet::new(address, length) {
                let sign = if remove { "-" } else { "" };
                let update = AllowedIpUpdate { prefix: prefix.trunc(), remove };
                prop_assert_eq!(allowed_ip(&format!("{sign}{prefix}")).unwrap(), update);
            }
        }
    }
}
