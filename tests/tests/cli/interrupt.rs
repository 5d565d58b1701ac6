#![cfg(unix)]

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::binary::{configure, copy, llama4, stderr};

fn start(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts")
}

/// Ctrl-C.
fn interrupt(child: &Child) {
    let status = Command::new("sh").arg("-c").arg(format!("kill -INT {}", child.id())).status();
    assert!(status.expect("a shell").success());
}

/// A run much longer than its test, but with an end, should nothing stop it.
fn endless() -> (tempfile::TempDir, String) {
    let dir = copy("p1_scout_like");
    configure(dir.path(), "max_position_embeddings", 30_000.into());
    let arguments =
        format!("generate --model {} --tokens 1,5,7 --ignore-eos --temperature 0 -n 20000", dir.path().display());
    (dir, arguments)
}

#[test]
fn ctrl_c_ends_a_run_with_what_there_is() {
    let (_dir, arguments) = endless();
    let mut child = start(&mut llama4(&arguments));
    let mut pipe = child.stdout.take().expect("a pipe");
    let mut bytes = vec![0; 100];
    pipe.read_exact(&mut bytes).expect("some tokens");
    interrupt(&child);
    // The run may have printed nothing more than the end of its line.
    pipe.read_to_end(&mut bytes).expect("the rest");
    let text = String::from_utf8(bytes).expect("text");
    assert!(text.ends_with('\n') && text.trim_end().ends_with(|last: char| last.is_ascii_digit()), "{text:?}");
    let output = child.wait_with_output().expect("the program ends");
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(stderr(&output).contains("cancelled"), "{}", stderr(&output));
}

#[test]
fn ctrl_c_leaves_valid_json() {
    let (_dir, arguments) = endless();
    let mut child = start(&mut llama4(&format!("{arguments} --json --verbose")));
    // The message of the loaded model; what follows takes much longer than the test waits.
    let mut messages = BufReader::new(child.stderr.take().expect("a pipe"));
    let mut line = String::new();
    while !line.contains("loaded") {
        line.clear();
        assert_ne!(messages.read_line(&mut line).expect("text"), 0, "the program says that the model is loaded");
    }
    std::thread::sleep(std::time::Duration::from_millis(300));
    interrupt(&child);
    let output = child.wait_with_output().expect("the program ends");
    assert_eq!(output.status.code(), Some(130));
    let line: Value = serde_json::from_slice(&output.stdout).expect("one JSON line");
    assert_eq!(line["finish_reason"], "cancelled");
    assert!(line["tokens"].as_array().is_some_and(|tokens| !tokens.is_empty()), "{line}");
}

#[test]
fn ctrl_c_ends_a_program_that_waits_for_input() {
    let child = start(llama4("generate --prompt -").stdin(Stdio::piped()));
    std::thread::sleep(std::time::Duration::from_millis(500));
    interrupt(&child);
    let mut child = child;
    // The pipe stays open: only the signal ends it.
    let stdin = child.stdin.take();
    assert_eq!(child.wait().expect("the program ends").code(), Some(130));
    drop(stdin);
}
