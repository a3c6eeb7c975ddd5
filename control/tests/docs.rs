//! The papers for operators and clients name everything there is to name, and nothing else; their examples are true.

use clap::CommandFactory;
use ginnel_control::config::{Config, KEYS, example};
use ginnel_control::daemon::{DaemonArgs, Exit};
use ginnel_control::ipc::health::ConditionCode;
use ginnel_control::ipc::wire::{self, ErrorCode, EventKind, FEATURES, Frame, ObjectKind, Role, decode};
use ginnel_engine::drops::DropReason;
use ginnel_engine::port::Offload;
use ginnel_engine::stats::WorkerStats;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

fn text(name: &str) -> String {
    let path = path(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn paper(name: &str) -> String {
    text(&format!("docs/{name}"))
}

/// The part of a paper below a heading, to the next of the same kind.
fn section<'a>(paper: &'a str, heading: &str) -> &'a str {
    let (_, section) = paper.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no section {heading}"));
    section.split("\n## ").next().unwrap_or_default().split("\n### ").next().unwrap_or_default()
}

/// The words in backquotes of the first column of the tables in a section.
fn first_column(paper: &str, heading: &str) -> BTreeSet<String> {
    let cells = section(paper, heading).lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    let words = cells.flat_map(|cell| cell.split(", ")).map(|word| word.trim_matches(['`', ' ']).to_owned());
    words.collect()
}

fn names<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    names.into_iter().map(str::to_owned).collect()
}

/// The words that the tag `tag` can have in the definition `name` of the schema.
fn words(schema: &Value, name: &str, tag: &str) -> BTreeSet<String> {
    let variants = schema["$defs"][name]["oneOf"].as_array().unwrap_or_else(|| panic!("no variants of {name}"));
    let word = |variant: &Value| variant["properties"][tag]["const"].as_str().map(str::to_owned);
    variants.iter().map(|variant| word(variant).unwrap_or_else(|| panic!("{variant}"))).collect()
}

#[test]
fn drops_counters_and_offloads_are_explained() {
    let paper = paper("operate.md");
    assert_eq!(first_column(&paper, "## Drops"), names(DropReason::ALL.iter().map(|reason| reason.name())));
    let counters = WorkerStats::default().counters().map(|(name, _)| name);
    assert_eq!(first_column(&paper, "## Counters"), names(counters.into_iter().chain(["diverted_datagrams"])));
    let explained = first_column(&paper, "## Offloads");
    assert!(names(Offload::ALL.map(Offload::name)).is_subset(&explained), "{explained:?}");
}

#[test]
fn every_word_of_the_wire_is_explained() {
    let paper = paper("ipc.md");
    let schema: Value = serde_json::from_str(&wire::schema()).unwrap();
    let ops = words(&schema, "Request", "op");
    assert_eq!(ops.len(), 33);
    for op in &ops {
        assert!(paper.contains(&format!("`{op}`")), "{op}");
    }
    assert_eq!(first_column(&paper, "## Events"), words(&schema, "EventRecord", "event"));
    assert_eq!(first_column(&paper, "### Codes"), names(ErrorCode::ALL.map(ErrorCode::name)));
    assert_eq!(first_column(&paper, "### Roles"), names(Role::ALL.map(Role::name)));
    assert_eq!(first_column(&paper, "## list"), names(ObjectKind::ALL.map(ObjectKind::name)));
    assert_eq!(first_column(&paper, "## hello"), names(FEATURES.iter().copied()));
    assert_eq!(first_column(&paper, "## health"), names(ConditionCode::ALL.map(ConditionCode::name)));
    let status = schema["$defs"]["StatusSnapshot"]["properties"].as_object().unwrap();
    let explained = first_column(&paper, "## status");
    for field in status.keys().filter(|field| *field != "dedicated_services") {
        assert!(explained.contains(field), "{field}");
    }
}

