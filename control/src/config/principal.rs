//! Users and groups as a file names them, and as the kernel numbers them.

use crate::ipc::access::Principal;
use nix::unistd::{Group, User};
use std::fmt;
use std::str::FromStr;

/// A user or group by name or number: `user:NAME`, `user:1000`, `group:NAME`, `group:1000`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrincipalSpec {
    is_group: bool,
    name: String,
}

impl FromStr for PrincipalSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, name) = text.split_once(':').unwrap_or((text, ""));
        let is_group = match kind {
            "user" => false,
            "group" => true,
            _ => {
                return Err(format!(
                    "{text:?} is neither user:NAME nor group:NAME; a number may take the place of NAME"
                ));
            }
        };
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(format!("{text:?} lacks the name or number behind {kind}:"));
        }
        Ok(Self { is_group, name: name.to_owned() })
    }
}

impl fmt::Display for PrincipalSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", if self.is_group { "group" } else { "user" }, self.name)
    }
}

/// Numbers for names. Whom the system does not know, which may change later, has no role and is logged.
#[must_use]
pub fn resolve(specs: &[PrincipalSpec]) -> Vec<Principal> {
    let found = specs.iter().filter_map(|spec| {
        let number = spec.number();
        if number.is_none() {
            tracing::warn!(%spec, "the configuration gives a role to somebody the system does not know");
        }
        number
    });
    found.collect()
}

impl PrincipalSpec {
    fn number(&self) -> Option<Principal> {
        let number = self.name.parse::<u32>().ok();
        if self.is_group {
            let group = || Group::from_name(&self.name).ok().flatten().map(|group| group.gid.as_raw());
            number.or_else(group).map(Principal::Group)
        } else {
            let user = || User::from_name(&self.name).ok().flatten().map(|user| user.uid.as_raw());
            number.or_else(user).map(Principal::User)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        let spec = |text: &str| text.parse::<PrincipalSpec>();
        for text in ["user:root", "user:0", "group:root", "group:1000"] {
            assert_eq!(spec(text).unwrap().to_string(), text);
        }
        for bad in ["", "root", "user:", "uid:0", "user:a b", ":0"] {
            assert!(spec(bad).is_err(), "{bad:?}");
        }
        let known = ["user:root", "group:root", "user:7", "user:nobody-has-this-name"].map(|text| spec(text).unwrap());
        assert_eq!(resolve(&known), [Principal::User(0), Principal::Group(0), Principal::User(7)]);
    }
}
