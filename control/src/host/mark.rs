//! The mark on everything we make, by which it is found again and told from what others made.
//!
//! A link carries two: an alias (`ip link set … alias`) that names the instance and what the link is for, and a device
//! group, which the kernel sets in the request that makes the link, while an alias takes a second one. So a link that was
//! left half made by a crash is known as ours by its group. The alias decides wherever there is one.
//!
//! ```text
//! ginnel:prod-0:3f2a9c/eth0       alias: ginnel, instance, object
//! group 1734373219                hash of the instance
//! ```
//!
//! Routes, rules, addresses and neighbours carry the number [`PROTOCOL`] instead, which tells Ginnel's from others'; whose
//! of two instances they are shows by their link.

use super::{HostError, LinkInfo};
use siphasher::sip::SipHasher13;
use std::hash::Hasher;
use std::sync::Arc;

/// The `protocol` of our routes, rules, addresses and neighbours: a number that `rtnetlink.h` and iproute2's `rt_protos`
/// leave free.
pub const PROTOCOL: u8 = 98;

/// What every alias of ours begins with.
const OWNER: &str = "ginnel";

/// Longest alias: `IFALIASZ` less its terminating zero.
const ALIAS_BYTES_MAX: usize = 255;

/// Longest name of an instance, so that at least half of the alias is left for the object.
const INSTANCE_BYTES_MAX: usize = 120;

/// The mark of one instance. Clones are the same mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// `ginnel:<instance>:`.
    prefix: Arc<str>,
    group: u32,
}

/// Whose a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership<'a> {
    /// Ours, for this object.
    Ours(&'a str),
    /// Ours, but left before it was named.
    HalfMade,
    /// Another's: an administrator's, another program's or another instance's.
    Foreign,
}

impl Mark {
    /// The mark of `instance`, a name that tells it from others on this host.
    ///
    /// # Errors
    /// [`HostError::Instance`] where it is empty, too long, or has a colon, which ends it in the alias, or a character
    /// that does not show.
    pub fn new(instance: &str) -> Result<Self, HostError> {
        let usable = (1..=INSTANCE_BYTES_MAX).contains(&instance.len())
            && !instance.contains(|c: char| c == ':' || c.is_control() || c.is_whitespace());
        if !usable {
            return Err(HostError::Instance(instance.into()));
        }
        let prefix = format!("{OWNER}:{instance}:");
        let mut hasher = SipHasher13::new();
        hasher.write(prefix.as_bytes());
        // The kernel keeps groups in an int, and 0 is the group of every link that has none.
        let group = u32::try_from(hasher.finish() & 0x7fff_fffe).unwrap_or_default() + 1;
        Ok(Self { prefix: prefix.into(), group })
    }

    /// The alias of a link for `object`.
    ///
    /// # Errors
    /// [`HostError::Object`] where it does not fit an alias.
    pub fn alias(&self, object: &str) -> Result<String, HostError> {
        let fits = !object.is_empty() && self.prefix.len() + object.len() <= ALIAS_BYTES_MAX;
        if !fits || object.contains(char::is_control) {
            return Err(HostError::Object(object.into()));
        }
        Ok(format!("{}{object}", self.prefix))
    }

    /// The device group of our links.
    #[must_use]
    pub fn group(&self) -> u32 {
        self.group
    }

    /// Whose `link` is.
    #[must_use]
    pub fn ownership<'a>(&self, link: &'a LinkInfo) -> Ownership<'a> {
        match &link.alias {
            Some(alias) => alias.strip_prefix(&*self.prefix).map_or(Ownership::Foreign, Ownership::Ours),
            None if link.group == self.group => Ownership::HalfMade,
            None => Ownership::Foreign,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(alias: Option<&str>, group: u32) -> LinkInfo {
        LinkInfo { alias: alias.map(Into::into), group, ..LinkInfo::default() }
    }

    #[test]
    fn an_instance_knows_its_own() {
        let (a, b) = (Mark::new("prod-0").unwrap(), Mark::new("prod-1").unwrap());
        assert_ne!(a.group(), b.group());
        assert!(a.group() > 0 && i32::try_from(a.group()).is_ok());
        let alias = a.alias("3f2a:9c/eth0").unwrap();
        assert_eq!(alias, "ginnel:prod-0:3f2a:9c/eth0");
        let named = link(Some(&alias), 0);
        assert_eq!((a.ownership(&named), b.ownership(&named)), (Ownership::Ours("3f2a:9c/eth0"), Ownership::Foreign));
        let half = link(None, a.group());
        assert_eq!((a.ownership(&half), b.ownership(&half)), (Ownership::HalfMade, Ownership::Foreign));
        // An alias decides, also against the group.
        for alias in ["uplink", "ginnel", "ginnel:prod-0", "ginnel:prod-01:x", "ginnel:prod-1:x", "xginnel:prod-0:x"] {
            assert_eq!(a.ownership(&link(Some(alias), a.group())), Ownership::Foreign, "{alias}");
        }
        assert_eq!(a.ownership(&link(None, 0)), Ownership::Foreign);
    }

    #[test]
    fn what_would_be_ambiguous_is_no_name() {
        for instance in ["", "a:b", "a b", "a\n", &"x".repeat(121)] {
            assert!(matches!(Mark::new(instance), Err(HostError::Instance(_))), "{instance:?}");
        }
        let mark = Mark::new(&"x".repeat(120)).unwrap();
        assert_eq!(mark.alias(&"o".repeat(127)).unwrap().len(), 255);
        for object in [String::new(), "o".repeat(128), "a\0".into()] {
            assert!(matches!(mark.alias(&object), Err(HostError::Object(_))), "{object:?}");
        }
    }
}
