//! The tests of the CPU's kernels under AddressSanitizer: they read and write with pointers.

use std::process::Command;

/// Cargo takes what the sanitizer is for apart from what builds: flags for a target do not reach build scripts.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The modules that read and write with pointers.
const TESTS: &str = "ops::cpu::kernels";

/// As much as kernels need to be themselves: with all optimisation, instrumented code takes the compiler more than seven minutes.
const OPTIMISED: &str = "profile.dev.package.llama4.opt-level=1";

/// Run them. Every test of a kernel goes through all levels that the processor has.
pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    if let Some(argument) = arguments.first() {
        return Err(format!("takes no argument, found {argument}"));
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let line = ["test", "--package=llama4", "--lib", "--locked", "--target", TARGET, "--config", OPTIMISED, TESTS];
    let status = Command::new(cargo)
        .args(line)
        // The flag is not stable; the compiler of the project has it nevertheless, and the sanitizer's library.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", "-Zsanitizer=address")
        .status()
        .map_err(|error| format!("cannot run cargo {}: {error}", line.join(" ")))?;
    if status.success() { Ok(()) } else { Err(format!("cargo {} failed: {status}", line.join(" "))) }
}
