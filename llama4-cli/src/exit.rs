//! What a run ends with, as a number for the shell.

use std::fmt;
use std::process::ExitCode;

use anyhow::Result;

use crate::output::{Output, StdoutClosed};

/// The run did what it was asked to.
const SUCCESS: u8 = 0;
/// The run failed.
const FAILURE: u8 = 1;
/// The command line asks for something that cannot be.
const USAGE: u8 = 2;
/// Stopped by Ctrl-C: 128 and the signal's number, as shells count.
pub(crate) const INTERRUPTED: u8 = 130;

/// How a command ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// As asked.
    Done,
    /// Early, by Ctrl-C, with what there was.
    Interrupted,
}

/// Wrong usage that shows only after the command line is parsed.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// `return Err(usage(…))`: exit code 2.
pub(crate) fn usage(message: impl Into<String>) -> anyhow::Error {
    Usage(message.into()).into()
}

/// Ctrl-C came while there was nothing to show yet.
#[derive(Debug)]
pub(crate) struct Stopped(pub(crate) String);

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Stopped {}

/// Print what is wrong, or the help that was asked for.
pub(crate) fn not_parsed(error: &clap::Error) -> ExitCode {
    // Where it cannot be printed there is nobody to tell.
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(USAGE))
}

/// The exit code of a run; an error is printed.
pub(crate) fn code(result: &Result<Outcome>, output: &Output) -> ExitCode {
    let code = match result {
        Ok(Outcome::Done) => SUCCESS,
        Ok(Outcome::Interrupted) => INTERRUPTED,
        // Whoever reads has seen enough: `llama4-cli generate | head -c 100`.
        Err(error) if error.is::<StdoutClosed>() => SUCCESS,
        Err(error) => {
            output.error(error);
            match () {
                () if error.is::<Usage>() => USAGE,
                () if error.is::<Stopped>() => INTERRUPTED,
                () => FAILURE,
            }
        }
    };
    ExitCode::from(code)
}
