//! Ctrl-C: the first one ends a run after what is being computed, with all that was measured; the second one ends the program.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};

/// What a shell counts for a program that Ctrl-C ended.
pub(crate) const INTERRUPTED: u8 = 130;

static PRESSED: AtomicBool = AtomicBool::new(false);

/// Take over Ctrl-C; once, before a run.
pub(crate) fn install() -> Result<()> {
    ctrlc::set_handler(|| {
        if PRESSED.swap(true, Ordering::SeqCst) {
            #[expect(clippy::exit, reason = "the main thread computes and cannot be asked")]
            std::process::exit(i32::from(INTERRUPTED));
        }
    })
    .context("cannot take over Ctrl-C")
}

/// Whether Ctrl-C was pressed.
pub(crate) fn pressed() -> bool {
    PRESSED.load(Ordering::SeqCst)
}

/// An error where Ctrl-C was pressed.
pub(crate) fn check() -> Result<()> {
    if pressed() { Err(Stopped.into()) } else { Ok(()) }
}

/// Ctrl-C was pressed: not a failure of what was being done.
#[derive(Debug)]
pub(crate) struct Stopped;

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("stopped by Ctrl-C")
    }
}

impl std::error::Error for Stopped {}
