//! The kernel and its settings: TUN, forwarding, filters, sizes, links, namespaces.

use super::{Finding, when};
use crate::cli::doctor::facts::{Facts, LinkFacts, TunFacts};

const TUN: &str = "/dev/net/tun";

pub(super) fn tun_missing(facts: &Facts) -> Vec<Finding> {
    when(facts.tun == TunFacts::Missing, || {
        Finding::error("no tunnel can be made: the kernel offers no TUN devices here")
            .seen(format!("{TUN} is not there, or its module is not"))
            .fix(format!("sudo modprobe tun; in a container: --device {TUN}"))
    })
}

pub(super) fn tun_denied(facts: &Facts) -> Vec<Finding> {
    let TunFacts::Denied(why) = &facts.tun else { return Vec::new() };
    let finding = Finding::warning("TUN devices are closed to this user, and to a daemon that has no other rights");
    vec![finding.seen(format!("{TUN}: {why}")).fix(format!("sudo chmod 0666 {TUN}; in a container: --device {TUN}"))]
}

pub(super) fn forwarding_off(facts: &Facts) -> Vec<Finding> {
    // The daemon switches it on for the first workload.
    if facts.daemon.as_ref().is_none_or(|daemon| daemon.status.attachment_count.unwrap_or_default() == 0) {
        return Vec::new();
    }
    let switch = "net/ipv4/ip_forward";
    when(facts.sysctl(switch) == Some("0"), || {
        Finding::error("packets do not get from containers to the overlay: the host does not forward")
            .seen(format!("/proc/sys/{switch} is 0: somebody switched it off after the daemon had switched it on"))
            .fix("sudo sysctl -w net.ipv4.ip_forward=1, and find out who sets it: grep -r ip_forward /etc/sysctl.*")
    })
}

/// The stricter of the switch for all and that of the device holds (ip-sysctl.rst).
pub(super) fn reverse_path_strict(facts: &Facts) -> Vec<Finding> {
    let Some(interface) = facts.interface() else { return Vec::new() };
    let value = |of: &str| facts.number(&format!("net/ipv4/conf/{of}/rp_filter"));
    let (Some(all), Some(own)) = (value("all"), value(interface)) else { return Vec::new() };
    // 2 is loose and, being the larger, wins over 1.
    when(all.max(own) == 1, || {
        Finding::warning("answers that come by another interface than their question went are dropped")
            .seen(format!("rp_filter is {all} for all and {own} for {interface}; the larger counts, and 1 is strict"))
            .fix(format!("sudo sysctl -w net.ipv4.conf.{interface}.rp_filter=2"))
    })
}

pub(super) fn mtu_too_large(facts: &Facts) -> Vec<Finding> {
    let Some(interface) = facts.interface() else { return Vec::new() };
    let Some(link) = facts.links.iter().find(|link| link.name == interface) else { return Vec::new() };
    let narrow: Vec<_> = facts.paths.iter().filter(|path| path.room < link.mtu).collect();
    let Some(room) = narrow.iter().map(|path| path.room).min() else { return Vec::new() };
    let evidence = narrow.iter().take(5).map(|path| {
        format!("the path to {} takes {} bytes, which leaves {} for the overlay", path.to, path.mtu, path.room)
    });
    let finding = Finding::warning("full-size packets are cut in pieces on their way, or lost")
        .seen(format!("{interface} has an MTU of {}", link.mtu))
        .all_seen(evidence);
    vec![finding.fix(format!(
        "the daemon follows within 30 s; if it does not: sudo ip link set {interface} mtu {room}, and the same on the other nodes"
    ))]
}

