//! Getting along with the firewalls of others.
//!
//! Accepting a packet in our chain does not save it from another chain that drops: Docker sets the policy of FORWARD to DROP,
//! firewalld ends its chains with a rejection, administrators do both. Where a chain of others closes like that, one rule at
//! its head lets pass what carries our mark, and nothing else: it is the same rule for every interface, and there is one
//! of it however many containers there are. It is made again when it vanishes and goes when we stop.
//!
//! In tables of iptables the rule is written as `iptables -m mark` writes it, so that every iptables can list it. Chains that
//! may not be changed, and the legacy iptables, whose rules netlink does not show, are findings for the operator.

mod legacy;
mod opening;
mod scan;

pub(super) use opening::{Openings, close};
