//! Names: which texts are one, and the form by which they are looked up.

use hickory_proto::rr::Name;

/// Longest name, without the dot at its end (RFC 1035, section 2.3.4).
const NAME_BYTES_MAX: usize = 253;

/// Longest label.
const LABEL_BYTES_MAX: usize = 63;

/// Longest name on the wire (RFC 1035, section 3.1).
const WIRE_BYTES_MAX: usize = 255;

/// Why a text is no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NameFault(pub &'static str);

/// The name in lower case and without the dot at its end.
///
/// # Errors
/// [`NameFault`] says what a name is made of.
pub fn canonical(text: &str) -> Result<String, NameFault> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return Err(NameFault("it needs 1 to 253 characters"));
    }
    for label in name.split('.') {
        if label.is_empty() || label.len() > LABEL_BYTES_MAX {
            return Err(NameFault("each part between dots needs 1 to 63 characters"));
        }
        // Underscores are no host names, but service names have them (RFC 8552).
        if !label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)) {
            return Err(NameFault("letters, digits, '-' and '_' are allowed"));
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Err(NameFault("no part begins or ends with '-'"));
        }
    }
    Ok(name)
}

/// A name as it is looked up: its labels in lower case, each behind its length, without the root. Lives on the stack, for
/// there is one per query.
#[derive(Clone, Copy)]
pub(super) struct NameKey {
    bytes: [u8; WIRE_BYTES_MAX],
    length: usize,
}

impl NameKey {
    pub(super) fn of(name: &Name) -> Self {
        let mut key = Self { bytes: [0; WIRE_BYTES_MAX], length: 0 };
        name.iter().for_each(|label| key.push(label));
        key
    }

    /// The key of this label below `domain`, unless that were too long.
    pub(super) fn below(label: &[u8], domain: &[u8]) -> Option<Self> {
        let mut key = Self { bytes: [0; WIRE_BYTES_MAX], length: 0 };
        if label.len() + 2 + domain.len() > WIRE_BYTES_MAX {
            return None;
        }
        key.push(label);
        key.bytes[key.length..key.length + domain.len()].copy_from_slice(domain);
        key.length += domain.len();
        Some(key)
    }

    fn push(&mut self, label: &[u8]) {
        // A parsed name is never longer than the array; its labels are never longer than their length byte can say.
        let end = self.length + 1 + label.len();
        let (Some(place), Ok(length)) = (self.bytes.get_mut(self.length..end), u8::try_from(label.len())) else {
            return;
        };
        place[0] = length;
        place[1..].copy_from_slice(label);
        place[1..].make_ascii_lowercase();
        self.length = end;
    }
}

impl std::ops::Deref for NameKey {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// What a key is below, label by label, the nearest first. Ends before the root.
pub(super) fn ancestors(key: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::successors(parent(key), |key| parent(key))
}

fn parent(key: &[u8]) -> Option<&[u8]> {
    let rest = key.get(1 + usize::from(*key.first()?)..)?;
    (!rest.is_empty()).then_some(rest)
}

/// The first label, and whether it is the only one.
pub(super) fn first_label(key: &[u8]) -> Option<(&[u8], bool)> {
    let end = 1 + usize::from(*key.first()?);
    Some((key.get(1..end)?, key.len() == end))
}

/// The name with this canonical text, absolute.
pub(super) fn absolute(text: &str) -> Name {
    let mut name = Name::from_ascii(text).unwrap_or_default();
    name.set_fqdn(true);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_whatever_their_case_and_last_dot() {
        for text in ["web.prod.local", "Web.PROD.local.", "_http._tcp.web", "a", "1.2", "xn--bcher-kva.example"] {
            let name = canonical(text).unwrap();
            assert_eq!(name, text.trim_end_matches('.').to_lowercase());
            assert_eq!(*NameKey::of(&absolute(&name)), *NameKey::of(&Name::from_ascii(text).unwrap()));
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = "a".repeat(64);
        let longer = ["a".repeat(63).as_str(); 4].join(".");
        for text in ["", ".", "..", "a..b", ".a", "a b", "a/b", "é", "-a", "a-.b", "a\0", "*.a", &long, &longer] {
            assert!(canonical(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_longest_names_have_keys_and_their_ancestors() {
        let long = [["a".repeat(63).as_str(); 3].join(".").as_str(), &"b".repeat(61)].join(".");
        let key = NameKey::of(&absolute(&canonical(&long).unwrap()));
        assert_eq!(key.len(), 254);
        assert_eq!(ancestors(&key).map(<[u8]>::len).collect::<Vec<_>>(), [190, 126, 62]);
        assert!(NameKey::below(b"x", &key).is_none());
        let short = NameKey::below(b"WEB", &NameKey::of(&absolute("prod.local"))).unwrap();
        assert_eq!(&*short, b"\x03web\x04prod\x05local");
        assert_eq!(first_label(&short), Some((b"web".as_slice(), false)));
        assert_eq!(first_label(b"\x01a"), Some((b"a".as_slice(), true)));
        assert_eq!(first_label(b""), None);
    }
}
