//! BLAKE2s as the handshake uses it: plain, in HMAC, in HKDF, and keyed as a MAC (paper, section 5.4).

use blake2::digest::consts::U16;
use blake2::digest::{FixedOutput as _, KeyInit as _, Update as _};
use blake2::{Blake2s256, Blake2sMac, Digest as _};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// Bytes of a BLAKE2s block.
const BLOCK_BYTES: usize = 64;

/// Bytes of a MAC in a message.
pub const MAC_BYTES: usize = 16;

/// The hash of all parts, one behind the other.
pub fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut state = Blake2s256::new();
    for part in parts {
        blake2::Digest::update(&mut state, part);
    }
    state.finalize().into()
}

/// HMAC (RFC 2104) with a key of at most a block.
pub fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let pad = |mask: u8| {
        let mut pad = Zeroizing::new([mask; BLOCK_BYTES]);
        for (byte, key) in pad.iter_mut().zip(key) {
            *byte ^= key;
        }
        pad
    };
    let mut inner = Blake2s256::new_with_prefix(pad(0x36).as_slice());
    for part in parts {
        blake2::Digest::update(&mut inner, part);
    }
    let inner: Zeroizing<[u8; 32]> = Zeroizing::new(inner.finalize().into());
    Zeroizing::new(Blake2s256::new_with_prefix(pad(0x5c).as_slice()).chain_update(inner.as_slice()).finalize().into())
}

/// HKDF (RFC 5869) as Noise uses it: `N` keys of 32 bytes from a chaining key and an input.
pub fn kdf<const N: usize>(chain: &[u8; 32], input: &[u8]) -> Zeroizing<[[u8; 32]; N]> {
    let secret = hmac(chain, &[input]);
    let mut keys = Zeroizing::new([[0; 32]; N]);
    for (at, number) in (0..N).zip(1_u8..) {
        let before: Zeroizing<Vec<u8>> = Zeroizing::new(if at == 0 { Vec::new() } else { keys[at - 1].to_vec() });
        keys[at] = *hmac(&secret, &[&before, &[number]]);
    }
    keys
}

/// BLAKE2s with a key and 16 bytes of output.
pub fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; MAC_BYTES] {
    // Keys here have 16 or 32 bytes; one of more than 32 would be refused, and then no MAC fits.
    let Ok(mut state) = Blake2sMac::<U16>::new_from_slice(key) else { return [0; MAC_BYTES] };
    for part in parts {
        state.update(part);
    }
    state.finalize_fixed().into()
}

/// Whether two MACs are the same, in a time that does not depend on where they differ.
pub fn same(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_hash_is_that_of_the_rfc() {
        // RFC 7693, appendix B.
        assert_eq!(hex(&hash(&[b"a", b"bc"])), "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982");
    }

    #[test]
    fn a_mac_depends_on_key_and_parts_and_not_on_where_they_are_cut() {
        let key: Vec<u8> = (0..32).collect();
        let whole = mac(&key, &[&[1, 2, 3, 4, 5]]);
        assert_eq!(mac(&key, &[&[1], &[2, 3], &[], &[4, 5]]), whole);
        assert!(same(&whole, &whole) && !same(&whole, &mac(&key[..16], &[&[1, 2, 3, 4, 5]])));
        assert!(!same(&whole, &mac(&key, &[&[1, 2, 3, 4]])));
    }

    #[test]
    fn the_chain_starts_as_the_paper_says() {
        // Well-known constants of every implementation.
        let chain = hash(&[b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"]);
        assert_eq!(hex(&chain), "60e26daef327efc02ec335e2a025d2d016eb4206f87277f52d38d1988b78cd36");
        let hashed = hash(&[&chain, b"WireGuard v1 zx2c4 Jason@zx2c4.com"]);
        assert_eq!(hex(&hashed), "2211b361081ac566691243db458ad5322d9c6c662293e8b70ee19c65ba079ef3");
    }

    #[test]
    fn derived_keys_do_not_depend_on_how_many_are_asked_for() {
        let first: [[u8; 32]; 1] = *kdf(&[9; 32], b"input");
        let three: [[u8; 32]; 3] = *kdf(&[9; 32], b"input");
        assert_eq!(first[0], three[0]);
        assert!(three[0] != three[1] && three[1] != three[2]);
    }

    #[test]
    fn hmac_is_the_nested_hash_of_the_rfc() {
        // RFC 2104, section 2, written out.
        let (mut inner, mut outer) = ([0x36; 64], [0x5c; 64]);
        for at in 0..32 {
            inner[at] ^= 7;
            outer[at] ^= 7;
        }
        assert_eq!(*hmac(&[7; 32], &[b"te", b"xt"]), hash(&[&outer, &hash(&[&inner, b"text"])]));
    }
}
