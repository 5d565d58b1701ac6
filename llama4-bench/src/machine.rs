//! What a run was made on and from.

use std::fs;
use std::process::Command;

use serde::{Deserialize, Serialize};

/// The machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// The processor's name.
    pub(crate) cpu: String,
    /// Threads that the system gives this process.
    pub(crate) cores: usize,
    /// Bytes of memory.
    pub(crate) memory: u64,
    /// What the backend computed on.
    pub(crate) adapter: String,
}

impl Machine {
    pub(crate) fn here(adapter: String) -> Self {
        let mut system = sysinfo::System::new();
        system.refresh_memory();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { cpu: cpu(), cores, memory: system.total_memory(), adapter }
    }

    /// In words that a file name can have: `amd-epyc-2-cores`.
    pub(crate) fn slug(&self) -> String {
        let mut words = String::new();
        for letter in self.cpu.replace("(R)", "").replace("(TM)", "").chars().flat_map(char::to_lowercase) {
            match letter {
                letter if letter.is_ascii_alphanumeric() => words.push(letter),
                _ if words.ends_with('-') || words.is_empty() => {}
                _ => words.push('-'),
            }
        }
        format!("{}-{}-cores", words.trim_end_matches('-'), self.cores)
    }
}

/// The processor's name where the system tells, else its architecture.
fn cpu() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let names = info.lines().filter_map(|line| line.split_once(':').filter(|(key, _)| key.trim() == "model name"));
    match names.map(|(_, name)| name.trim()).find(|name| !name.is_empty() && *name != "unknown") {
        Some(name) => name.to_owned(),
        None => std::env::consts::ARCH.to_owned(),
    }
}

/// The revision of the source tree that this program was built in, `-dirty` where files differ from it; or what [`COMMIT`] says. `None` without
/// either.
pub(crate) fn commit() -> Option<String> {
    if let Ok(commit) = std::env::var(COMMIT) {
        return Some(commit);
    }
    let tree = env!("CARGO_MANIFEST_DIR");
    let git = |arguments: &[&str]| {
        let output = Command::new("git").arg("-C").arg(tree).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let revision = git(&["rev-parse", "--short=12", "HEAD"])?;
    let clean = git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty();
    Some(if clean { revision } else { format!("{revision}-dirty") })
}

/// Names the commit where a program runs without the repository that it was built from.
const COMMIT: &str = "LLAMA4_BENCH_COMMIT";

/// Forget the most memory that this process had, where the system can: what is asked later is then of what happened since.
pub(crate) fn forget_peak() {
    // Where it cannot be written, the peak is that of the whole process, which is what it says then too.
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// The most bytes of memory that this process had, where the system says.
pub(crate) fn peak_memory() -> Option<u64> {
    peak_memory_of(std::process::id())
}

/// The most bytes of memory that a process had, while it runs and where the system says.
pub(crate) fn peak_memory_of(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    high_water_mark(&status)
}

fn high_water_mark(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slug_can_be_a_file_name() {
        let machine = Machine { cpu: "AMD EPYC (R) 9R14 @ 2.6".into(), cores: 2, memory: 0, adapter: String::new() };
        assert_eq!(machine.slug(), "amd-epyc-9r14-2-6-2-cores");
    }

    #[test]
    fn the_peak_is_read_in_bytes() {
        assert_eq!(high_water_mark("Name:\tx\nVmHWM:\t  2048 kB\nVmRSS:\t 1 kB\n"), Some(2 << 20));
        assert_eq!(high_water_mark("Name:\tx\n"), None);
    }
}
