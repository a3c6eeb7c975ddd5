//! The committed corpora, run without libFuzzer: what was found once stays found.

use std::path::{Path, PathBuf};

/// Runs every file of the corpus of each target, and says which one fails.
#[test]
fn corpora_replay() {
    for (name, run) in ginnel_fuzz::TARGETS {
        let files = files(&root().join("corpus").join(name));
        assert!(files.len() >= 10, "the corpus of {name} is there");
        for path in files {
            let bytes = std::fs::read(&path).unwrap();
            let failed = std::panic::catch_unwind(|| run(&bytes)).is_err();
            assert!(!failed, "{}", path.display());
        }
    }
}

/// A target without a program, or a program without a target, would never be fuzzed.
#[test]
fn each_target_has_a_program() {
    let mut programs: Vec<_> = files(&root().join("fuzz_targets"))
        .iter()
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    programs.sort_unstable();
    assert_eq!(programs, ginnel_fuzz::TARGETS.map(|(name, _)| name));
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort_unstable();
    files
}
