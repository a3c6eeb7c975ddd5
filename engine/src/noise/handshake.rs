//! The Noise handshake (paper, section 5.4): `Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s`, both ends, as functions from
//! messages to messages and keys. When to send one, and whether one is welcome, is decided elsewhere.
//!
//! ```text
//! initiation   head (8)  | ephemeral (32)  | static (32+16) | stamp (12+16) | mac1 (16) | mac2 (16)
//! response     head (12) | ephemeral (32)  | nothing (0+16)                 | mac1 (16) | mac2 (16)
//! ```

use super::aead::{open_field, seal_field};
use super::hash::{hash, kdf};
use super::random::Random;
use super::stamp::{STAMP_BYTES, Stamp};
use crate::key::{PresharedKey, PrivateKey, PublicKey};
use crate::wire::message::{INITIATION_BYTES, RESPONSE_BYTES};
use x25519_dalek as x25519;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

const CONSTRUCTION: &[u8] = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const IDENTIFIER: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";
const LABEL_MAC1: &[u8] = b"mac1----";
const LABEL_COOKIE: &[u8] = b"cookie--";

/// Both MACs at the end of a message.
pub const MACS_BYTES: usize = 32;

/// Our end: the private key, and what follows from it.
pub struct Local {
    private: x25519::StaticSecret,
    public: [u8; 32],
    /// Where handshakes that others begin with us start.
    start: State,
    /// Key of the first MAC of messages to us.
    pub mac_key: [u8; 32],
    /// Key of the cookie replies we send.
    pub cookie_key: [u8; 32],
}

/// Their end: the public key, and what follows from it and ours.
#[derive(ZeroizeOnDrop)]
pub struct Remote {
    #[zeroize(skip)]
    public: x25519::PublicKey,
    /// Of both static keys; `None` where the peer's key is a point of low order, with which there are no secrets.
    shared: Option<[u8; 32]>,
    preshared: [u8; 32],
    start: State,
    /// Key of the first MAC of messages to them.
    #[zeroize(skip)]
    pub mac_key: [u8; 32],
    /// Key of the cookie replies they send.
    #[zeroize(skip)]
    pub cookie_key: [u8; 32],
}

/// Chaining key and transcript hash.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
struct State {
    chain: [u8; 32],
    hash: [u8; 32],
}

/// A handshake that we began.
pub struct Begun {
    state: State,
    ephemeral: x25519::StaticSecret,
}

/// An initiation that is authentic.
pub struct Heard {
    state: State,
    ephemeral: x25519::PublicKey,
    /// To be compared with the last one of this peer.
    pub stamp: Stamp,
}

/// The two keys of a session.
#[derive(ZeroizeOnDrop)]
pub struct SessionKeys {
    /// What we send.
    pub sealing: [u8; 32],
    /// What we receive.
    pub opening: [u8; 32],
}

impl State {
    fn start(responder: &[u8; 32]) -> Self {
        let chain = hash(&[CONSTRUCTION]);
        let hash_ = hash(&[&chain, IDENTIFIER]);
        Self { chain, hash: hash(&[&hash_, responder]) }
    }

    fn absorb(&mut self, bytes: &[u8]) {
        self.hash = hash(&[&self.hash, bytes]);
    }

    fn mix(&mut self, input: &[u8]) {
        self.chain = kdf::<1>(&self.chain, input)[0];
    }

    /// Mixes `input` in and returns a key for the next field.
    fn mix_key(&mut self, input: &[u8]) -> Zeroizing<[u8; 32]> {
        let [chain, key] = *kdf::<2>(&self.chain, input);
        self.chain = chain;
        Zeroizing::new(key)
    }

    /// Mixes the preshared key in and returns a key for the next field.
    fn mix_preshared(&mut self, preshared: &[u8; 32]) -> Zeroizing<[u8; 32]> {
        let [chain, hashed, key] = *kdf::<3>(&self.chain, preshared);
        self.chain = chain;
        self.absorb(&hashed);
        Zeroizing::new(key)
    }

