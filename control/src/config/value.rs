//! Values of the file as the settings want them. A refusal says what would do, and where in the value the mistake is.

use std::net::SocketAddr;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use toml::Spanned;
use toml::de::DeValue;

/// What is wrong with a value.
#[derive(Debug)]
pub(super) struct Complaint {
    pub(super) span: Range<usize>,
    pub(super) message: String,
}

pub(super) type Value<'a, 'i> = &'a Spanned<DeValue<'i>>;

pub(super) fn complaint<T>(value: Value<'_, '_>, message: impl Into<String>) -> Result<T, Complaint> {
    Err(Complaint { span: value.span(), message: message.into() })
}

/// A text that is not empty.
pub(super) fn text<'a>(value: Value<'a, '_>) -> Result<&'a str, Complaint> {
    match value.get_ref() {
        DeValue::String(text) if !text.is_empty() => Ok(text),
        DeValue::String(_) => complaint(value, "the text is empty: leave the key out instead"),
        other => complaint(value, format!("a text in quotes is wanted, not {}", article(other.type_str()))),
    }
}

/// An absolute path.
pub(super) fn path(value: Value<'_, '_>) -> Result<PathBuf, Complaint> {
    let path = PathBuf::from(text(value)?);
    if path.is_absolute() {
        return Ok(path);
    }
    complaint(value, format!("the path {} is relative: a daemon has no directory of its own", path.display()))
}

/// A whole number within bounds.
pub(super) fn number(value: Value<'_, '_>, bounds: RangeInclusive<u64>) -> Result<u64, Complaint> {
    let (least, most) = (bounds.start(), bounds.end());
    let wanted = format!("a number from {least} to {most} is wanted");
    match value.get_ref() {
        DeValue::Integer(number) => match u64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) if bounds.contains(&number) => Ok(number),
            _ => complaint(value, wanted),
        },
        other => complaint(value, format!("{wanted}, not {}", article(other.type_str()))),
    }
}

/// Yes or no.
pub(super) fn toggle(value: Value<'_, '_>) -> Result<bool, Complaint> {
    match value.get_ref() {
        DeValue::Boolean(yes) => Ok(*yes),
        other => complaint(value, format!("true or false is wanted, not {}", article(other.type_str()))),
    }
}

/// An array, each of its elements read by `read`.
pub(super) fn array<T>(
    value: Value<'_, '_>,
    read: impl Fn(Value<'_, '_>) -> Result<T, Complaint>,
) -> Result<Vec<T>, Complaint> {
    match value.get_ref() {
        DeValue::Array(elements) => elements.iter().map(read).collect(),
        other => complaint(value, format!("an array in [ ] is wanted, not {}", article(other.type_str()))),
    }
}

/// A socket address, or an address that gets `port`.
pub(super) fn address(value: Value<'_, '_>, port: u16) -> Result<SocketAddr, Complaint> {
    let text = text(value)?;
    match super::socket_addr(text, port) {
        Some(address) => Ok(address),
        None => complaint(value, format!("{text:?} is no address: ip, ip:port or [ip6]:port is wanted")),
    }
}

/// One of several words.
pub(super) fn choice<T: Copy>(
    value: Value<'_, '_>,
    all: &[T],
    name: impl Fn(T) -> &'static str,
) -> Result<T, Complaint> {
    let word = text(value)?;
    if let Some(found) = all.iter().find(|known| name(**known) == word) {
        return Ok(*found);
    }
    let names: Vec<_> = all.iter().map(|known| name(*known)).collect();
    let meant = nearest(word, names.iter().copied()).map(|name| format!("; did you mean {name:?}?"));
    complaint(value, format!("{word:?} is none of {}{}", names.join(", "), meant.unwrap_or_default()))
}

/// The known word that is spelled most like `word`, if one is near.
pub(super) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Below this, words have little in common but their letters.
    const LIKENESS_MIN: f64 = 0.75;
    let likeness = |name| (strsim::jaro_winkler(word, name), name);
    let best = known.map(likeness).max_by(|(a, _), (b, _)| a.total_cmp(b))?;
    (best.0 >= LIKENESS_MIN).then_some(best.1)
}

fn article(kind: &str) -> String {
    let vowel = kind.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {kind}", if vowel { "an" } else { "a" })
}
