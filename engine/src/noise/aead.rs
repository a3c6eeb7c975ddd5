//! ChaCha20-Poly1305 for data messages: the trait behind which a faster one fits, and the one that is always there.

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, Tag, UnboundKey};

/// Bytes of a tag.
pub const TAG_BYTES: usize = 16;

/// ChaCha20-Poly1305 (RFC 8439) as data messages use it: no associated data, nonce = 4 zero bytes and the counter
/// little-endian.
pub trait Aead: Sized + Send + 'static {
    /// The name of the implementation, for status.
    const NAME: &'static str;

    /// What a key becomes before use. Wiped when dropped.
    fn new(key: &[u8; 32]) -> Self;

    /// Seals `plain` and the zeros behind it, up to `sealed.len() - 16` bytes, into `sealed`, the tag last.
    fn seal(&self, counter: u64, plain: &[u8], sealed: &mut [u8]);

    /// Opens `sealed` (ciphertext, then tag) into the first `sealed.len() - 16` bytes of `plain`; false: nothing in
    /// `plain` may be used.
    fn open(&self, counter: u64, sealed: &[u8], plain: &mut [u8]) -> bool;
}

/// By ring: assembly for every x86-64 and ARM processor.
pub struct Ring(LessSafeKey);

impl Drop for Ring {
    fn drop(&mut self) {
        // ring does not wipe keys: another one goes in the place, and must not be optimised away.
        self.0 = ring_key(&[0; 32]);
        std::hint::black_box(&self.0);
    }
}

impl Aead for Ring {
    const NAME: &'static str = "ring";

    fn new(key: &[u8; 32]) -> Self {
        Self(ring_key(key))
    }

    fn seal(&self, counter: u64, plain: &[u8], sealed: &mut [u8]) {
        let Some(text_bytes) = sealed.len().checked_sub(TAG_BYTES).filter(|&bytes| bytes >= plain.len()) else {
            debug_assert!(false, "no room for a packet of {} bytes in {}", plain.len(), sealed.len());
            return sealed.fill(0);
        };
        let (text, tag) = sealed.split_at_mut(text_bytes);
        text[..plain.len()].copy_from_slice(plain);
        text[plain.len()..].fill(0);
        match self.0.seal_in_place_separate_tag(nonce(counter), Aad::empty(), text) {
            Ok(made) => tag.copy_from_slice(made.as_ref()),
            // Only texts of 256 GiB are refused. What leaves then is nothing.
            Err(_) => sealed.fill(0),
        }
    }

    fn open(&self, counter: u64, sealed: &[u8], plain: &mut [u8]) -> bool {
        let Some((text, tag)) = sealed.split_last_chunk::<TAG_BYTES>() else { return false };
        let Some(plain) = plain.get_mut(..text.len()) else { return false };
        plain.copy_from_slice(text);
        self.0.open_in_place_separate_tag(nonce(counter), Aad::empty(), Tag::from(*tag), plain, 0..).is_ok()
    }
}

fn ring_key(key: &[u8; 32]) -> LessSafeKey {
    // The algorithm takes exactly 32 bytes.
    LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key).expect("a key of 32 bytes"))
}

fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}

/// Seals a field of a handshake message: `sealed` is 16 bytes longer than `plain`, the counter is 0.
pub fn seal_field(key: &[u8; 32], data: &[u8], plain: &[u8], sealed: &mut [u8]) {
    let (text, tag) = sealed.split_at_mut(plain.len());
    text.copy_from_slice(plain);
    if let Ok(made) = ring_key(key).seal_in_place_separate_tag(nonce(0), Aad::from(data), text) {
        tag.copy_from_slice(made.as_ref());
    }
}

/// Opens a field of a handshake message of `N` bytes; `None` where it is not authentic.
pub fn open_field<const N: usize>(key: &[u8; 32], data: &[u8], sealed: &[u8]) -> Option<[u8; N]> {
    let (text, tag) = sealed.split_last_chunk::<TAG_BYTES>()?;
    let mut plain: [u8; N] = text.try_into().ok()?;
    let opened =
        ring_key(key).open_in_place_separate_tag(nonce(0), Aad::from(data), Tag::from(*tag), &mut plain, 0..).is_ok();
    opened.then_some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chacha20poly1305::aead::{AeadInPlace as _, KeyInit as _};
    use proptest::prelude::*;

    #[test]
    fn the_vector_of_the_rfc() {
        // RFC 8439, section 2.8.2. Its nonce is none of ours, so the key is used without the trait.
        let key: [u8; 32] = std::array::from_fn(|at| 0x80 + u8::try_from(at).unwrap());
        let mut sealed = [0; 16 + 114];
        let text = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, \
                     sunscreen would be it.";
        let nonce: [u8; 12] = [7, 0, 0, 0, 0x40, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47];
        let data = [0x50, 0x51, 0x52, 0x53, 0xc0, 0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7];
        sealed[..114].copy_from_slice(text);
        let tag = ring_key(&key)
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(data), &mut sealed[..114])
            .unwrap();
        assert_eq!(sealed[..8], [0xd3, 0x1a, 0x8d, 0x34, 0x64, 0x8e, 0x60, 0xdb]);
        assert_eq!(tag.as_ref()[..8], [0x1a, 0xe1, 0x0b, 0x59, 0x4f, 0x09, 0xe2, 0x6a]);
    }

    proptest! {
        #[test]
        fn sealed_as_another_implementation_does(
            key: [u8; 32], counter: u64, plain in proptest::collection::vec(any::<u8>(), 0..300), padding in 0_usize..16,
        ) {
            let mut sealed = vec![0xee; plain.len() + padding + TAG_BYTES];
            let ours = Ring::new(&key);
            ours.seal(counter, &plain, &mut sealed);
            let mut padded = plain.clone();
            padded.resize(plain.len() + padding, 0);
            let mut theirs = padded.clone();
            let mut nonce = [0; 12];
            nonce[4..].copy_from_slice(&counter.to_le_bytes());
            let twin = chacha20poly1305::ChaCha20Poly1305::new(&key.into());
            let tag = twin.encrypt_in_place_detached(&nonce.into(), &[], &mut theirs).unwrap();
            theirs.extend(tag);
            prop_assert_eq!(&sealed, &theirs);
            let mut opened = vec![0; padded.len() + 5];
            prop_assert!(ours.open(counter, &sealed, &mut opened));
            prop_assert_eq!(&opened[..padded.len()], &padded[..]);
            prop_assert!(!ours.open(counter ^ 1, &sealed, &mut opened));
            for at in [0, sealed.len() / 2, sealed.len() - 1] {
                let mut forged = sealed.clone();
                forged[at] ^= 1;
                prop_assert!(!ours.open(counter, &forged, &mut opened));
            }
        }
    }

    #[test]
    fn too_little_room_opens_nothing() {
        let key = Ring::new(&[1; 32]);
        let mut sealed = [0; 40];
        key.seal(9, &[5; 24], &mut sealed);
        assert!(!key.open(9, &sealed, &mut [0; 23]));
        assert!(!key.open(9, &sealed[..15], &mut [0; 23]));
        assert!(key.open(9, &sealed, &mut [0; 24]));
    }
}
