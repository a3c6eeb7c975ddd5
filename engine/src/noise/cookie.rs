//! Cookies (paper, section 5.4.7): under load, who wants a handshake has to show that it can be reached where it says.
//!
//! The cookie of an address is a MAC of it under a secret that changes every two minutes. Secrets follow from the seed of
//! the device and the time, so that all workers have the same ones and none has to be kept; the one before is still
//! accepted, so that a cookie is good for two to four minutes, while its owner uses it for less than two.

use super::hash::{MAC_BYTES, mac, same};
use crate::tick::Tick;
use crate::wire::message::COOKIE_BYTES;
use chacha20poly1305::XChaCha20Poly1305;
use chacha20poly1305::aead::{AeadInPlace as _, KeyInit as _};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Where the nonce of a cookie reply lies; the sealed cookie and the tag are behind it.
const NONCE_AT: usize = 8;
const NONCE_BYTES: usize = 24;

/// Life of a secret (paper, section 5.3).
const SECRET_LIFE: Duration = Duration::from_secs(120);

/// How long a cookie is used, less than its maker accepts it by more than any time on the way.
const COOKIE_LIFE: Duration = Duration::from_secs(115);

/// Makes and checks the cookies of a device.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Maker {
    /// Secrets are made from this.
    root: [u8; 32],
    /// The secret of this time and the one before it.
    #[zeroize(skip)]
    epoch: u64,
    secrets: [[u8; 32]; 2],
    /// The key that replies are sealed with: from our public key, so no secret.
    key: [u8; 32],
}

impl Maker {
    /// Of the device with this seed key and this `key` for replies.
    pub fn new(root: [u8; 32], key: [u8; 32]) -> Self {
        let mut made = Self { root, epoch: 0, secrets: [[0; 32]; 2], key };
        made.renew(0);
        made
    }

    fn renew(&mut self, epoch: u64) {
        self.epoch = epoch;
        let secret = |epoch: u64| *super::hash::hmac(&self.root, &[&epoch.to_le_bytes()]);
        // Before the first there is none: the one after serves for both.
        self.secrets = [secret(epoch), secret(epoch.saturating_sub(1))];
    }

    /// Sees to it that the secrets are those of this time.
    pub fn refresh(&mut self, now: Tick) {
        let epoch = Duration::from_nanos(now.0).as_secs() / SECRET_LIFE.as_secs();
        if epoch != self.epoch {
            self.renew(epoch);
        }
    }

    /// Writes the reply to a message whose first MAC is `mac1` and whose sender calls itself `sender`.
    pub fn reply(
        &self,
        from: SocketAddr,
        sender: [u8; 4],
        mac1: &[u8; MAC_BYTES],
        nonce: &[u8; NONCE_BYTES],
        reply: &mut [u8; COOKIE_BYTES],
    ) {
        *reply = [0; COOKIE_BYTES];
        reply[0] = 3;
        reply[4..8].copy_from_slice(&sender);
        reply[NONCE_AT..NONCE_AT + NONCE_BYTES].copy_from_slice(nonce);
        let (cookie, tag) = reply[NONCE_AT + NONCE_BYTES..].split_at_mut(MAC_BYTES);
        cookie.copy_from_slice(&cookie_of(&self.secrets[0], from));
        let cipher = XChaCha20Poly1305::new((&self.key).into());
        // Only texts of 256 GiB are refused.
        if let Ok(made) = cipher.encrypt_in_place_detached(nonce.into(), mac1, cookie) {
            tag.copy_from_slice(&made);
        }
    }

    /// Whether `mac2`, over `message`, was made with a cookie of this address.
    pub fn proves(&self, from: SocketAddr, message: &[u8], mac2: &[u8]) -> bool {
        self.secrets.iter().any(|secret| same(&mac(&cookie_of(secret, from), &[message]), mac2))
    }
}

fn cookie_of(secret: &[u8; 32], from: SocketAddr) -> [u8; MAC_BYTES] {
    let port = from.port().to_be_bytes();
    match from.ip() {
        IpAddr::V4(address) => mac(secret, &[&address.octets(), &port]),
        IpAddr::V6(address) => mac(secret, &[&address.octets(), &port]),
    }
}

/// The cookie that a peer gave us, and what it takes to accept the next one.
#[derive(Default, Zeroize, ZeroizeOnDrop)]
pub struct Jar {
    #[zeroize(skip)]
    got: Tick,
    cookie: Option<[u8; MAC_BYTES]>,
    /// Index and first MAC of the last message that a cookie may answer; each is answered once.
    asked: Option<(u32, [u8; MAC_BYTES])>,
}

impl Jar {
    /// Notes a message about to be sent, and returns its second MAC: zeros without a cookie.
    pub fn mac2(&mut self, now: Tick, index: u32, message: &[u8], mac1: &[u8; MAC_BYTES]) -> [u8; MAC_BYTES] {
        self.asked = Some((index, *mac1));
        match self.cookie {
            Some(cookie) if now.since(self.got) < COOKIE_LIFE => mac(&cookie, &[message, mac1]),
            _ => [0; MAC_BYTES],
        }
    }