#[test]
fn every_frame_in_the_paper_is_one_and_all_of_ours_are_shown() {
    let paper = paper("ipc.md");
    let schema: Value = serde_json::from_str(&wire::schema()).unwrap();
    let mut shown = BTreeSet::new();
    // Those in the figure stand before a remark.
    let lines = paper.lines().filter(|line| line.starts_with("{\"frame\"") && line.ends_with('}'));
    for line in lines {
        let frame = decode(line.as_bytes()).unwrap_or_else(|error| panic!("{line}: {error:?}"));
        let canonical: Value = serde_json::from_str(line).unwrap();
        assert_eq!(serde_json::to_value(&frame).unwrap(), canonical, "{line}");
        match frame {
            Frame::Request { request, .. } => shown.insert(format!("op {}", request.op())),
            Frame::Response { .. } => {
                if let Some(kind) = canonical["response"]["kind"].as_str() {
                    shown.insert(format!("kind {kind}"));
                }
                shown.insert(format!("result {}", canonical["response"]["result"].as_str().unwrap()))
            }
            Frame::Event(_) => shown.insert(format!("event {}", canonical["event"].as_str().unwrap())),
        };
    }
    let published = [
        "ok",
        "ip",
        "attached",
        "guest_config",
        "bridge_name",
        "status",
        "nat_status",
        "pruned_bridges",
        "service_overlay",
    ];
    let own = |result: &String| !published.contains(&result.as_str());
    let wanted = words(&schema, "EventRecord", "event").into_iter().map(|event| format!("event {event}"));
    let wanted =
        wanted.chain(words(&schema, "Response", "result").into_iter().filter(own).map(|r| format!("result {r}")));
    let wanted = wanted.chain(ObjectKind::ALL.map(|kind| format!("kind {}", kind.name())));
    let ops = ["hello", "subscribe", "unsubscribe", "list", "begin_sync", "end_sync", "gc", "health"];
    for word in wanted.chain(ops.map(|op| format!("op {op}"))) {
        assert!(shown.contains(&word), "{word} is not shown");
    }
    for kind in EventKind::ALL {
        assert!(words(&schema, "EventRecord", "event").contains(kind.name()), "{}", kind.name());
    }
}

/// Mend with `cargo run --bin ginnel -- schema > docs/ipc.schema.json`.
#[test]
fn the_schema_is_current() {
    assert!(paper("ipc.schema.json") == wire::schema(), "docs/ipc.schema.json is not what `ginnel schema` prints");
}

#[test]
fn every_key_variable_flag_and_status_is_explained() {
    let paper = paper("configure.md");
    assert_eq!(first_column(&paper, "## Keys"), names(KEYS.iter().map(|key| key.name)));
    for key in KEYS {
        let row = paper.lines().find(|line| line.starts_with(&format!("| `{}` ", key.name))).unwrap();
        let reload = row.split(" | ").nth(2).is_some_and(|cell| cell.trim() == "reload");
        assert_eq!(reload, key.reloads, "{row}");
    }
    #[derive(clap::Parser)]
    struct Flags {
        #[command(flatten)]
        _args: DaemonArgs,
    }
    for flag in Flags::command().get_arguments().filter(|flag| !flag.is_hide_set()) {
        let name = flag.get_long().unwrap();
        assert!(paper.contains(&format!("`--{name}")), "--{name}");
        if let Some(variable) = flag.get_env() {
            assert!(paper.contains(&format!("`{}`", variable.display())), "{}", variable.display());
        }
    }
    let statuses =
        [Exit::Done, Exit::Failed, Exit::NotPermitted, Exit::Misconfigured].map(|exit| exit.status().to_string());
    let explained = first_column(&paper, "## Exit status");
    for status in statuses {
        assert!(explained.contains(&status), "{status}");
    }
}

/// Mend with `GINNEL_MEND=1 cargo test --test docs`.
#[test]
fn the_example_of_the_configuration_is_current() {
    if std::env::var_os("GINNEL_MEND").is_some() {
        std::fs::write(path("contrib/ginneld.toml"), example()).unwrap();
    }
    let shipped = text("contrib/ginneld.toml");
    assert_eq!(shipped, example());
    assert_eq!(Config::parse(&shipped).unwrap(), Config::default());
}