    fn seal(&mut self, key: &[u8; 32], plain: &[u8], field: &mut [u8]) {
        seal_field(key, &self.hash, plain, field);
        self.absorb(field);
    }

    fn open<const N: usize>(&mut self, key: &[u8; 32], field: &[u8]) -> Option<[u8; N]> {
        let plain = open_field(key, &self.hash, field)?;
        self.absorb(field);
        Some(plain)
    }

    /// The keys of the session, as the initiator calls them.
    fn split(&self) -> SessionKeys {
        let [sealing, opening] = *kdf::<2>(&self.chain, b"");
        SessionKeys { sealing, opening }
    }
}

/// The shared secret; `None` where the point is of low order, so that everybody knows it.
fn agree(secret: &x25519::StaticSecret, public: &x25519::PublicKey) -> Option<Zeroizing<[u8; 32]>> {
    let shared = secret.diffie_hellman(public);
    shared.was_contributory().then(|| Zeroizing::new(shared.to_bytes()))
}

fn array_at<const N: usize>(message: &[u8], at: usize) -> Option<[u8; N]> {
    message.get(at..)?.first_chunk().copied()
}

impl Local {
    /// The end with this private key.
    pub fn new(key: &PrivateKey) -> Self {
        let private = key.secret();
        let public = x25519::PublicKey::from(&private).to_bytes();
        Self {
            private,
            public,
            start: State::start(&public),
            mac_key: hash(&[LABEL_MAC1, &public]),
            cookie_key: hash(&[LABEL_COOKIE, &public]),
        }
    }

    /// Who sent an initiation, as far as it can be told without knowing them.
    pub fn initiator(&self, message: &[u8]) -> Option<PublicKey> {
        self.hear_static(message).map(|(_, _, public)| PublicKey(public))
    }

    fn hear_static(&self, message: &[u8]) -> Option<(State, x25519::PublicKey, [u8; 32])> {
        let ephemeral: [u8; 32] = array_at(message, 8)?;
        let mut state = self.start.clone();
        state.absorb(&ephemeral);
        state.mix(&ephemeral);
        let ephemeral = x25519::PublicKey::from(ephemeral);
        let key = state.mix_key(agree(&self.private, &ephemeral)?.as_slice());
        let public = state.open(&key, message.get(40..88)?)?;
        Some((state, ephemeral, public))
    }

    /// Begins a handshake. Writes the initiation but for its MACs.
    pub fn begin(
        &self,
        remote: &Remote,
        random: &mut Random,
        index: u32,
        stamp: Stamp,
        message: &mut [u8; INITIATION_BYTES],
    ) -> Option<Begun> {
        let ephemeral = x25519::StaticSecret::from(random.bytes());
        let public = x25519::PublicKey::from(&ephemeral);
        *message = [0; INITIATION_BYTES];
        message[0] = 1;
        message[4..8].copy_from_slice(&index.to_le_bytes());
        message[8..40].copy_from_slice(public.as_bytes());
        let mut state = remote.start.clone();
        state.absorb(public.as_bytes());
        state.mix(public.as_bytes());
        let key = state.mix_key(agree(&ephemeral, &remote.public)?.as_slice());
        state.seal(&key, &self.public, &mut message[40..88]);
        let key = state.mix_key(remote.shared.as_ref()?);
        state.seal(&key, &stamp.0, &mut message[88..116]);
        Some(Begun { state, ephemeral })
    }

    /// Hears an initiation. `None` where it is not authentic, or not from `remote`.
    pub fn hear(&self, remote: &Remote, message: &[u8]) -> Option<Heard> {
        let (mut state, ephemeral, public) = self.hear_static(message)?;
        if public != *remote.public.as_bytes() {
            return None;
        }
        let key = state.mix_key(remote.shared.as_ref()?);
        let stamp = state.open::<STAMP_BYTES>(&key, message.get(88..116)?)?;
        Some(Heard { state, ephemeral, stamp: Stamp(stamp) })
    }

