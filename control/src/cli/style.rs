//! Colours, where somebody looks at a terminal and has not asked for none (no-color.org).

use crate::ipc::wire::Severity;
use std::io::IsTerminal;

/// Whether to colour.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    colours: bool,
}

/// For standard output.
pub(super) fn of_stdout() -> Style {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    Style { colours: std::io::stdout().is_terminal() && !refused }
}

impl Style {
    /// Without colours.
    #[cfg(test)]
    pub(super) fn plain() -> Self {
        Self { colours: false }
    }

    /// The word for a severity, all of one width.
    pub(super) fn severity(self, severity: Severity) -> String {
        let colour = match severity {
            Severity::Error => "31",
            Severity::Warning => "33",
            Severity::Info => "36",
        };
        let word = format!("{:<8}", severity.name());
        if self.colours { format!("\x1b[{colour}m{word}\x1b[0m") } else { word }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_coloured_where_that_is_wanted() {
        assert_eq!(Style { colours: true }.severity(Severity::Error), "\x1b[31merror   \x1b[0m");
        assert_eq!(Style::plain().severity(Severity::Info), "info    ");
    }
}