/// Links of this instance that the daemon does not know, and where none runs, of every instance.
pub(super) fn links_left(facts: &Facts) -> Vec<Finding> {
    let own = format!("ginnel:{}:", facts.state.instance);
    let marked: Vec<(&LinkFacts, &str)> =
        facts.links.iter().filter_map(|link| Some((link, link.alias.as_deref()?.strip_prefix(&own)?))).collect();
    let listed = |links: &[&LinkFacts]| {
        links
            .iter()
            .take(10)
            .map(|link| format!("{}: {}", link.name, link.alias.as_deref().unwrap_or_default()))
            .collect::<Vec<_>>()
    };
    if let Some(daemon) = &facts.daemon {
        let Some(known) = &daemon.service_links else { return Vec::new() };
        let unknown =
            |(link, object): &(&LinkFacts, &str)| object.starts_with("bridge:") && !known.contains(&link.name);
        let left: Vec<_> = marked.iter().filter(|marked| unknown(marked)).map(|(link, _)| *link).collect();
        let live = serde_json::json!({ "live_bridge_names": known });
        return when(!left.is_empty(), || {
            Finding::warning("bridges with the mark of this daemon belong to no service of it")
                .all_seen(listed(&left))
                .fix(format!("ginnel call prune_orphan_bridges '{live}'"))
        });
    }
    let left: Vec<_> = marked.iter().map(|(link, _)| *link).collect();
    when(!left.is_empty() && facts.state.locked_by.is_none(), || {
        let names: Vec<_> = left.iter().take(3).map(|link| format!("sudo ip link del {}", link.name)).collect();
        Finding::warning("links of a daemon that does not run are still there")
            .all_seen(listed(&left))
            .fix(format!("start it, and it takes them over; to do without it: {}", names.join("; ")))
    })
}

pub(super) fn nf_tables_missing(facts: &Facts) -> Vec<Finding> {
    when(facts.nf_tables == Some(false), || {
        Finding::error("containers cannot be fenced, so they are not attached: the kernel has no nf_tables")
            .seen("a netlink socket for nf_tables gives no answer")
            .fix("sudo modprobe nf_tables nft_ct nft_masq, or a kernel with CONFIG_NF_TABLES")
    })
}

pub(super) fn conntrack(facts: &Facts) -> Vec<Finding> {
    let services = facts.daemon.as_ref().map_or(0, |daemon| daemon.status.service_count);
    let (count, most) = ("net/netfilter/nf_conntrack_count", "net/netfilter/nf_conntrack_max");
    match (facts.number(count), facts.number(most)) {
        (Some(held), Some(room)) => when(room > 0 && held.saturating_mul(10) > room.saturating_mul(9), || {
            Finding::warning("the table of connections is nearly full: new ones are dropped when it is")
                .seen(format!("{held} of {room} entries are used"))
                .fix(format!("sudo sysctl -w net.netfilter.nf_conntrack_max={}", room.saturating_mul(2)))
        }),
        _ => when(services > 0 && facts.sysctls.contains_key("net/ipv4/ip_forward"), || {
            Finding::warning("the kernel does not follow connections, which the fences of containers go by")
                .seen(format!("/proc/sys/{most} is not there"))
                .fix("sudo modprobe nf_conntrack")
        }),
    }
}

pub(super) fn user_namespaces_off(facts: &Facts) -> Vec<Finding> {
    let finding = |evidence: &str, fix: &str| {
        let finding = Finding::info("the demo needs root here: user namespaces are closed to others");
        vec![finding.seen(evidence).fix(fix)]
    };
    let is = |name: &str, value: u64| facts.number(name) == Some(value);
    if is("user/max_user_namespaces", 0) {
        finding("user.max_user_namespaces is 0", "sudo sysctl -w user.max_user_namespaces=15000")
    } else if is("kernel/unprivileged_userns_clone", 0) {
        finding("kernel.unprivileged_userns_clone is 0", "sudo sysctl -w kernel.unprivileged_userns_clone=1")
    } else if is("kernel/apparmor_restrict_unprivileged_userns", 1) {
        let fix = "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0";
        finding("kernel.apparmor_restrict_unprivileged_userns is 1", fix)
    } else {
        Vec::new()
    }
}