    /// Ends a handshake we began with the response to it. `None` where that is not authentic: the handshake goes on then.
    pub fn end(&self, begun: &Begun, remote: &Remote, message: &[u8]) -> Option<SessionKeys> {
        let ephemeral: [u8; 32] = array_at(message, 12)?;
        let mut state = begun.state.clone();
        state.absorb(&ephemeral);
        state.mix(&ephemeral);
        let ephemeral = x25519::PublicKey::from(ephemeral);
        state.mix(agree(&begun.ephemeral, &ephemeral)?.as_slice());
        state.mix(agree(&self.private, &ephemeral)?.as_slice());
        let key = state.mix_preshared(&remote.preshared);
        state.open::<0>(&key, message.get(44..60)?)?;
        Some(state.split())
    }
}

impl Heard {
    /// Answers the initiation. Writes the response but for its MACs.
    pub fn answer(
        mut self,
        remote: &Remote,
        random: &mut Random,
        index: u32,
        sender: [u8; 4],
        message: &mut [u8; RESPONSE_BYTES],
    ) -> Option<SessionKeys> {
        let ephemeral = x25519::StaticSecret::from(random.bytes());
        let public = x25519::PublicKey::from(&ephemeral);
        *message = [0; RESPONSE_BYTES];
        message[0] = 2;
        message[4..8].copy_from_slice(&index.to_le_bytes());
        message[8..12].copy_from_slice(&sender);
        message[12..44].copy_from_slice(public.as_bytes());
        let state = &mut self.state;
        state.absorb(public.as_bytes());
        state.mix(public.as_bytes());
        state.mix(agree(&ephemeral, &self.ephemeral)?.as_slice());
        state.mix(agree(&ephemeral, &remote.public)?.as_slice());
        let key = state.mix_preshared(&remote.preshared);
        state.seal(&key, &[], &mut message[44..60]);
        let theirs = state.split();
        Some(SessionKeys { sealing: theirs.opening, opening: theirs.sealing })
    }
}

impl Remote {
    /// The end with this public key, seen from `local`.
    pub fn new(local: &Local, public: &PublicKey, preshared: Option<&PresharedKey>) -> Self {
        let PublicKey(bytes) = *public;
        let public = x25519::PublicKey::from(bytes);
        Self {
            shared: agree(&local.private, &public).map(|shared| *shared),
            public,
            preshared: preshared.map_or([0; 32], PresharedKey::bytes),
            start: State::start(&bytes),
            mac_key: hash(&[LABEL_MAC1, &bytes]),
            cookie_key: hash(&[LABEL_COOKIE, &bytes]),
        }
    }

