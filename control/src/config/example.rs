//! The commented example: every key with its meaning and its default, drawn from the table of keys.

use super::{DEFAULT_PATH, KEYS};
use std::fmt::Write;

/// The text of the example file. All of its settings are comments, so it says nothing as it is.
#[must_use]
pub fn example() -> String {
    let mut text = format!(
        "# Settings of ginneld, to be read from {DEFAULT_PATH}. Every key is here, with its default or an example behind\n\
         # it. \"ginneld --check-config\" tells what is wrong with the file. Keys marked with (reload) take effect on\n\
         # \"systemctl reload ginneld\", the others at the next start. Flags and the environment override the file.\n"
    );
    let mut section = "";
    for key in KEYS {
        let (in_section, name) = key.name.rsplit_once('.').unwrap_or(("", key.name));
        // Writing to a string does not fail.
        if in_section != section {
            let _ = write!(text, "\n[{in_section}]");
            section = in_section;
            text.push('\n');
        }
        text.push('\n');
        let reload = if key.reloads { " (reload)" } else { "" };
        for line in format!("{}{reload}", key.about).lines() {
            let _ = writeln!(text, "# {line}");
        }
        let _ = writeln!(text, "#{name} = {}", key.value);
    }
    text
}
