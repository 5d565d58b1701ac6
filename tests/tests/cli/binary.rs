//! The binary under test, and what tests do with it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use assert_cmd::assert::{Assert, OutputAssertExt};
use llama4_tests::golden::fixtures;
use serde_json::Value;

/// The program, built once with the profile of the tests.
///
/// It is another package's binary, so Cargo does not say where it is: build it and read the place from Cargo's messages.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        // …/target/[triple/]<profile>/deps/cli-<hash>
        let exe = std::env::current_exe().expect("the test's own path");
        let folder = exe.parent().and_then(Path::parent).expect("a profile's folder");
        let profile = match folder.file_name().and_then(|name| name.to_str()).expect("a profile") {
            "debug" => "dev",
            other => other,
        };
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args(["build", "--quiet", "--package", "llama4-cli", "--message-format", "json", "--profile", profile])
            .arg("--target-dir")
            .arg(folder.parent().expect("the target folder"))
            .current_dir(fixtures())
            .stderr(Stdio::inherit())
            .output()
            .expect("cargo runs");
        assert!(output.status.success(), "llama4-cli does not build");
        let messages = String::from_utf8(output.stdout).expect("cargo's messages");
        let place = messages.lines().find_map(|line| {
            let message: Value = serde_json::from_str(line).ok()?;
            (message["target"]["name"] == "llama4-cli").then(|| message["executable"].as_str().map(PathBuf::from))?
        });
        place.expect("cargo says where the program is")
    })
}

/// The program with arguments, split at blanks.
pub(crate) fn llama4(arguments: &str) -> Command {
    let mut command = Command::new(program());
    command.args(arguments.split_whitespace()).stdin(Stdio::null()).env_remove("RUST_LOG");
    command
}

/// The folder of a golden case.
pub(crate) fn golden(name: &str) -> String {
    fixtures().join("goldens").join(name).display().to_string()
}

/// A copy of a golden checkpoint, to be damaged or changed.
pub(crate) fn copy(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(Path::new(&golden(name)).join(file), dir.path().join(file)).expect("a golden case");
    }
    dir
}

/// Change a copy's config.json.
pub(crate) fn configure(dir: &Path, key: &str, value: Value) {
    let file = dir.join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&file).expect("a config")).expect("JSON");
    config[key] = value;
    std::fs::write(file, config.to_string()).expect("a writable copy");
}

/// Run it.
pub(crate) fn run(command: &mut Command) -> Assert {
    command.output().expect("the program starts").assert()
}

/// Run it with this stdin.
pub(crate) fn run_with(command: &mut Command, stdin: &[u8]) -> Assert {
    use std::io::Write;
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    // A program that fails early does not read.
    let _ = child.stdin.take().expect("a pipe").write_all(stdin);
    child.wait_with_output().expect("the program ends").assert()
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

/// The JSON lines of a successful run.
pub(crate) fn json_lines(output: &Output) -> Vec<Value> {
    stdout(output).lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
}