    /// Has another preshared key mixed into handshakes from now on. False where it is the same.
    pub fn set_preshared(&mut self, preshared: Option<&PresharedKey>) -> bool {
        let preshared = Zeroizing::new(preshared.map_or([0; 32], PresharedKey::bytes));
        let changed = self.preshared != *preshared;
        self.preshared = *preshared;
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::random::Seed;

    struct End {
        local: Local,
        remote: Remote,
        random: Random,
    }

    fn ends(keys: [Option<u8>; 2]) -> [End; 2] {
        let privates = [PrivateKey::new([1; 32]), PrivateKey::new([2; 32])];
        [0, 1].map(|n: usize| {
            let local = Local::new(&privates[n]);
            let preshared = keys[n].and_then(|byte| PresharedKey::new([byte; 32]));
            let remote = Remote::new(&local, &privates[1 - n].public(), preshared.as_ref());
            End { local, remote, random: Seed::new([3; 32]).random("test", u32::try_from(n).unwrap()) }
        })
    }

    fn initiation(end: &mut End, stamp: u8) -> (Begun, [u8; INITIATION_BYTES]) {
        let mut message = [0; INITIATION_BYTES];
        let begun = end.local.begin(&end.remote, &mut end.random, 7, Stamp([stamp; STAMP_BYTES]), &mut message);
        (begun.unwrap(), message)
    }

    fn response(end: &mut End, initiation: &[u8]) -> (SessionKeys, [u8; RESPONSE_BYTES]) {
        let heard = end.local.hear(&end.remote, initiation).unwrap();
        let mut message = [0; RESPONSE_BYTES];
        let keys = heard.answer(&end.remote, &mut end.random, 9, 7_u32.to_le_bytes(), &mut message);
        (keys.unwrap(), message)
    }

    #[test]
    fn both_ends_come_to_the_same_keys() {
        for key in [None, Some(5)] {
            let [mut a, mut b] = ends([key; 2]);
            let (begun, initiation) = initiation(&mut a, 4);
            assert_eq!(b.local.initiator(&initiation), Some(PrivateKey::new([1; 32]).public()));
            assert_eq!(b.local.hear(&b.remote, &initiation).unwrap().stamp, Stamp([4; STAMP_BYTES]));
            let (theirs, response) = response(&mut b, &initiation);
            let ours = a.local.end(&begun, &a.remote, &response).unwrap();
            assert_eq!((ours.sealing, ours.opening), (theirs.opening, theirs.sealing));
            assert_ne!(ours.sealing, ours.opening);
            // Another handshake has other keys.
            let (_, other) = self::initiation(&mut a, 4);
            assert_ne!(other[8..], initiation[8..]);
            assert_ne!(self::response(&mut b, &other).0.sealing, theirs.sealing);
        }
    }

    #[test]
    fn preshared_keys_have_to_match() {
        for keys in [[Some(1), Some(2)], [Some(1), None], [None, Some(1)]] {
            let [mut a, mut b] = ends(keys);
            let (begun, initiation) = initiation(&mut a, 1);
            let (_, response) = response(&mut b, &initiation);
            assert!(a.local.end(&begun, &a.remote, &response).is_none());
            // The one who began may have been given the wrong one; with the right one the same answer is good.
            let right = keys[1].and_then(|byte| PresharedKey::new([byte; 32]));
            assert!(a.remote.set_preshared(right.as_ref()) && !a.remote.set_preshared(right.as_ref()));
            assert!(a.local.end(&begun, &a.remote, &response).is_some());
        }
    }

    #[test]
    fn no_changed_byte_is_accepted() {
        let [mut a, mut b] = ends([None; 2]);
        let (begun, initiation) = initiation(&mut a, 1);
        for at in 8..116 {
            let mut changed = initiation;
            changed[at] ^= 1;
            assert!(b.local.hear(&b.remote, &changed).is_none(), "byte {at}");
        }
        let (_, response) = response(&mut b, &initiation);
        for at in 12..60 {
            let mut changed = response;
            changed[at] ^= 1;
            assert!(a.local.end(&begun, &a.remote, &changed).is_none(), "byte {at}");
        }
        for len in 0..116 {
            assert!(b.local.hear(&b.remote, &initiation[..len]).is_none());
        }
        for len in 0..60 {
            assert!(a.local.end(&begun, &a.remote, &response[..len]).is_none());
        }
    }

    #[test]
    fn only_the_peer_that_is_meant_is_heard() {
        let [mut a, b] = ends([None; 2]);
        let (_, initiation) = initiation(&mut a, 1);
        let stranger = Remote::new(&b.local, &PrivateKey::new([8; 32]).public(), None);
        assert!(b.local.hear(&stranger, &initiation).is_none());
        assert!(a.local.hear(&a.remote, &initiation).is_none(), "it is not for its sender");
    }

    #[test]
    fn points_of_low_order_lead_nowhere() {
        // RFC 7748, section 6.1: all of these agree on zero with everybody.
        let zero = PublicKey([0; 32]);
        let one = PublicKey(std::array::from_fn(|at| u8::from(at == 0)));
        let [mut a, b] = ends([None; 2]);
        for public in [zero, one] {
            let remote = Remote::new(&a.local, &public, None);
            let mut message = [0; INITIATION_BYTES];
            assert!(a.local.begin(&remote, &mut a.random, 1, Stamp::default(), &mut message).is_none());
            let (_, mut initiation) = initiation(&mut a, 1);
            initiation[8..40].copy_from_slice(&public.0);
            assert!(b.local.initiator(&initiation).is_none());
        }
    }
}
