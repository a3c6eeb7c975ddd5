//! The configuration file. Any text is either a configuration or has mistakes, each with a place in the text.

use ginnel_control::config::Config;

/// Runs the target.
pub fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match Config::parse(text) {
        Ok(config) => {
            assert_eq!(Config::parse(text).as_ref(), Ok(&config));
            assert!(config.needs_restart(&config).is_empty(), "nothing has changed");
            assert!(config.said.keys().all(|key| ginnel_control::config::KEYS.iter().any(|known| known.name == *key)));
        }
        Err(problems) => {
            assert!(!problems.is_empty(), "a refusal has a reason");
            let lines = text.split('\n').count();
            for problem in problems {
                assert!((1..=lines).contains(&problem.line) && problem.column > 0, "{problem}");
                assert!(!problem.message.is_empty());
            }
        }
    }
}
