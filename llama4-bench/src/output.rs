//! The only place that writes: results to stdout, everything else to stderr.

use std::fmt;
use std::io::{self, IsTerminal, Write};

use anyhow::{Context, Result};

/// Write a result. Whoever reads may have seen enough and closed stdout: that is no failure.
pub(crate) fn write(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("cannot write to stdout"),
        _ => Ok(()),
    }
}

/// Say something on stderr; where that is closed there is nobody to tell.
pub(crate) fn say(text: impl fmt::Display) {
    let clear = if io::stderr().is_terminal() { "\r\x1b[K" } else { "" };
    let _ = writeln!(io::stderr().lock(), "{clear}{text}");
}

/// What is being done, on a line of stderr that the next one replaces; nothing where stderr is no terminal.
pub(crate) fn progress(text: impl fmt::Display) {
    if io::stderr().is_terminal() {
        let mut stderr = io::stderr().lock();
        let _ = write!(stderr, "\r\x1b[K{text}").and_then(|()| stderr.flush());
    }
}

/// End the line of [`progress`].
pub(crate) fn clear() {
    progress("");
}
