//! The tests of the CPU's kernels for AArch64, in an emulator where the machine is another.

use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "aarch64-unknown-linux-gnu";

/// What links for the target on another machine, and the folder with its C library, as Debian's packages have them.
const LINKER: &str = "aarch64-linux-gnu-gcc";
const ROOT: &str = "/usr/aarch64-linux-gnu";

/// What runs the target's programs on another machine.
const EMULATORS: [&str; 2] = ["qemu-aarch64", "qemu-aarch64-static"];

/// Run them. Every test of a kernel goes through all levels that the processor has; emulators have the dot product of bytes.
pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    if let Some(argument) = arguments.first() {
        return Err(format!("takes no argument, found {argument}"));
    }
    if !library()?.is_dir() {
        return Err(format!("the compiler has no standard library for {TARGET}: rustup target add {TARGET}"));
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let line = ["test", "--package", "llama4", "--lib", "--locked", "--target", TARGET, "ops::cpu"];
    let mut command = Command::new(cargo);
    command.args(line);
    if cfg!(not(target_arch = "aarch64")) {
        let lacking = |name: &str| format!("{name} is not on the path (Debian: gcc-aarch64-linux-gnu, qemu-user)");
        let linker = find(&[LINKER]).ok_or_else(|| lacking(LINKER))?;
        let emulator = find(&EMULATORS).ok_or_else(|| lacking(EMULATORS[0]))?;
        set(&mut command, "LINKER", &linker.display().to_string());
        set(&mut command, "RUNNER", &format!("{} -L {ROOT}", emulator.display()));
    }
    let status = command.status().map_err(|error| format!("cannot run cargo {}: {error}", line.join(" ")))?;
    if status.success() { Ok(()) } else { Err(format!("cargo {} failed: {status}", line.join(" "))) }
}

/// Where the compiler would have the target's standard library.
fn library() -> Result<PathBuf, String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .args(["--print", "target-libdir", "--target", TARGET])
        .output()
        .map_err(|error| format!("cannot run rustc: {error}"))?;
    Ok(Path::new(String::from_utf8_lossy(&output.stdout).trim()).to_owned())
}

/// The first of the programs that is on the path.
fn find(names: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    names
        .iter()
        .find_map(|name| std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file()))
}

/// Set what cargo takes from the environment for the target, unless it is set.
fn set(command: &mut Command, name: &str, value: &str) {
    let name = format!("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_{name}");
    if std::env::var_os(&name).is_none() {
        command.env(name, value);
    }
}
