//! Ctrl-C: the first one asks a run to end with what it has, the second one ends the program. Where nobody watches, the first
//! one does.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};

use crate::exit::INTERRUPTED;

static WATCHED: AtomicBool = AtomicBool::new(false);
static PRESSED: AtomicBool = AtomicBool::new(false);

/// Take over Ctrl-C; once, at the start.
pub(crate) fn install() -> Result<()> {
    ctrlc::set_handler(|| {
        if !WATCHED.load(Ordering::SeqCst) || PRESSED.swap(true, Ordering::SeqCst) {
            #[expect(clippy::exit, reason = "the main thread computes or waits for input and cannot be asked")]
            std::process::exit(i32::from(INTERRUPTED));
        }
    })
    .context("cannot take over Ctrl-C")
}

/// While this lives, the first Ctrl-C is only noted.
#[derive(Debug)]
pub(crate) struct Watch(());

impl Watch {
    pub(crate) fn begin() -> Self {
        PRESSED.store(false, Ordering::SeqCst);
        WATCHED.store(true, Ordering::SeqCst);
        Self(())
    }

    /// Whether Ctrl-C was pressed since the watch began.
    pub(crate) fn pressed(&self) -> bool {
        PRESSED.load(Ordering::SeqCst)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        WATCHED.store(false, Ordering::SeqCst);
    }
}
