use std::path::Path;

use assert_cmd::assert::Assert;
use llama4_tests::golden::fixtures;

use crate::binary::{configure, copy, golden, llama4, run, run_with, stderr, stdout};

/// The run ends with this code, says all of this on stderr, and nothing on stdout.
fn fails(assert: Assert, code: i32, said: &[&str]) {
    let assert = assert.code(code);
    let output = assert.get_output();
    let text = stderr(output);
    for part in said {
        assert!(text.contains(part), "should say {part:?}:\n{text}");
    }
    assert_eq!(stdout(output), "");
}

#[test]
fn wrong_usage_is_2_and_says_what_to_do() {
    let p1 = golden("p1_scout_like");
    let cases: &[(&str, &[&str])] = &[
        ("", &["Usage", "generate", "Examples"]),
        ("frobnicate", &["frobnicate"]),
        ("generate --temprature 1", &["--temprature"]),
        ("generate --tokens 1,x", &["`x` is not a token id"]),
        ("generate --tokens 1 --prompt a", &["--prompt"]),
        ("generate --system a", &["--chat"]),
        ("generate --logprobs 3", &["--json"]),
        ("generate --temperature -1", &["-1"]),
        ("generate --top-p 1.5", &["top_p is 1.5"]),
        ("generate --logit-bias 5", &["ID=VALUE"]),
        ("generate --prompt @", &["names no file"]),
        ("generate --prompt - --prompt -", &["stdin"]),
        ("generate --tokens 5,4096", &["4096", "0 to 4095"]),
        ("generate --logit-bias 4096=1", &["--logit-bias", "4096"]),
        ("generate --context 99999", &["99999", "1024"]),
        ("generate --context 2 --prompt Hello!", &["Hello!", "room for 2"]),
        ("logits --tokens 1,9999 --output x.safetensors", &["9999"]),
        ("logits --tokens 1 --output x.safetensors --hidden-states some", &["some", "all-normalized"]),
        ("logits --tokens 1 --output x.safetensors --hidden-states selected-layers:6", &["0 to 5"]),
        ("tokenize --decode hello", &["`hello`"]),
        ("inspect --context 2000", &["2000", "1024"]),
        ("completions tcsh", &["tcsh"]),
    ];
    let dir = tempfile::tempdir().expect("a temporary folder");
    for (arguments, said) in cases {
        fails(run(llama4(arguments).current_dir(dir.path())), 2, said);
    }
    fails(run(&mut llama4(&format!("generate --model {p1} --stop x --tokens 1"))), 1, &["tokenizer"]);
    // Nothing was left behind.
    assert_eq!(std::fs::read_dir(dir.path()).expect("a folder").count(), 0);
}

#[test]
fn another_model_needs_a_prompt() {
    let demo = fixtures().join("demo").display().to_string();
    fails(run(&mut llama4(&format!("generate --model {demo}"))), 2, &[&demo, "--prompt", "--tokens"]);
}

#[test]
fn a_checkpoint_that_cannot_be_loaded_is_1_and_named() {
    let tokens = "--tokens 1,2,3 -n 2";
    let missing = |dir: &Path, said: &[&str]| {
        fails(run(&mut llama4(&format!("generate --model {} {tokens}", dir.display()))), 1, said);
    };
    missing(Path::new("/no/such/folder"), &["/no/such/folder"]);

    let dir = copy("p1_scout_like");
    std::fs::remove_file(dir.path().join("config.json")).expect("a file");
    missing(dir.path(), &["config.json", &dir.path().display().to_string()]);

    let dir = copy("p1_scout_like");
    std::fs::remove_file(dir.path().join("model.safetensors")).expect("a file");
    missing(dir.path(), &["model.safetensors"]);

    let dir = copy("p1_scout_like");
    std::fs::write(dir.path().join("config.json"), "{").expect("a writable copy");
    missing(dir.path(), &["config.json"]);

    let dir = copy("p1_scout_like");
    configure(dir.path(), "num_hidden_layers", 5.into());
    missing(dir.path(), &["model.layers.4"]);

    let dir = copy("p1_scout_like");
    configure(dir.path(), "intermediate_size", 40.into());
    missing(dir.path(), &["feed_forward", "expected shape", "model.safetensors"]);

    let dir = copy("p1_scout_like");
    let file = dir.path().join("model.safetensors");
    let bytes = std::fs::read(&file).expect("a file");
    std::fs::write(&file, &bytes[..bytes.len() / 2]).expect("a writable copy");
    missing(dir.path(), &["model.safetensors", "cut short"]);

    std::fs::write(dir.path().join("generation_config.json"), r#"{"temperature": "hot"}"#).expect("a writable copy");
    missing(dir.path(), &["generation_config.json", "temperature", "hot"]);
}

#[test]
fn text_without_a_tokenizer_is_1_and_named() {
    let p1 = golden("p1_scout_like");
    for arguments in ["generate --prompt Hi", "tokenize Hi", "chat"] {
        fails(run(&mut llama4(&format!("{arguments} --model {p1}"))), 1, &["tokenizer.json", &p1]);
    }
}

#[test]
fn a_prompt_that_is_no_text_is_1_and_named() {
    fails(run_with(&mut llama4("generate --prompt -"), b"ab\xff"), 1, &["stdin", "UTF-8", "byte 2"]);
    fails(run(&mut llama4("generate --prompt @/no/such/file")), 1, &["/no/such/file"]);
}
