//! The answer to a `get`: [`DeviceState`] in, text out. No I/O.
//!
//! The order of the lines is that of wireguard-go, which programs have come to rely on: what has no value is left out,
//! except the preshared key, which is printed as zeros.

use ginnel_backends::device::{DeviceState, PeerState};
use std::fmt::{self, Write};
use std::time::{Duration, UNIX_EPOCH};
use zeroize::Zeroizing;

/// Writes every line that describes `state`, without the closing `errno` line.
///
/// # Errors
/// Only what `out` says.
pub fn device(state: &DeviceState, out: &mut impl Write) -> fmt::Result {
    if let Some(key) = &state.private_key {
        writeln!(out, "private_key={}", *Zeroizing::new(key.to_hex()))?;
    }
    if state.listen_port != 0 {
        writeln!(out, "listen_port={}", state.listen_port)?;
    }
    if state.fwmark != 0 {
        writeln!(out, "fwmark={}", state.fwmark)?;
    }
    state.peers.iter().try_for_each(|state| peer(state, out))
}

fn peer(state: &PeerState, out: &mut impl Write) -> fmt::Result {
    writeln!(out, "public_key={}", state.public_key.to_hex())?;
    match &state.preshared_key {
        Some(key) => writeln!(out, "preshared_key={}", *Zeroizing::new(key.to_hex()))?,
        None => writeln!(out, "preshared_key={:064}", 0)?,
    }
    out.write_str("protocol_version=1\n")?;
    if let Some(endpoint) = state.endpoint {
        writeln!(out, "endpoint={endpoint}")?;
    }
    // A clock set to before 1970 has no representation here; "never" is the nearest.
    let handshake =
        state.last_handshake.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or(Duration::ZERO);
    writeln!(out, "last_handshake_time_sec={}", handshake.as_secs())?;
    writeln!(out, "last_handshake_time_nsec={}", handshake.subsec_nanos())?;
    writeln!(out, "tx_bytes={}", state.tx_bytes)?;
    writeln!(out, "rx_bytes={}", state.rx_bytes)?;
    writeln!(out, "persistent_keepalive_interval={}", state.persistent_keepalive_secs)?;
    state.allowed_ips.iter().try_for_each(|prefix| writeln!(out, "allowed_ip={prefix}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uapi::testing::{empty_state, peer_state};
    use ginnel_engine::key::{PresharedKey, PrivateKey};
    use std::net::SocketAddrV6;
    use std::time::SystemTime;

    fn text(state: &DeviceState) -> String {
        let mut text = String::new();
        device(state, &mut text).expect("strings grow");
        text
    }

    #[test]
    fn a_bare_device_has_nothing_to_say() {
        assert_eq!(text(&empty_state("wg0")), "");
    }

    #[test]
    fn every_line_has_its_place() {
        let mut state = empty_state("wg0");
        state.private_key = Some(PrivateKey::new([0x40; 32]));
        state.listen_port = 51820;
        state.fwmark = 0xca6c;
        let mut full = peer_state([1; 32]);
        full.preshared_key = PresharedKey::new([0xab; 32]);
        full.endpoint = Some(SocketAddrV6::new("fe80::1".parse().unwrap(), 5, 0, 3).into());
        full.persistent_keepalive_secs = 25;
        full.allowed_ips = vec!["10.0.0.0/8".parse().unwrap(), "::/0".parse().unwrap()];
        full.last_handshake = Some(UNIX_EPOCH + Duration::new(1_700_000_000, 5));
        (full.rx_bytes, full.tx_bytes) = (u64::MAX, 7);
        state.peers = vec![full, peer_state([2; 32])];
        let expected = format!(
            "private_key={}\nlisten_port=51820\nfwmark=51820\n\
             public_key={}\npreshared_key={}\nprotocol_version=1\nendpoint=[fe80::1%3]:5\n\
             last_handshake_time_sec=1700000000\nlast_handshake_time_nsec=5\n\
             tx_bytes=7\nrx_bytes=18446744073709551615\npersistent_keepalive_interval=25\n\
             allowed_ip=10.0.0.0/8\nallowed_ip=::/0\n\
             public_key={}\npreshared_key={}\nprotocol_version=1\n\
             last_handshake_time_sec=0\nlast_handshake_time_nsec=0\n\
             tx_bytes=0\nrx_bytes=0\npersistent_keepalive_interval=0\n",
            "40".repeat(32),
            "01".repeat(32),
            "ab".repeat(32),
            "02".repeat(32),
            "00".repeat(32),
        );
        assert_eq!(text(&state), expected);
    }

    #[test]
    fn a_handshake_before_1970_counts_as_never() {
        let mut state = empty_state("wg0");
        state.peers = vec![peer_state([1; 32])];
        let never = text(&state);
        state.peers[0].last_handshake = SystemTime::UNIX_EPOCH.checked_sub(Duration::from_secs(1));
        assert_eq!(text(&state), never);
    }
}
