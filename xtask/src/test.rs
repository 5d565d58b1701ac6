//! What a change has to pass: format, tests, lints, documentation.

use std::process::Command;

/// Arguments to cargo of each step of the tests.
const TEST: &[&[&str]] = &[&["fmt", "--all", "--check"], &["test", "--workspace", "--locked"]];

/// Arguments to cargo of each step of the lints.
const LINT: &[&[&str]] = &[
    &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"],
    &["doc", "--workspace", "--no-deps", "--locked"],
];

/// Check the format and run all tests.
pub(crate) fn test(arguments: &[String]) -> Result<(), String> {
    run(arguments, TEST)
}

/// Run clippy and build the documentation, warnings being errors.
pub(crate) fn lint(arguments: &[String]) -> Result<(), String> {
    run(arguments, LINT)
}

/// Run all steps; stop at the first that fails.
fn run(arguments: &[String], steps: &[&[&str]]) -> Result<(), String> {
    if let Some(argument) = arguments.first() {
        return Err(format!("takes no argument, found {argument}"));
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    for step in steps {
        let line = format!("cargo {}", step.join(" "));
        eprintln!("==> {line}");
        let status = Command::new(&cargo)
            .args(*step)
            .env("RUSTDOCFLAGS", "-D warnings")
            .status()
            .map_err(|error| format!("cannot run {line}: {error}"))?;
        if !status.success() {
            return Err(format!("{line} failed: {status}"));
        }
    }
    Ok(())
}
