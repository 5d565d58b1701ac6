//! `cargo xtask bench`: the same cases on every backend that this machine can build, or has programs of.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A backend, and how to see whether the machine can build and run it.
struct Backend {
    /// Name of the feature of `llama4-bench`.
    feature: &'static str,
    available: fn() -> bool,
    /// Whether it may be fast enough for layers of Scout.
    gpu: bool,
}

const BACKENDS: &[Backend] = &[
    Backend { feature: "ndarray", available: || true, gpu: false },
    Backend { feature: "wgpu", available: || has_library("libvulkan.so.1"), gpu: true },
    // SPIR-V fails on Vulkan in software, so only where there is a GPU.
    Backend { feature: "vulkan", available: || has_library("libvulkan.so.1") && has_gpu(), gpu: true },
    Backend { feature: "cuda", available: has_nvidia, gpu: true },
];

/// Runs of `llama4-bench run`, by their arguments: everywhere, and on GPUs alone.
const RUNS: &[&[&str]] = &[
    &["--preset", "demo", "--ops"],
    &["--preset", "cpu", "--layers", "4"],
    &["--preset", "cpu", "--layers", "4", "--quantize", "q8"],
    &["--preset", "cpu", "--layers", "4", "--quantize", "q4", "--ops"],
];
const GPU_RUNS: &[&[&str]] = &[
    &["--preset", "scout", "--layers", "4", "--ops"],
    &["--preset", "scout", "--layers", "4", "--quantize", "q4", "--ops"],
];

/// What `--quick` adds, and the only runs that it makes.
const QUICK: &[&str] =
    &["--repeats", "3", "--max-seconds", "5", "--prefill", "128,512", "--decode", "0,512", "--batch", "8"];
const QUICK_RUNS: &[&[&str]] =
    &[&["--preset", "demo"], &["--preset", "cpu", "--layers", "2", "--quantize", "q4", "--ops"]];

/// What the command takes.
pub(crate) const ARGUMENTS: &str = "[--quick] [--output DIR] [--programs DIR with llama4-bench-BACKEND, built elsewhere] [-- ARGUMENTS of one llama4-bench run]";

/// What was asked for.
#[derive(Debug, Default, PartialEq)]
struct Arguments {
    quick: bool,
    output: Option<PathBuf>,
    /// Where programs are, for machines that cannot build them: nothing is built then.
    programs: Option<PathBuf>,
    /// One run in place of the usual ones.
    own: Option<Vec<String>>,
}

pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let arguments = parse(arguments)?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("xtask lies outside of a workspace")?;
    let mut folder = arguments.output.clone();
    let mut files = Vec::new();
    let mut last = None;
    for backend in BACKENDS {
        if !(backend.available)() {
            eprintln!("==> {}: not on this machine", backend.feature);
            continue;
        }
        let program = match &arguments.programs {
            None => build(root, backend.feature)?,
            Some(programs) => programs.join(program_name(backend.feature)),
        };
        if !program.exists() {
            eprintln!("==> {}: there is no {}", backend.feature, program.display());
            continue;
        }
        let gpu = match is_software(&program) {
            Ok(software) => backend.gpu && !software,
            Err(message) => {
                eprintln!("==> {}: {message}", backend.feature);
                continue;
            }
        };
        let folder = match &folder {
            Some(folder) => folder,
            None => folder.insert(root.join("llama4-bench/runs").join(slug(&program)?)),
        };
        fs::create_dir_all(folder).map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
        let file = folder.join(format!("{}.jsonl", backend.feature));
        if file.exists() {
            fs::remove_file(&file).map_err(|error| format!("cannot replace {}: {error}", file.display()))?;
        }
        for run in runs(&arguments, gpu) {
            measure(&program, &run, &file);
        }
        if file.exists() {
            files.push(file);
        }
        last = Some(program);
    }
    let (Some(folder), Some(program)) = (folder, last) else {
        let from = arguments.programs.map(|programs| format!(": {} has no program that starts", programs.display()));
        return Err(format!("no backend could be measured{}", from.unwrap_or_default()));
    };
    write_comparison(&program, &files, &folder)
}

fn parse(arguments: &[String]) -> Result<Arguments, String> {
    let mut parsed = Arguments::default();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--quick" => parsed.quick = true,
            "--output" => parsed.output = Some(rest.next().ok_or("--output needs a folder")?.into()),
            "--programs" => parsed.programs = Some(rest.next().ok_or("--programs needs a folder")?.into()),
            "--" => {
                parsed.own = Some(rest.cloned().collect());
                break;
            }
            other => return Err(format!("unexpected {other}; usage: cargo xtask bench {ARGUMENTS}")),
        }
    }
    Ok(parsed)
}

/// Arguments of each run on a backend.
fn runs(arguments: &Arguments, gpu: bool) -> Vec<Vec<String>> {
    let owned = |run: &[&str]| run.iter().map(|word| (*word).to_owned()).collect::<Vec<String>>();
    let quick = if arguments.quick { owned(QUICK) } else { Vec::new() };
    let runs: Vec<Vec<String>> = match (&arguments.own, arguments.quick) {
        (Some(own), _) => vec![own.clone()],
        (None, true) => QUICK_RUNS.iter().map(|run| owned(run)).collect(),
        (None, false) => RUNS.iter().chain(GPU_RUNS.iter().filter(|_| gpu)).map(|run| owned(run)).collect(),
    };
    runs.into_iter().map(|run| [run, quick.clone()].concat()).collect()
}

