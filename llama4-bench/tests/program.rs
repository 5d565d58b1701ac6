//! The real program, on the CPU.

#![cfg(feature = "ndarray")]

use std::fs;
use std::path::Path;

use assert_cmd::Command;

fn program() -> Command {
    Command::new(assert_cmd::cargo::cargo_bin!("llama4-bench"))
}

/// A short run of the demo model's shape.
fn short(out: &Path) -> Command {
    let mut command = program();
    command.args(["run", "--backend", "ndarray", "--repeats", "2", "--decode-tokens", "4", "--max-seconds", "2"]);
    command.args(["--prefill", "16,100000", "--decode", "0,70", "--batch", "3", "--out"]).arg(out);
    command
}

#[test]
fn a_run_leaves_a_line_for_each_case_and_a_table() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("a.jsonl"), dir.path().join("b.jsonl"));
    let output = short(&first).assert().success().get_output().clone();
    let (table, said) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    // Further than the demo model's positions.
    assert!(said.contains("left out: prefill 100000"), "{said}");
    let lines: Vec<serde_json::Value> =
        fs::read_to_string(&first).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<&str> = lines.iter().map(|line| line["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["prefill 16", "decode at 0", "decode at 70", "decode 3 sequences at 128"]);
    for line in &lines {
        assert!(table.contains(line["name"].as_str().unwrap()), "{table}");
        assert!(line["median"].as_f64().unwrap() > 0.0 && line["share"]["read"].as_f64().unwrap() > 0.0, "{line}");
        assert_eq!((line["schema"].as_u64(), line["seconds"].as_array().unwrap().len()), (Some(1), 2), "{line}");
        assert!(line["p10"].as_f64() <= line["median"].as_f64() && line["median"].as_f64() <= line["p90"].as_f64());
    }

    short(&second).args(["--quantize", "q4"]).assert().success();
    let compared =
        program().args(["compare", "--forms"]).args([&first, &second]).assert().success().get_output().stdout.clone();
    let compared = String::from_utf8(compared).unwrap();
    assert!(compared.contains("f32") && compared.contains("q4 head q8 embedding bf16 in f32 (ratio)"), "{compared}");
    // Which of the two is faster is not for a test to say.
    for name in names {
        let line = compared.lines().find(|line| line.contains(name)).unwrap_or_else(|| panic!("{name}: {compared}"));
        let ratio =
            line.rsplit_once('(').and_then(|(_, rest)| rest.split_once(')')).map(|(ratio, _)| ratio.parse::<f64>());
        assert!(matches!(ratio, Some(Ok(ratio)) if ratio > 0.0), "{line}");
    }
    let image = dir.path().join("plot.svg");
    program().arg("plot").args([&first, &second]).arg("-o").arg(&image).assert().success();
    assert!(fs::read_to_string(&image).unwrap().contains("decode 3 sequences at 128"));
}

#[test]
fn operations_are_measured_alone() {
    let run = ["run", "--backend", "ndarray", "--prefill", "none", "--decode", "none", "--batch", "none"];
    let run =
        program().args(run).args(["--ops", "--repeats", "1", "--max-seconds", "0.1", "--json"]).assert().success();
    let lines = String::from_utf8(run.get_output().stdout.clone()).unwrap();
    // Ten operations for one token, all but unpacking for a piece of a prompt too.
    assert_eq!(lines.lines().count(), 19, "{lines}");
    for operation in ["linear, 1 token (256x256)", "packed_grouped_linear, 512 tokens", "cached_attention, 1 token"] {
        assert!(lines.contains(&format!("\"name\":\"{operation}")), "{operation}: {lines}");
    }
}

#[test]
fn a_checkpoint_is_loaded_as_a_case() {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/goldens/p1_scout_like");
    let run = ["run", "--backend", "ndarray", "--prefill", "8", "--decode", "none", "--batch", "none", "--json"];
    let run = program().args(run).args(["--repeats", "2", "--model"]).arg(demo).assert().success();
    let lines = String::from_utf8(run.get_output().stdout.clone()).unwrap();
    assert!(
        lines.starts_with("{\"schema\":1") && lines.contains("\"name\":\"load\",") && lines.contains("prefill 8"),
        "{lines}"
    );
}

#[test]
fn what_is_wrong_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.jsonl");
    fs::write(&file, "\n{\"schema\": 7}\n").unwrap();
    let error = |command: &mut Command, code: i32| {
        String::from_utf8(command.assert().code(code).get_output().stderr.clone()).unwrap()
    };
    let malformed = error(program().arg("compare").arg(&file), 1);
    assert!(malformed.contains("x.jsonl, line 2") && malformed.contains("schema 7"), "{malformed}");
    let layers = error(program().args(["run", "--layers", "7"]), 1);
    assert!(layers.contains("--layers") && layers.contains("6 layers"), "{layers}");
    error(program().args(["run", "--prefill", "many"]), 2);
    error(program().args(["run", "--llama-bench", "x"]), 2);
}

#[cfg(unix)]
#[test]
fn ctrl_c_keeps_what_was_measured() {
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("a.jsonl");
    let child = Command::new(assert_cmd::cargo::cargo_bin!("llama4-bench"))
        .args(["run", "--backend", "ndarray", "--prefill", "16", "--decode", "0", "--batch", "none"])
        // The second case does not come to its end by itself.
        .args(["--repeats", "2", "--decode-tokens", "1000", "--max-seconds", "600", "--out"])
        .arg(&out)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while fs::read_to_string(&out).map_or(0, |text| text.lines().count()) == 0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "nothing was measured");
        std::thread::sleep(Duration::from_millis(5));
    }
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(String::from_utf8(output.stdout).unwrap().contains("prefill 16"));
    assert_eq!(fs::read_to_string(&out).unwrap().lines().count(), 1);
}
