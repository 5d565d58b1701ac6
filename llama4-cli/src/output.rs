//! The only place that writes: results to stdout, everything else to stderr.

use std::fmt;
use std::io::{self, IsTerminal, Write};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use tracing_subscriber::EnvFilter;

use crate::args::MessageArgs;

/// Whoever read stdout has closed it. The run ends, and that is a success.
#[derive(Debug)]
pub(crate) struct StdoutClosed;

impl fmt::Display for StdoutClosed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("stdout is closed")
    }
}

impl std::error::Error for StdoutClosed {}

/// Where a command writes.
#[derive(Debug)]
pub(crate) struct Output {
    quiet: bool,
}

impl Output {
    /// Also starts logging to stderr.
    pub(crate) fn new(args: &MessageArgs) -> Self {
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| {
            let level = ["warn", "info", "debug"].get(usize::from(args.verbose)).unwrap_or(&"trace");
            // wgpu warns of whatever a driver has not, needed or not.
            let wgpu = if args.verbose == 0 { "error" } else { "warn" };
            EnvFilter::new(format!("warn,wgpu_hal={wgpu},llama4={level},llama4_cli={level}"))
        });
        // A second subscriber is refused; there is none but in tests.
        let _ = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(io::stderr)
            .with_ansi(io::stderr().is_terminal())
            // Where stderr is closed, telling stderr so would end the program.
            .log_internal_errors(false)
            .try_init();
        Self { quiet: args.quiet }
    }

    /// Write part of a result, visible at once.
    pub(crate) fn write(&self, text: &str) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let mut stdout = io::stdout().lock();
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(StdoutClosed.into()),
            result => result.context("cannot write to stdout"),
        }
    }

    /// Write a line of a result.
    pub(crate) fn line(&self, text: impl fmt::Display) -> Result<()> {
        self.write(&format!("{text}\n"))
    }

    /// Write a JSON object on a line of its own.
    pub(crate) fn json(&self, value: &impl Serialize) -> Result<()> {
        self.line(serde_json::to_string(value).context("cannot write JSON")?)
    }

    /// Say how it went, on stderr, unless told to be quiet.
    pub(crate) fn note(&self, text: impl fmt::Display) {
        if !self.quiet {
            say(text);
        }
    }

    /// Say what the user has asked for, on stderr: it is no result.
    pub(crate) fn answer(&self, text: impl fmt::Display) {
        say(text);
    }

    /// Say something the user has to know, on stderr.
    pub(crate) fn warn(&self, text: impl fmt::Display) {
        say(format_args!("warning: {text}"));
    }

    /// Say why the run failed, on stderr, with all causes.
    pub(crate) fn error(&self, error: &anyhow::Error) {
        say(format_args!("error: {error:#}"));
    }

    /// A bar on stderr that counts bytes; invisible where stderr is no terminal. It is gone once it is dropped.
    pub(crate) fn bytes_bar(&self) -> Bar {
        let target = match self.quiet {
            true => ProgressDrawTarget::hidden(),
            false => ProgressDrawTarget::stderr(),
        };
        let template = "{msg} {wide_bar} {bytes} of {total_bytes}, {bytes_per_sec}, {eta}";
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        Bar(ProgressBar::with_draw_target(None, target).with_style(style))
    }
}

/// On stderr; where that is closed there is nobody to tell.
fn say(text: impl fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// A progress bar that cleans up after itself.
pub(crate) struct Bar(ProgressBar);

impl Bar {
    /// `done` of `total` bytes.
    pub(crate) fn at(&self, message: &str, done: u64, total: u64) {
        if self.0.length() != Some(total) {
            self.0.set_length(total);
            self.0.set_message(message.to_owned());
        }
        self.0.set_position(done);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