/// Build `llama4-bench` with one backend: the program, under a name that the next build does not replace.
fn build(root: &Path, feature: &str) -> Result<PathBuf, String> {
    eprintln!("==> building {feature}");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let status = Command::new(cargo)
        .current_dir(root)
        .args(["build", "--release", "--locked", "--package", "llama4-bench", "--no-default-features"])
        .args(["--features", feature])
        .arg("--target-dir")
        .arg(&target)
        .status()
        .map_err(|error| format!("cargo could not be started: {error}"))?;
    if !status.success() {
        return Err(format!("llama4-bench with the feature {feature} does not build: {status}"));
    }
    let built = target.join("release/llama4-bench");
    let program = target.join("release").join(program_name(feature));
    fs::copy(&built, &program).map_err(|error| format!("cannot copy {}: {error}", built.display()))?;
    Ok(program)
}

/// Under which `llama4-bench` with one backend is kept, and found.
fn program_name(feature: &str) -> String {
    format!("llama4-bench-{feature}")
}

/// One run. One that fails, for lack of memory or of a type, leaves the others to be made.
fn measure(program: &Path, run: &[String], file: &Path) {
    eprintln!("==> {} run {}", program.display(), run.join(" "));
    // The table is written from the lines, once all are there.
    let status = Command::new(program).arg("run").args(run).arg("--out").arg(file).stdout(Stdio::null()).status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => eprintln!("==> that ended with {status}"),
        Err(error) => eprintln!("==> that could not be started: {error}"),
    }
}

/// What a program says on stdout.
fn said(program: &Path, arguments: &[&str], files: &[PathBuf]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).args(files).stderr(Stdio::inherit()).output();
    let output = output.map_err(|error| format!("{} could not be started: {error}", program.display()))?;
    if !output.status.success() {
        return Err(format!("{} {} ended with {}", program.display(), arguments.join(" "), output.status));
    }
    String::from_utf8(output.stdout).map_err(|_| format!("{} said what is no text", program.display()))
}

/// Date and machine.
fn slug(program: &Path) -> Result<String, String> {
    Ok(said(program, &["machine", "--slug"], &[])?.trim().to_owned())
}

fn write_comparison(program: &Path, files: &[PathBuf], folder: &Path) -> Result<(), String> {
    if files.is_empty() {
        return Err("nothing was measured".to_owned());
    }
    let mut text = format!("# Measured by `cargo xtask bench`\n\n{}", said(program, &["report"], files)?);
    if files.len() > 1 {
        let comparison = said(program, &["compare"], files)?;
        text += &format!("\n# Compared\n\nIn brackets the ratio to the first column.\n\n{comparison}");
    }
    let table = folder.join("table.md");
    fs::write(&table, text).map_err(|error| format!("cannot write {}: {error}", table.display()))?;
    let image = folder.join("plot.svg");
    said(program, &["plot", "--output", &image.to_string_lossy()], files)?;
    println!("{}", folder.display());
    Ok(())
}

/// Whether the linker's cache knows a library.
fn has_library(name: &str) -> bool {
    ["ldconfig", "/sbin/ldconfig"].iter().any(|ldconfig| {
        let output = Command::new(ldconfig).arg("-p").stderr(Stdio::null()).output();
        output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(name))
    })
}

/// Whether the program's first adapter is the processor.
fn is_software(program: &Path) -> Result<bool, String> {
    Ok(said(program, &["machine"], &[])?.contains("(software, "))
}

/// Whether the system has a device that renders, of whatever make.
fn has_gpu() -> bool {
    let renders = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with("renderD");
    has_nvidia() || fs::read_dir("/dev/dri").is_ok_and(|entries| entries.flatten().any(|entry| renders(&entry)))
}

fn has_nvidia() -> bool {
    let listed = Command::new("nvidia-smi").arg("-L").stdout(Stdio::null()).stderr(Stdio::null()).status();
    listed.is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn arguments_of_a_run_come_after_two_dashes() {
        let parsed = parse(&words("--quick --output x -- --preset cpu --layers 2")).unwrap();
        assert_eq!((parsed.quick, parsed.output.clone()), (true, Some("x".into())));
        let runs = runs(&parsed, false);
        assert_eq!(runs.len(), 1);
        assert!(runs[0].join(" ").starts_with("--preset cpu --layers 2 --repeats 3"), "{runs:?}");
        assert!(parse(&words("--slow")).unwrap_err().contains("--slow"));
        assert!(parse(&words("--output")).is_err());
        assert_eq!(parse(&words("--programs y")).unwrap().programs, Some("y".into()));
        assert!(parse(&words("--programs")).is_err());
    }

    #[test]
    fn gpus_run_more() {
        let all = Arguments::default();
        assert_eq!(runs(&all, true).len() - runs(&all, false).len(), GPU_RUNS.len());
    }
}
