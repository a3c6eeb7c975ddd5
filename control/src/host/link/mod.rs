//! Links: what the kernel tells of them, and what can be asked of them.

mod info;
mod message;
mod operation;

pub use info::{BridgeInfo, LinkInfo, LinkKind, PortFlags};
pub use message::LinkChange;
pub(crate) use message::{
    NewBridge, NewVeth, VethEnd, change, create_bridge, create_veth, delete, find, list, look_up, superpacket,
};

use super::HostError;

/// `RTM_NEWLINK` of `linux/rtnetlink.h`: a link as it is, asked for or not.
pub(super) const RTM_NEWLINK: u16 = 16;
/// `RTM_DELLINK`: a link as it was.
pub(super) const RTM_DELLINK: u16 = 17;

/// A link-layer address.
pub type Mac = [u8; 6];

/// Whether `name` can name an interface: what the kernel takes (`dev_valid_name`) without what would surprise, a `%`,
/// which is a template, and control characters.
///
/// # Errors
/// [`HostError::Name`] with the rule.
pub fn check_name(name: &str) -> Result<(), HostError> {
    let usable = (1..=15).contains(&name.len())
        && name != "."
        && name != ".."
        && !name.contains(|c: char| "/:%".contains(c) || c.is_whitespace() || c.is_control());
    if usable { Ok(()) } else { Err(HostError::Name(name.into())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_kernel_rule() {
        for good in ["a", "gnl-prod-0-g", "fifteen-bytes-x"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "sixteen-bytes-xy", "a/b", "a b", "a:b", "a%d", "a\tb", ".", "..", "a\0"] {
            assert!(matches!(check_name(bad), Err(HostError::Name(_))), "{bad:?}");
        }
    }
}
