//! Standard output: results of commands, and nothing else. A reader that went away ends the writing quietly.

use std::io::{IsTerminal, Write};

use serde::Serialize;

/// Where and how results are written.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    /// One JSON object per line instead of words.
    pub json: bool,
}

impl Output {
    /// Writes one line. An error means that nobody reads any more, and is left alone.
    pub fn line(self, text: impl std::fmt::Display) {
        let _ = writeln!(std::io::stdout().lock(), "{text}");
    }

    /// Writes one JSON object on a line of its own.
    pub fn object(self, value: &impl Serialize) {
        if let Ok(text) = serde_json::to_string(value) {
            self.line(text);
        }
    }

    /// Whether bars can be drawn: both streams are a terminal and nobody asked for JSON.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        !self.json && std::io::stdout().is_terminal() && std::io::stderr().is_terminal()
    }
}

/// Says something to the person at the terminal, on standard error.
pub fn say(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// An error and its causes in a line. A cause that the one before already told is not told twice.
#[must_use]
pub fn causes(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |told, cause| match told.is_empty() {
        true => cause,
        false if told.ends_with(&cause) => told,
        false => format!("{told}: {cause}"),
    })
}

/// Colours, when standard output is a terminal and `NO_COLOR` is not set.
#[derive(Debug, Clone, Copy)]
pub struct Paint(bool);

impl Paint {
    /// Colours when the terminal shows them.
    #[must_use]
    pub fn new() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self(wanted && std::io::stdout().is_terminal())
    }

    /// No colours.
    #[must_use]
    pub fn off() -> Self {
        Self(false)
    }

    /// Whether there are colours.
    #[must_use]
    pub fn is_on(self) -> bool {
        self.0
    }

    fn with(self, code: &str, text: impl std::fmt::Display) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }

    /// For what went wrong.
    #[must_use]
    pub fn red(self, text: impl std::fmt::Display) -> String {
        self.with("31", text)
    }

    /// For what went well.
    #[must_use]
    pub fn green(self, text: impl std::fmt::Display) -> String {
        self.with("32", text)
    }

    /// For what may need a look.
    #[must_use]
    pub fn yellow(self, text: impl std::fmt::Display) -> String {
        self.with("33", text)
    }

    /// For headings.
    #[must_use]
    pub fn bold(self, text: impl std::fmt::Display) -> String {
        self.with("1", text)
    }

    /// For what may be overlooked.
    #[must_use]
    pub fn dim(self, text: impl std::fmt::Display) -> String {
        self.with("2", text)
    }
}

impl Default for Paint {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::causes;

    #[test]
    fn a_cause_is_told_once() {
        let error = anyhow::anyhow!("no such file").context("read a: no such file").context("start");
        assert_eq!(causes(&error), "start: read a: no such file");
        assert_eq!(causes(&anyhow::anyhow!("b").context("a")), "a: b");
    }
}
