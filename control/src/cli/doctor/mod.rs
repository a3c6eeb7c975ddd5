//! `ginnel doctor`: what keeps the overlay from working on this machine, what it was seen by, and what mends it. With a
//! daemon and without one.
//!
//! ```text
//! daemon, /proc, files, netlink ─► gather ─► Facts ─► CHECKS ─► findings ─► text or JSON
//! ```
//!
//! Nothing is changed. What may not be looked at is said, and is no finding.

mod checks;
mod facts;
mod gather;
mod proc;

use super::client::{Args, Place, print};
use super::json::{SCHEMA, text};
use super::show::now;
use super::style::{Style, of_stdout};
use crate::config::{Config, DEFAULT_PATH};
use crate::ipc::wire::Severity;
use checks::{CHECKS, Finding, examine};
use facts::Facts;
use serde_json::json;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Flags of `ginnel doctor`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    args: Args,
    /// Configuration file of the daemon [default: /etc/ginnel/ginneld.toml, where it exists]
    #[arg(long, value_name = "FILE", env = "GINNEL_CONFIG")]
    config: Option<PathBuf>,
}

/// Looks, tells, and fails where something is wrong.
pub(super) fn run(args: &DoctorArgs) -> ExitCode {
    let file = match &args.config {
        Some(path) => Config::read(path),
        None => Config::read_default(),
    };
    let place = Place::find(&args.args.target, file.as_ref().unwrap_or(&Config::default()));
    let path = args.config.as_deref().unwrap_or(Path::new(DEFAULT_PATH));
    let facts = gather::gather(&place, path, file, now());
    let findings = examine(&facts);
    print(&if args.args.json { json(&facts, &findings) } else { words(&facts, &findings, of_stdout()) });
    if is_well(&findings) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Nothing is worse than worth knowing.
fn is_well(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.severity == Severity::Info)
}

fn json(facts: &Facts, findings: &[Finding]) -> String {
    text(&json!({
        "schema": SCHEMA,
        "ok": is_well(findings),
        "socket": facts.socket.path,
        "daemon": facts.daemon.as_ref().map(|daemon| &daemon.status.version),
        "checks": CHECKS.iter().map(|check| json!({"code": check.code, "about": check.about})).collect::<Vec<_>>(),
        "findings": findings,
        "not_looked_at": facts.unseen,
    }))
}

fn words(facts: &Facts, findings: &[Finding], style: Style) -> String {
    let mut text = String::new();
    for finding in findings {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{} {} {}", style.severity(finding.severity), finding.code, finding.text);
        for evidence in &finding.evidence {
            let _ = writeln!(text, "              {evidence}");
        }
        if let Some(fix) = &finding.fix {
            let _ = writeln!(text, "         fix: {fix}");
        }
    }
    for unseen in &facts.unseen {
        let _ = writeln!(text, "not looked at: {unseen}");
    }
    let daemon = if facts.daemon.is_some() { "the daemon answers" } else { "the daemon does not answer" };
    let verdict = match (findings.len(), is_well(findings)) {
        (0, _) => "nothing is wrong".to_owned(),
        (some, true) => format!("nothing is wrong, {some} worth knowing"),
        (some, false) => format!("{some} found"),
    };
    let _ = writeln!(text, "{} checks, {daemon}: {verdict}", CHECKS.len());
    text
}

#[cfg(test)]
mod tests {
    use super::checks::CHECKS;
    use super::*;
    use crate::temp_dir::TempDir;
    use serde_json::Value;
    use std::os::unix::fs::PermissionsExt;

    /// The section Doctor of docs/operate.md has a row for each check, and says of it what the check says.
    #[test]
    fn the_paper_has_every_check() {
        let paper = include_str!("../../../../docs/operate.md");
        let (_, section) = paper.split_once("\n### Codes\n").expect("the section Codes");
        let rows = section.split("\n#").next().unwrap_or_default().lines().filter(|line| line.starts_with("| `G"));
        let rows: Vec<_> = rows.map(|line| line.split(" | ").take(2).collect::<Vec<_>>().join(" | ")).collect();
        let expected: Vec<_> = CHECKS.iter().map(|check| format!("| `{}` | {}", check.code, check.about)).collect();
        assert_eq!(rows, expected);
        assert!(paper.contains(&format!("\n{} checks, the daemon does not answer: 1 found\n", CHECKS.len())));
        assert!(CHECKS.is_sorted_by(|a, b| a.code < b.code), "codes are in order and each is there once");
    }

    #[test]
    fn a_machine_without_a_daemon_is_looked_at_and_left_as_it_is() {
        let dir = TempDir::new();
        let state = dir.join("state");
        std::fs::create_dir(&state).unwrap();
        std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o755)).unwrap();
        let config = dir.join("c.toml");
        std::fs::write(&config, "x = 1\n").unwrap();
        let place = Place { socket: dir.join("s"), state_dir: state.clone() };
        let facts = gather::gather(&place, &config, Config::read(&config), now());
        let findings = examine(&facts);
        let codes: Vec<_> = findings.iter().map(|finding| finding.code).collect();
        for code in ["G001", "G010", "G031"] {
            assert!(codes.contains(&code), "{code} is not among {codes:?}");
        }
        assert!(!is_well(&findings));
        assert_eq!(std::fs::read_dir(&state).unwrap().count(), 0);
        // A file nobody listens to.
        drop(std::os::unix::net::UnixListener::bind(dir.join("s")).unwrap());
        let facts = gather::gather(&place, &config, Config::parse("").map_err(|_| unreachable!()), now());
        assert_eq!(facts.socket.reach, facts::Reach::Dead);
        let told: Value = serde_json::from_str(&json(&facts, &examine(&facts))).unwrap();
        assert_eq!((&told["schema"], &told["ok"], &told["daemon"]), (&1.into(), &false.into(), &Value::Null));
        assert!(told["findings"].as_array().unwrap().iter().any(|finding| finding["code"] == "G011"), "{told}");
    }

    #[test]
    fn findings_are_told_with_evidence_and_what_mends_them() {
        let finding = Finding {
            code: "G010",
            severity: Severity::Error,
            text: "t".into(),
            evidence: vec!["e".into(), "f".into()],
            fix: Some("x".into()),
        };
        let facts = Facts { unseen: vec!["u".into()], ..Facts::default() };
        let told = words(&facts, &[finding], Style::plain());
        let lines: Vec<_> = told.lines().collect();
        assert_eq!(
            lines[..5],
            ["error    G010 t", "              e", "              f", "         fix: x", "not looked at: u"]
        );
        assert!(lines[5].ends_with("the daemon does not answer: 1 found"), "{told}");
        assert!(words(&facts, &[], Style::plain()).ends_with("nothing is wrong\n"));
    }
}
