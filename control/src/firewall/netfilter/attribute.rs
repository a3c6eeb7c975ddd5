//! Attributes: length, kind and payload, padded to four bytes, some of them holding others.
//!
//! Reading never panics: what cannot be an attribute ends the list. Writing panics on an attribute longer than its length
//! field counts (64 KiB), which callers keep out by their own bounds.

/// `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`: part of the kind field, not of the kind.
const KIND_MASK: u16 = 0x3fff;
const NESTED: u16 = 0x8000;

const HEADER_LEN: usize = 4;

/// The attributes in a run of bytes, in their order, as (kind, payload).
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    /// Reads `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The first attribute of `kind`.
    #[must_use]
    pub fn find(self, kind: u16) -> Option<&'a [u8]> {
        self.into_iter().find_map(|(found, payload)| (found == kind).then_some(payload))
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (header, _) = self.rest.split_first_chunk::<HEADER_LEN>()?;
        let len = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & KIND_MASK;
        let Some(payload) = self.rest.get(HEADER_LEN..len) else {
            self.rest = &[];
            return None;
        };
        self.rest = self.rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, payload))
    }
}

/// A 16-bit number in network order.
#[must_use]
pub fn be16(payload: &[u8]) -> Option<u16> {
    payload.try_into().ok().map(u16::from_be_bytes)
}

/// A 32-bit number in network order.
#[must_use]
pub fn be32(payload: &[u8]) -> Option<u32> {
    payload.try_into().ok().map(u32::from_be_bytes)
}

/// A 64-bit number in network order.
#[must_use]
pub fn be64(payload: &[u8]) -> Option<u64> {
    payload.try_into().ok().map(u64::from_be_bytes)
}

/// Text up to its terminating zero byte, if there is one.
#[must_use]
pub fn text(payload: &[u8]) -> Option<String> {
    let end = payload.iter().position(|&byte| byte == 0).unwrap_or(payload.len());
    String::from_utf8(payload[..end].to_vec()).ok()
}

/// Writes attributes behind one another.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// What was written.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Appends raw bytes: a header.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// An attribute of bytes.
    ///
    /// # Panics
    /// Where `payload` is longer than 65,531 bytes.
    pub fn bytes(&mut self, kind: u16, payload: &[u8]) -> &mut Self {
        let start = self.open(kind);
        self.bytes.extend_from_slice(payload);
        self.close(start);
        self
    }

    /// An attribute of text, terminated by a zero byte.
    pub fn text(&mut self, kind: u16, text: &str) -> &mut Self {
        let start = self.open(kind);
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
        self.close(start);
        self
    }

    /// An attribute of one byte.
    pub fn u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.bytes(kind, &[value])
    }

    /// A 16-bit number in network order.
    pub fn u16(&mut self, kind: u16, value: u16) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// A 32-bit number in network order.
    pub fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// A 64-bit number in network order.
    pub fn u64(&mut self, kind: u16, value: u64) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// An attribute that holds what `write` writes.
    ///
    /// # Panics
    /// Where that is longer than 65,531 bytes.
    pub fn nest(&mut self, kind: u16, write: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.open(kind | NESTED);
        write(self);
        self.close(start);
        self
    }

    fn open(&mut self, kind: u16) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        start
    }

    fn close(&mut self, start: usize) {
        let len = u16::try_from(self.bytes.len() - start).expect("attributes are bounded by their writers");
        self.bytes[start..start + 2].copy_from_slice(&len.to_ne_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read() {
        let mut writer = Writer::default();
        writer.u8(1, 7).u16(2, 0x1234).text(3, "table");
        writer.nest(4, |inner| {
            inner.u32(1, 0xdead_beef).u64(2, 1).bytes(3, b"abc");
        });
        let bytes = writer.into_bytes();
        assert_eq!(bytes.len() % 4, 0);
        let all: Vec<_> = Attributes::new(&bytes).collect();
        assert_eq!(all.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!(all[0].1, [7]);
        assert_eq!(be16(all[1].1), Some(0x1234));
        assert_eq!(text(all[2].1).as_deref(), Some("table"));
        let inner = Attributes::new(all[3].1);
        assert_eq!(inner.find(1).and_then(be32), Some(0xdead_beef));
        assert_eq!(inner.find(2).and_then(be64), Some(1));
        assert_eq!(inner.find(3), Some(&b"abc"[..]));
        assert_eq!(inner.find(4), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_an_end(bytes: Vec<u8>) {
            let total: usize = Attributes::new(&bytes).map(|(_, payload)| payload.len() + HEADER_LEN).sum();
            prop_assert!(total <= bytes.len());
        }
    }
}
