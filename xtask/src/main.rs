//! The project's own chores, standard library only: `cargo xtask COMMAND`.

mod aarch64;
mod asan;
mod bench;
mod real_tokenizer;
mod test;

use std::process::ExitCode;

/// One chore.
struct Command {
    name: &'static str,
    /// What follows the name on the command line.
    arguments: &'static str,
    summary: &'static str,
    /// Takes what follows the name on the command line; an error is one sentence.
    run: fn(&[String]) -> Result<(), String>,
}

const COMMANDS: &[Command] = &[
    Command { name: "help", arguments: "", summary: "list the commands", run: help },
    Command {
        name: "test",
        arguments: "",
        summary: "format, tests, lints and documentation: all that a change has to pass",
        run: test::run,
    },
    Command {
        name: "asan",
        arguments: "",
        summary: "the tests of the CPU's kernels under AddressSanitizer (x86-64 Linux)",
        run: asan::run,
    },
    Command {
        name: "aarch64",
        arguments: "",
        summary: "the tests of the CPU's kernels for AArch64, emulated on other machines",
        run: aarch64::run,
    },
    Command {
        name: "bench",
        arguments: bench::ARGUMENTS,
        summary: "the same cases on every backend that this machine can build, into llama4-bench/runs (--quick: a few)",
        run: bench::run,
    },
    Command {
        name: "real-tokenizer",
        arguments: "",
        summary: "make fixtures/real-tokenizer/tokenizer.json from PyPI's llama-models (needs python3 with pip)",
        run: real_tokenizer::run,
    },
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (name, rest) = match arguments.split_first() {
        None => ("help", &[][..]),
        Some((name, _)) if name == "--help" || name == "-h" => ("help", &[][..]),
        Some((name, rest)) => (name.as_str(), rest),
    };
    let Some(command) = COMMANDS.iter().find(|command| command.name == name) else {
        eprintln!("xtask: there is no command {name}; `cargo xtask help` lists them");
        return ExitCode::from(2);
    };
    if matches!(rest, [flag, ..] if flag == "--help" || flag == "-h") {
        println!("{}", format!("cargo xtask {} {}", command.name, command.arguments).trim_end());
        println!("\n  {}", command.summary);
        return ExitCode::SUCCESS;
    }
    match (command.run)(rest) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask {name}: {message}");
            ExitCode::FAILURE
        }
    }
}

fn help(_: &[String]) -> Result<(), String> {
    println!("cargo xtask COMMAND\n");
    for command in COMMANDS {
        println!("  {:<16} {}", command.name, command.summary);
    }
    Ok(())
}