    /// Whether a message of this index may be answered with a cookie.
    pub fn awaits(&self, index: u32) -> bool {
        self.asked.is_some_and(|(asked, _)| asked == index)
    }

    /// Takes the cookie out of a reply sealed with `key`. False where it is not authentic.
    pub fn take(&mut self, now: Tick, key: &[u8; 32], reply: &[u8]) -> bool {
        let (Some((_, mac1)), Some(sealed)) = (self.asked, reply.get(NONCE_AT..COOKIE_BYTES)) else { return false };
        let (nonce, sealed) = sealed.split_at(NONCE_BYTES);
        let (sealed, tag) = sealed.split_at(MAC_BYTES);
        let Ok(mut cookie) = <[u8; MAC_BYTES]>::try_from(sealed) else { return false };
        let cipher = XChaCha20Poly1305::new(key.into());
        if cipher.decrypt_in_place_detached(nonce.into(), &mac1, &mut cookie, tag.into()).is_err() {
            return false;
        }
        self.asked = None;
        self.cookie = Some(cookie);
        self.got = now;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Tick {
        Tick(secs * 1_000_000_000)
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn maker() -> Maker {
        Maker::new([1; 32], [2; 32])
    }

    /// The second MAC of somebody who got a cookie at `got`.
    fn proof(maker: &mut Maker, got: Tick, used: Tick, from: &str) -> [u8; MAC_BYTES] {
        let mut jar = Jar::default();
        assert_eq!(jar.mac2(got, 7, b"message", &[9; 16]), [0; 16]);
        let mut reply = [0; 64];
        maker.refresh(got);
        maker.reply(address(from), 7_u32.to_le_bytes(), &[9; 16], &[3; 24], &mut reply);
        assert!(jar.awaits(7) && !jar.awaits(8));
        assert!(jar.take(got, &[2; 32], &reply));
        assert!(!jar.take(got, &[2; 32], &reply), "one message has one answer");
        jar.mac2(used, 8, b"again", &[8; 16])
    }

    #[test]
    fn a_cookie_proves_its_address_as_long_as_it_is_used() {
        let mut maker = maker();
        let message = [&b"again"[..], &[8; 16]].concat();
        for from in ["192.0.2.1:5", "[2001:db8::1]:5"] {
            for got in [1, 100, 119, 120, 239, 1_000] {
                for age in [0, 1, 60, 114] {
                    let mac2 = proof(&mut maker, at(got), at(got + age), from);
                    maker.refresh(at(got + age));
                    assert!(maker.proves(address(from), &message, &mac2), "{got} {age}");
                    for other in ["192.0.2.1:6", "192.0.2.2:5", "[2001:db8::1]:6", "[2001:db8::2]:5"] {
                        assert!(!maker.proves(address(other), &message, &mac2));
                    }
                    assert!(!maker.proves(address(from), &message[1..], &mac2));
                    maker.refresh(at(got + age + 240));
                    assert!(!maker.proves(address(from), &message, &mac2), "too old");
                }
                assert_eq!(proof(&mut maker, at(got), at(got + 115), from), [0; 16], "too old to be used");
            }
        }
        let other = Maker::new([7; 32], [2; 32]);
        assert!(!other.proves(address("192.0.2.1:5"), &message, &proof(&mut maker, at(1), at(1), "192.0.2.1:5")));
    }

    #[test]
    fn a_damaged_reply_is_no_cookie() {
        let mut reply = [0; 64];
        maker().reply(address("192.0.2.1:5"), [0; 4], &[9; 16], &[3; 24], &mut reply);
        let mut jar = Jar::default();
        assert!(!jar.take(at(1), &[2; 32], &reply), "nobody asked");
        jar.mac2(at(1), 0, b"message", &[9; 16]);
        for at_byte in NONCE_AT..64 {
            let mut damaged = reply;
            damaged[at_byte] ^= 0x10;
            assert!(!jar.take(at(1), &[2; 32], &damaged));
        }
        assert!(!jar.take(at(1), &[2; 32], &reply[..63]));
        assert!(jar.take(at(1), &[2; 32], &reply));
    }

    #[test]
    fn replies_are_sealed_as_the_draft_says() {
        // XChaCha20-Poly1305, draft-irtf-cfrg-xchacha-03, appendix A.3.1: the beginning of the ciphertext, and the tag.
        let key: [u8; 32] = std::array::from_fn(|at| 0x80 + u8::try_from(at).unwrap());
        let nonce: [u8; 24] = std::array::from_fn(|at| 0x40 + u8::try_from(at).unwrap());
        let data = [0x50, 0x51, 0x52, 0x53, 0xc0, 0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7];
        let mut text = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, \
                         sunscreen would be it."
            .to_vec();
        let cipher = XChaCha20Poly1305::new((&key).into());
        let tag = cipher.encrypt_in_place_detached((&nonce).into(), &data, &mut text).unwrap();
        assert_eq!(text[..8], [0xbd, 0x6d, 0x17, 0x9d, 0x3e, 0x83, 0xd4, 0x3b]);
        assert_eq!(tag[..8], [0xc0, 0x87, 0x59, 0x24, 0xc1, 0xc7, 0x98, 0x79]);
    }
}
