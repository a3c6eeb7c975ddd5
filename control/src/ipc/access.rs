//! Who may do what: roles, by what the kernel tells of the process at the other end of the socket.
//!
//! Users and groups are those the process had when it connected (`SO_PEERCRED`, `SO_PEERGROUPS`), supplementary groups
//! among them, so no user database is asked while requests run. The file of the socket decides who can connect at all;
//! without any configuration, its owner and group may do everything.

use super::wire::{ErrorCode, Fault, Request, Role};
use ginnel_backends::linux::local::peer_groups;
use std::fmt;
use std::os::fd::AsFd;
use tokio::net::UnixStream;

/// Who is at the other end of a connection, as the kernel tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// Effective user at the time of connecting; `None` where the kernel does not say.
    pub uid: Option<u32>,
    /// Process at the time of connecting.
    pub pid: Option<i32>,
}

/// What roles go by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The process.
    pub caller: Caller,
    /// Its groups, the effective one first.
    pub gids: Vec<u32>,
}

impl Credentials {
    /// Those of the process that opened `stream`; nobody's where the kernel does not tell.
    #[must_use]
    pub fn of(stream: &UnixStream) -> Self {
        let Ok(told) = stream.peer_cred() else { return Self::default() };
        let mut gids = vec![told.gid()];
        match peer_groups(stream.as_fd()) {
            Ok(groups) => gids.extend(groups),
            Err(error) => tracing::debug!(%error, "the supplementary groups of a caller cannot be read"),
        }
        Self { caller: Caller { uid: Some(told.uid()), pid: told.pid() }, gids }
    }
}

/// A user or a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Principal {
    /// By number.
    User(u32),
    /// By number.
    Group(u32),
}

impl Principal {
    fn matches(self, who: &Credentials) -> bool {
        match self {
            Self::User(uid) => who.caller.uid == Some(uid),
            Self::Group(gid) => who.gids.contains(&gid),
        }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(uid) => write!(f, "user:{uid}"),
            Self::Group(gid) => write!(f, "group:{gid}"),
        }
    }
}

/// Who has which role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// May do everything.
    pub admin: Vec<Principal>,
    /// May attach and detach.
    pub attach: Vec<Principal>,
    /// May look.
    pub read: Vec<Principal>,
    /// Where this is set, for those who are refused.
    pub set_in: String,
}

impl Policy {
    /// The greatest role of `who`, if any.
    #[must_use]
    pub fn role_of(&self, who: &Credentials) -> Option<Role> {
        let has = |principals: &[Principal]| principals.iter().any(|principal| principal.matches(who));
        let by_role = [(Role::Admin, &self.admin), (Role::Attach, &self.attach), (Role::Read, &self.read)];
        by_role.into_iter().find(|(_, principals)| has(principals)).map(|(role, _)| role)
    }

    /// All roles of `who`, least first.
    #[must_use]
    pub fn roles_of(&self, who: &Credentials) -> Vec<Role> {
        let greatest = self.role_of(who);
        Role::ALL.into_iter().filter(|role| Some(*role) <= greatest).collect()
    }

    /// Whether `who` may ask this.
    ///
    /// # Errors
    /// [`ErrorCode::Forbidden`], naming the role that is missing and how to get it.
    pub fn permit(&self, who: &Credentials, request: &Request) -> Result<(), Fault> {
        let Some(needed) = request.role() else { return Ok(()) };
        let has = self.role_of(who);
        if has >= Some(needed) {
            return Ok(());
        }
        let name =
            who.caller.uid.map_or_else(|| "a caller the kernel does not name".to_owned(), |uid| format!("uid {uid}"));
        let has = has.map_or_else(|| "has no role".to_owned(), |role| format!("has {}", role.name()));
        let (op, needed) = (request.op(), needed.name());
        let fault = Fault::new(ErrorCode::Forbidden, format!("{op} needs the role {needed}, and {name} {has}"));
        Err(match who.caller.uid {
            Some(uid) => fault.with_hint(format!("add \"user:{uid}\" to access.{needed} in {}", self.set_in)),
            None => fault,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(uid: u32, gids: &[u32]) -> Credentials {
        Credentials { caller: Caller { uid: Some(uid), pid: Some(1) }, gids: gids.to_vec() }
    }

    fn policy() -> Policy {
        Policy {
            admin: vec![Principal::User(0), Principal::Group(10)],
            attach: vec![Principal::User(1000)],
            read: vec![Principal::Group(20)],
            set_in: "/etc/x.toml".into(),
        }
    }

    #[test]
    fn the_greatest_role_counts_and_includes_the_lesser() {
        let policy = policy();
        for (who, role) in [
            (who(0, &[0]), Some(Role::Admin)),
            (who(5, &[5, 10]), Some(Role::Admin)),
            (who(1000, &[1000, 20]), Some(Role::Attach)),
            (who(7, &[20]), Some(Role::Read)),
            (who(7, &[7]), None),
            // A uid is no gid.
            (who(10, &[1000]), None),
            (Credentials::default(), None),
        ] {
            assert_eq!(policy.role_of(&who), role, "{who:?}");
        }
        assert_eq!(policy.roles_of(&who(1000, &[])), [Role::Read, Role::Attach]);
        assert_eq!(policy.roles_of(&who(7, &[])), []);
    }

    #[test]
    fn refusals_name_the_role_and_the_way_to_it() {
        let attach = Request::UnregisterDns { name: "x".into() };
        let fault = policy().permit(&who(7, &[20]), &attach).unwrap_err();
        assert_eq!(fault.message, "unregister_dns needs the role attach, and uid 7 has read");
        assert_eq!(fault.hint.as_deref(), Some("add \"user:7\" to access.attach in /etc/x.toml"));
        assert_eq!((fault.code, fault.retryable), (Some(ErrorCode::Forbidden), false));
        let fault = policy().permit(&Credentials::default(), &Request::Status).unwrap_err();
        assert!(fault.message.ends_with("a caller the kernel does not name has no role"), "{}", fault.message);
        assert!(policy().permit(&who(7, &[]), &Request::Hello { client: None }).is_ok());
        assert!(policy().permit(&who(1000, &[]), &attach).is_ok());
        assert!(policy().permit(&who(1000, &[]), &Request::Shutdown).is_err());
    }
}
