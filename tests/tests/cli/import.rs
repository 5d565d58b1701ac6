//! Conversion, random checkpoints, checksums and the check of memory, through the binary.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::binary::{configure, copy, golden, json_lines, llama4, run, stderr, stdout};

/// A random checkpoint in a folder of its own.
fn synth() -> (TempDir, String) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let folder = dir.path().join("tiny").display().to_string();
    run(&mut llama4(&format!("synth --preset tiny --seed 7 --output {folder}"))).success();
    (dir, folder)
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("a folder");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn tokens(arguments: &str) -> Value {
    let assert =
        run(&mut llama4(&format!("generate --tokens 1,2,3 --temperature 0 -n 6 --json {arguments}"))).success();
    json_lines(assert.get_output())[0]["tokens"].clone()
}

#[test]
fn an_imported_checkpoint_generates_what_quantising_while_loading_does() {
    let (dir, source) = synth();
    for (choice, name) in [("--quantize q4", "a"), ("--quantize q8 --head q4 --embedding q8", "b"), ("", "c")] {
        let folder = dir.path().join(name).display().to_string();
        let import = format!("import --json {choice} --model {source} --output {folder}");
        let assert = run(&mut llama4(&import)).success();
        let report = &json_lines(assert.get_output())[0];
        assert_eq!(report["form"], "sharded safetensors");
        assert_eq!(report["files"].as_u64(), Some(names(Path::new(&folder)).len() as u64));
        assert_eq!(tokens(&format!("--model {folder}")), tokens(&format!("--model {source} {choice}")), "{choice}");

        let assert = run(&mut llama4(&format!("inspect --verify --json --model {folder}"))).success();
        assert!(stderr(assert.get_output()).contains("agree with their checksums"));
    }
}

#[test]
fn a_changed_byte_is_found_by_verifying() {
    let (dir, source) = synth();
    let folder = dir.path().join("out");
    run(&mut llama4(&format!("import --quantize q4 --model {source} --output {}", folder.display()))).success();
    let shard = folder.join("model-00001-of-00001.safetensors");
    let mut bytes = std::fs::read(&shard).expect("a shard");
    *bytes.last_mut().expect("not empty") ^= 1;
    std::fs::write(&shard, bytes).expect("a writable folder");
    let assert = run(&mut llama4(&format!("inspect --verify --model {}", folder.display()))).code(1);
    assert!(stderr(assert.get_output()).contains("model-00001-of-00001.safetensors is damaged"));
    // What has no checksums says so.
    let assert = run(&mut llama4(&format!("inspect --verify --model {}", golden("p1_scout_like")))).code(1);
    assert!(stderr(assert.get_output()).contains("SHA256SUMS"));
}

#[test]
fn a_folder_that_is_there_is_replaced_only_with_force() {
    let (dir, source) = synth();
    let import = format!("import --model {} --output {source}", golden("p1_scout_like"));
    let assert = run(&mut llama4(&import)).code(1);
    assert!(stderr(assert.get_output()).contains("is there and not empty"));
    run(&mut llama4(&format!("{import} --force"))).success();
    assert_eq!(names(dir.path()), ["tiny"]);
    let assert = run(&mut llama4(&format!("inspect --json --model {source}"))).success();
    assert_eq!(json_lines(assert.get_output())[0]["config"]["vocab_size"], 512);
}

#[test]
fn wrong_usage_is_told_from_failure() {
    for arguments in
        ["import --output x --head q8", "import --quantize q4", "synth --preset tiny", "synth --preset huge --output x"]
    {
        run(&mut llama4(arguments)).code(2);
    }
    let assert = run(&mut llama4("synth --preset scout --layers 49 --output x")).code(2);
    assert!(stderr(assert.get_output()).contains("48 layers"));
}

#[test]
fn an_estimate_needs_the_configuration_alone() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    std::fs::copy(Path::new(&golden("p1_scout_like")).join("config.json"), dir.path().join("config.json"))
        .expect("a golden");
    let arguments = format!("inspect --estimate --json --context 100 --batch 3 --model {}", dir.path().display());
    let assert = run(&mut llama4(&arguments)).success();
    let found = &json_lines(assert.get_output())[0]["estimates"][0];
    // Four layers of two heads of 16, key and value, four bytes each.
    assert_eq!(found["kv_cache"], json!(4 * 2 * 16 * 2 * 4 * 100 * 3));
    let floats = found["weights"].as_u64().expect("a number");
    assert_eq!(found["disk"].as_u64(), Some(floats / 2));
    let assert = run(&mut llama4(&format!("{arguments} --quantize q4"))).success();
    let packed = json_lines(assert.get_output())[0]["estimates"][0]["weights"].as_u64().expect("a number");
    assert!(packed < floats / 2, "{packed} of {floats}");
    let assert = run(&mut llama4(&arguments.replace("--json", ""))).success();
    assert!(stdout(assert.get_output()).contains("in all"));
}

#[test]
fn what_does_not_fit_in_memory_is_refused_with_the_numbers() {
    let dir = copy("p1_scout_like");
    configure(dir.path(), "max_position_embeddings", json!(2_147_483_647));
    let arguments = format!("generate --tokens 1,2 -n 1 --context 2000000000 --model {}", dir.path().display());
    let assert = run(&mut llama4(&arguments)).code(1);
    let message = stderr(assert.get_output());
    for part in ["key-value cache", "GB", "free", "--force"] {
        assert!(message.contains(part), "{part}: {message}");
    }
}

#[test]
#[cfg(target_os = "linux")]
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
fn a_full_disk_leaves_nothing_behind() {
    let (dir, source) = synth();
    let disk = dir.path().join("disk");
    std::fs::create_dir(&disk).expect("a folder");
    // A disk of 100 kB in a namespace of its own, where mounting is allowed.
    let program = llama4("").get_program().to_string_lossy().into_owned();
    let script = format!(
        "mount -t tmpfs -o size=100k tmpfs {disk} || exit 77; {program} import --model {source} --output {disk}/out; \
         echo code $?; ls -A {disk}",
        disk = disk.display()
    );
    let output = Command::new("unshare").args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]).output();
    let output = match output {
        Ok(output) if output.status.code() != Some(77) && output.status.success() => output,
        _ => {
            eprintln!("SKIPPED: a full disk cannot be made here: `unshare --user --mount` and `mount` do not work");
            return;
        }
    };
    let (said, printed) = (stderr(&output), stdout(&output));
    assert!(said.contains("No space left on device") && said.contains("cannot write"), "{said}");
    assert_eq!(printed.trim(), "code 1", "what is left: {printed}");
}

#[test]
#[cfg(unix)]
fn ctrl_c_stops_writing_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let arguments = format!("synth --preset scout --layers 1 --output {}", dir.path().join("out").display());
    let child = llama4(&arguments).stderr(std::process::Stdio::piped()).spawn().expect("the program starts");
    // It has begun once its unfinished folder is there, and takes many seconds from then on.
    while names(dir.path()).is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let status = Command::new("sh").arg("-c").arg(format!("kill -INT {}", child.id())).status();
    assert!(status.expect("a shell").success());
    let output = child.wait_with_output().expect("the program ends");
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(stderr(&output).contains("cancelled after"), "{}", stderr(&output));
    assert_eq!(names(dir.path()), Vec::<String>::new());
}
