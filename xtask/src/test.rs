//! What a change has to pass: format, tests, lints, documentation.

use std::process::Command;

/// Arguments to cargo of each step of the tests that every change has to pass.
const TEST: &[&[&str]] = &[
    &["fmt", "--all", "--check"],
    &["test", "--locked", "-p", "llama4", "--lib", "--test", "sampler", "--test", "stop_strings"],
    &["test", "--locked", "-p", "llama4-tests", "--test", "ndarray"],
];

/// Every test there is, those of the program and under autodiff too.
const TEST_ALL: &[&[&str]] = &[&["test", "--locked", "--workspace"]];

/// Arguments to cargo of each step of the lints.
const LINT: &[&[&str]] = &[
    &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"],
    &["doc", "--workspace", "--no-deps", "--locked"],
];

/// Check the format; run the library's tests and the suite on ndarray.
pub(crate) fn test(arguments: &[String]) -> Result<(), String> {
    run(arguments, TEST)
}

/// Run all tests of the workspace.
pub(crate) fn test_all(arguments: &[String]) -> Result<(), String> {
    run(arguments, TEST_ALL)
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
