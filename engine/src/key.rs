//! Keys as values: 32 bytes with a role, their two spellings (base64 for people, hex for the UAPI), and no way to print
//! a secret by accident.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::fmt;
use x25519_dalek as x25519;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Why a text is not a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not base64 or not hexadecimal.
    #[error("the key is not valid {0}")]
    Encoding(&'static str),
    /// Decoded, but not to 32 bytes.
    #[error("a key has 32 bytes, this one has {0}")]
    Length(usize),
}

/// A Curve25519 public key: the identity of a peer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey(pub [u8; 32]);

/// A Curve25519 private key. Zeroed when dropped; `Debug` does not show it.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct PrivateKey([u8; 32]);

/// A symmetric key mixed into the handshake (WireGuard paper, section 5.2). All zero means none.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct PresharedKey([u8; 32]);

impl PublicKey {
    /// Parses the 44-character base64 form.
    ///
    /// # Errors
    /// [`KeyError`] where the text is not base64 of 32 bytes.
    pub fn from_base64(text: &str) -> Result<Self, KeyError> {
        decode_base64(text).map(Self)
    }

    /// Parses the 64-character hexadecimal form of the UAPI.
    ///
    /// # Errors
    /// [`KeyError`] where the text is not hexadecimal of 32 bytes.
    pub fn from_hex(text: &str) -> Result<Self, KeyError> {
        decode_hex(text).map(Self)
    }

    /// The base64 form.
    #[must_use]
    pub fn to_base64(&self) -> String {
        STANDARD.encode(self.0)
    }

    /// The lower-case hexadecimal form.
    #[must_use]
    pub fn to_hex(&self) -> String {
        encode_hex(&self.0)
    }
}

impl PrivateKey {
    /// A key from raw bytes; clamped as Curve25519 asks (RFC 7748, section 5).
    #[must_use]
    pub fn new(mut bytes: [u8; 32]) -> Self {
        bytes[0] &= 248;
        bytes[31] = (bytes[31] & 127) | 64;
        Self(bytes)
    }

    /// Parses the base64 form.
    ///
    /// # Errors
    /// [`KeyError`] where the text is not base64 of 32 bytes.
    pub fn from_base64(text: &str) -> Result<Self, KeyError> {
        decode_base64(text).map(Self::new)
    }

    /// Parses the hexadecimal form of the UAPI.
    ///
    /// # Errors
    /// [`KeyError`] where the text is not hexadecimal of 32 bytes.
    pub fn from_hex(text: &str) -> Result<Self, KeyError> {
        decode_hex(text).map(Self::new)
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(*x25519::PublicKey::from(&self.secret()).as_bytes())
    }

    /// The base64 form: handle it as the secret it is.
    #[must_use]
    pub fn to_base64(&self) -> String {
        STANDARD.encode(self.0)
    }

    /// The hexadecimal form: handle it as the secret it is.
    #[must_use]
    pub fn to_hex(&self) -> String {
        encode_hex(&self.0)
    }

    pub(crate) fn secret(&self) -> x25519::StaticSecret {
        x25519::StaticSecret::from(self.0)
    }
}

impl PresharedKey {
    /// A key from raw bytes; `None` for the all-zero key, which stands for "no preshared key" in the UAPI.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Option<Self> {
        (bytes != [0; 32]).then_some(Self(bytes))
    }

    /// Parses the base64 form; `None` for the all-zero key.
    ///
    /// # Errors
    /// [`KeyError`] where the text is not base64 of 32 bytes.
    pub fn from_base64(text: &str) -> Result<Option<Self>, KeyError> {
        decode_base64(text).map(Self::new)
    }

    /// Parses the hexadecimal form; `None` for the all-zero key.
    ///
    /// # Errors
    /// [`KeyError`] where the text is not hexadecimal of 32 bytes.
    pub fn from_hex(text: &str) -> Result<Option<Self>, KeyError> {
        decode_hex(text).map(Self::new)
    }

    /// The base64 form: handle it as the secret it is.
    #[must_use]
    pub fn to_base64(&self) -> String {
        STANDARD.encode(self.0)
    }

    /// The hexadecimal form: handle it as the secret it is.
    #[must_use]
    pub fn to_hex(&self) -> String {
        encode_hex(&self.0)
    }

    pub(crate) fn bytes(&self) -> [u8; 32] {
        self.0
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_base64())
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_base64())
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(hidden)")
    }
}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresharedKey(hidden)")
    }
}

fn decode_base64(text: &str) -> Result<[u8; 32], KeyError> {
    let bytes = STANDARD.decode(text.trim()).map_err(|_| KeyError::Encoding("base64"))?;
    bytes.as_slice().try_into().map_err(|_| KeyError::Length(bytes.len()))
}

fn decode_hex(text: &str) -> Result<[u8; 32], KeyError> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return Err(KeyError::Length(digits.len() / 2));
    }
    let mut key = [0; 32];
    for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16).ok_or(KeyError::Encoding("hexadecimal"))?;
        let low = char::from(pair[1]).to_digit(16).ok_or(KeyError::Encoding("hexadecimal"))?;
        *byte = u8::try_from(high << 4 | low).map_err(|_| KeyError::Encoding("hexadecimal"))?;
    }
    Ok(key)
}

fn encode_hex(bytes: &[u8; 32]) -> String {
    bytes.iter().fold(String::with_capacity(64), |mut text, byte| {
        text.push(char::from_digit(u32::from(byte >> 4), 16).unwrap_or('0'));
        text.push(char::from_digit(u32::from(byte & 15), 16).unwrap_or('0'));
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_round_trip() {
        let key = PublicKey(std::array::from_fn(|i| u8::try_from(i * 7).unwrap()));
        assert_eq!(PublicKey::from_base64(&key.to_base64()), Ok(key));
        assert_eq!(PublicKey::from_hex(&key.to_hex()), Ok(key));
        assert_eq!(PublicKey::from_hex(&key.to_hex().to_uppercase()), Ok(key));
    }

    #[test]
    fn bad_texts_are_named() {
        assert_eq!(PublicKey::from_base64("!!"), Err(KeyError::Encoding("base64")));
        assert_eq!(PublicKey::from_base64("AAAA"), Err(KeyError::Length(3)));
        assert_eq!(PublicKey::from_hex("00"), Err(KeyError::Length(1)));
        assert_eq!(PublicKey::from_hex(&"zz".repeat(32)), Err(KeyError::Encoding("hexadecimal")));
        assert_eq!(PublicKey::from_hex(&"é".repeat(32)), Err(KeyError::Encoding("hexadecimal")));
    }

    #[test]
    fn secrets_do_not_print() {
        let key = PrivateKey::new([7; 32]);
        assert!(!format!("{key:?}").contains('7'));
        assert!(PresharedKey::new([0; 32]).is_none());
    }
}
