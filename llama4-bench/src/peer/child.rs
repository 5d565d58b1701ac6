//! Another program, run to its end, and how much memory it took.

use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::machine;

/// How often its memory is looked at. The system keeps the most that there was, so that only what is taken in its last moments can be missed.
const INTERVAL: Duration = Duration::from_millis(20);

/// What a program left.
#[derive(Debug)]
pub(super) struct Finished {
    /// What it said on stdout.
    pub(super) stdout: Vec<u8>,
    /// The most memory that it had, where the system says: pages of mapped files are counted, as for ourselves.
    pub(super) host_peak: Option<u64>,
}

/// Run it.
///
/// The system's account of a child that is gone (`rusage`) is of no use: it counts what the parent held when the child began.
///
/// # Errors
/// When it does not start or does not end well; the error has the last that it said.
pub(super) fn run(command: &mut Command) -> Result<Finished> {
    let name = command.get_program().display().to_string();
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.with_context(|| format!("cannot run {name}"))?;
    let id = child.id();
    let (ended, end) = channel::<()>();
    let (output, host_peak) = thread::scope(|scope| {
        let watch = scope.spawn(move || {
            let mut peak = machine::peak_memory_of(id);
            while end.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                peak = peak.max(machine::peak_memory_of(id));
            }
            peak
        });
        let output = child.wait_with_output();
        drop(ended);
        (output, watch.join().unwrap_or_default())
    });
    let output = output.with_context(|| format!("cannot read what {name} says"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no reason given");
        bail!("{name} ended with {}: {last}", output.status);
    }
    Ok(Finished { stdout: output.stdout, host_peak })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_most_memory_is_the_childs_own() {
        // Far more than the child takes, held by the parent.
        let held = vec![1_u8; 256 << 20];
        // Each turn doubles a text in the shell: 32 MiB at the end, and then it waits to be looked at.
        let script = "x=xxxxxxxxxxxxxxxx; for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21; do x=$x$x; done; sleep 0.3; echo said";
        let finished = run(Command::new("sh").args(["-c", script])).unwrap();
        assert_eq!(finished.stdout, b"said\n");
        let peak = finished.host_peak.unwrap();
        assert!((32 << 20..192 << 20).contains(&peak), "{peak}");
        assert_eq!(held.iter().map(|byte| u64::from(*byte)).sum::<u64>(), 256 << 20);
    }
}
