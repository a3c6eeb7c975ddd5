//! The papers for operators name everything there is to name, and nothing else.

use ginnel_engine::drops::DropReason;
use ginnel_engine::port::Offload;
use ginnel_engine::stats::WorkerStats;
use std::collections::BTreeSet;
use std::path::Path;

fn paper(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The words in backquotes of the first column of the tables in a section.
fn first_column(paper: &str, heading: &str) -> BTreeSet<String> {
    let (_, section) = paper.split_once(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("no section {heading}"));
    let section = section.split("\n## ").next().unwrap_or_default();
    let cells = section.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    cells.flat_map(|cell| cell.split(", ")).map(|word| word.trim_matches(['`', ' ']).to_owned()).collect()
}

fn names<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    names.into_iter().map(str::to_owned).collect()
}

#[test]
fn drops_counters_and_offloads_are_explained() {
    let paper = paper("operate.md");
    assert_eq!(first_column(&paper, "Drops"), names(DropReason::ALL.iter().map(|reason| reason.name())));
    let counters = WorkerStats::default().counters().map(|(name, _)| name);
    assert_eq!(first_column(&paper, "Counters"), names(counters.into_iter().chain(["diverted_datagrams"])));
    let explained = first_column(&paper, "Offloads");
    assert!(names(Offload::ALL.map(Offload::name)).is_subset(&explained), "{explained:?}");
}

#[test]
fn every_operation_is_mentioned() {
    let paper = paper("ipc.md");
    for op in [
        "set_local_node_id",
        "set_local_wg_pubkey",
        "setup_global_overlay",
        "teardown_global_overlay",
        "setup_service_overlay",
        "teardown_service_overlay",
        "allocate_ip",
        "release_ip",
        "attach_container",
        "detach_container",
        "add_peer",
        "remove_peer",
        "add_allowed_ip",
        "remove_allowed_ip",
        "register_dns",
        "unregister_dns",
        "write_scoped_resolver",
        "remove_scoped_resolver",
        "prune_orphan_bridges",
        "status",
        "nat_tick",
        "nat_status",
        "shutdown",
    ] {
        assert!(paper.contains(&format!("`{op}`")), "{op}");
    }
}
