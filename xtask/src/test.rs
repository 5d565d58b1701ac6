//! What a change has to pass: format, tests, lints, documentation.

use std::process::Command;

/// Arguments to cargo of each step.
const STEPS: &[&[&str]] = &[
    &["fmt", "--all", "--check"],
    &["test", "--workspace", "--locked"],
    &["test", "--package", "llama4-cli", "--features", "train", "--locked"],
    // Where there is no adapter these tests say so and pass, unless LLAMA4_REQUIRE_ADAPTER is set.
    &["test", "--package", "llama4-tests", "--features", "wgpu", "--test", "wgpu", "--locked"],
    // On large shapes, which the suite has no time for.
    &["test", "--package", "llama4", "--features", "wgpu", "--lib", "--locked", "--", "ops::cube"],
    &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"],
    &["clippy", "--package", "llama4-cli", "--features", "train", "--locked", "--", "-D", "warnings"],
    // CUDA is built nowhere but where there is a GPU, so that it is at least checked.
    &[
        "clippy",
        "--package=llama4-cli",
        "--package=llama4-bench",
        "--package=llama4-tests",
        "--all-targets",
        "--features=llama4-cli/cuda,llama4-cli/wgpu,llama4-bench/cuda,llama4-tests/cuda,llama4-tests/wgpu",
        "--locked",
        "--",
        "-D",
        "warnings",
    ],
    &["doc", "--workspace", "--no-deps", "--locked"],
];

/// Run all steps; stop at the first that fails.
pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    if let Some(argument) = arguments.first() {
        return Err(format!("takes no argument, found {argument}"));
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    for step in STEPS {
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
