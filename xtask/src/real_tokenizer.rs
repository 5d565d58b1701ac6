//! `cargo xtask real-tokenizer`: the vocabulary of the real Llama 4, for the tests that compare with it.
//!
//! Its licence keeps it out of the repository, so it is made on the machine that runs the tests. The work is done by
//! `fixtures/make_real_tokenizer.py`, which also converts a `tokenizer.model` that a user already has.

use std::path::Path;
use std::process::Command;

/// Arguments: `--force` makes the file again although it is there.
pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let force = match arguments {
        [] => false,
        [only] if only == "--force" => true,
        other => {
            return Err(format!("unexpected {}; the only option is --force", other.join(" ")));
        }
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("xtask lies outside of a workspace")?;
    let output = root.join("fixtures/real-tokenizer/tokenizer.json");
    if output.exists() && !force {
        println!("{} is there; --force makes it again", output.display());
        return Ok(());
    }
    let status = Command::new("python3")
        .arg(root.join("fixtures/make_real_tokenizer.py"))
        .arg("--output")
        .arg(&output)
        .status()
        .map_err(|error| format!("python3 could not be started: {error}"))?;
    if !status.success() {
        return Err(format!("the converter ended with {status}"));
    }
    println!("made {}", output.display());
    Ok(())
}
