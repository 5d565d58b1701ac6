use std::io::Read;
use std::process::Stdio;

use llama4_tests::golden::Golden;
use serde_json::{Value, json};

use crate::binary::{configure, copy, golden, json_lines, llama4, run, run_with, stderr, stdout};

const P1: &str = "p1_scout_like";

/// Ids as the command line takes them.
fn typed(ids: &[u32]) -> String {
    ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().expect("a list").iter().map(|id| id.as_u64().expect("an id") as u32).collect()
}

#[test]
fn greedy_ids_are_the_golden_ones() {
    for name in [P1, "p3_chunked", "p5_ropescaled_bias_tied_gqa4"] {
        let case = Golden::open(name);
        let prompt = case.ids("prompt_ids");
        let arguments = format!(
            "generate --model {} --tokens {} --temperature 0 --max-new-tokens 24 --ignore-eos --json",
            golden(name),
            typed(&prompt)
        );
        let assert = run(&mut llama4(&arguments)).success();
        let [line] = json_lines(assert.get_output()).try_into().expect("one line");
        assert_eq!(ids(&line["tokens"]), case.ids("generated_ids"), "{name}");
        assert_eq!(line["prompt_tokens"], prompt.len());
        assert_eq!(line["text"], Value::Null);
        assert_eq!(line["finish_reason"], "max_new_tokens");
        assert_eq!(line["timings"]["prefill_tokens"], prompt.len());
        assert_eq!(line["timings"]["decode_tokens"], 23);
        for phase in ["prefill_seconds", "decode_seconds"] {
            assert!(line["timings"][phase].as_f64().is_some_and(|seconds| seconds > 0.0), "{phase}");
        }
        assert_eq!(line.get("logprobs"), None);
    }
}

#[test]
fn every_end_id_ends_it() {
    let case = Golden::open(P1);
    let all = case.ids("generated_ids");
    let dir = copy(P1);
    let generated = || {
        let prompt = typed(&case.ids("prompt_ids"));
        let arguments =
            format!("generate --model {} --tokens {prompt} --temperature 0 -n 24 --json", dir.path().display());
        let assert = run(&mut llama4(&arguments)).success();
        let line = json_lines(assert.get_output()).remove(0);
        assert_eq!(line["finish_reason"], "end_token");
        ids(&line["tokens"])
    };
    // The list of config.json, the end id included in what is generated.
    configure(dir.path(), "eos_token_id", json!([2, all[6], all[4]]));
    assert_eq!(generated(), all[..5]);
    configure(dir.path(), "eos_token_id", json!(all[6]));
    assert_eq!(generated(), all[..7]);
    // generation_config.json, where it names any, decides instead.
    let config = json!({ "do_sample": false, "eos_token_id": [3, all[1]] });
    std::fs::write(dir.path().join("generation_config.json"), config.to_string()).expect("a writable copy");
    assert_eq!(generated(), all[..2]);
}

#[test]
fn without_a_tokenizer_ids_stream() {
    let case = Golden::open(P1);
    let arguments = format!(
        "generate --model {} --tokens {} --temperature 0 -n 24 --ignore-eos",
        golden(P1),
        typed(&case.ids("prompt_ids"))
    );
    let assert = run(&mut llama4(&arguments)).success();
    assert_eq!(stdout(assert.get_output()), typed(&case.ids("generated_ids")) + "\n");
}

#[test]
fn several_prompts_keep_their_order_and_their_results() {
    let case = Golden::open("p6_batch_padded");
    let lengths = case.ids("lengths");
    let [_, width] = *case.shape("right.input_ids") else { panic!("a batch") };
    let rows = case.ids("right.input_ids");
    let expected = case.ids("generated_ids");
    let steps = expected.len() / lengths.len();
    for parallel in [1, 2, 8] {
        let mut command = llama4(&format!(
            "generate --model {} --temperature 0 --ignore-eos -n {steps} --json --parallel {parallel}",
            golden("p6_batch_padded")
        ));
        for (row, length) in rows.chunks(width).zip(&lengths) {
            command.arg("--tokens").arg(typed(&row[..*length as usize]));
        }
        let assert = run(&mut command).success();
        let lines = json_lines(assert.get_output());
        assert_eq!(lines.len(), lengths.len());
        for ((line, expected), length) in lines.iter().zip(expected.chunks(steps)).zip(&lengths) {
            assert_eq!(ids(&line["tokens"]), expected, "--parallel {parallel}");
            assert_eq!(line["prompt_tokens"], *length);
        }
    }
}

#[test]
fn without_anything_the_demo_model_writes() {
    // From any folder: the model is part of the program.
    let dir = tempfile::tempdir().expect("a temporary folder");
    let assert = run(llama4("generate").current_dir(dir.path())).success();
    let output = assert.get_output();
    assert!(stdout(output).split_whitespace().count() > 20, "{}", stdout(output));
    assert!(stderr(output).contains("decode"), "{}", stderr(output));
    // Quiet is quiet.
    let assert = run(&mut llama4("generate --quiet -n 5")).success();
    assert_eq!(stderr(assert.get_output()), "");
}

#[test]
fn the_same_seed_gives_the_same_text() {
    let text = |seed: u32| {
        let assert = run(&mut llama4(&format!("generate --seed {seed} -n 30 --prompt Emma --quiet"))).success();
        stdout(assert.get_output())
    };
    assert_eq!(text(7), text(7));
    assert_ne!(text(7), text(8));
}

#[test]
fn a_prompt_comes_from_the_command_line_a_file_or_stdin() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("prompt.txt");
    std::fs::write(&file, "Call me Ishmael.\n").expect("a writable folder");
    let greedy = "generate --temperature 0 -n 8 --json";
    let lines = |assert: assert_cmd::assert::Assert| {
        let mut line = json_lines(assert.success().get_output()).remove(0);
        line["timings"] = Value::Null;
        line
    };
    let typed = lines(run(llama4(greedy).args(["--prompt", "Call me Ishmael."])));
    assert!(typed["text"].as_str().is_some_and(|text| !text.is_empty()), "{typed}");
    // Begin-of-text is counted.
    assert!(typed["prompt_tokens"].as_u64().is_some_and(|tokens| tokens > 4), "{typed}");
    assert_eq!(lines(run(llama4(greedy).arg("--prompt").arg(format!("@{}", file.display())))), typed);
    assert_eq!(lines(run_with(llama4(greedy).args(["--prompt", "-"]), b"Call me Ishmael.\n")), typed);
    // The chat template makes another prompt of it.
    let chat = lines(run(llama4(greedy).args(["--chat", "--system", "Be brief.", "--prompt", "Call me Ishmael."])));
    assert!(chat["prompt_tokens"].as_u64() > typed["prompt_tokens"].as_u64(), "{chat}");
}

#[test]
fn several_texts_are_told_apart() {
    let mut command = llama4("generate --temperature 0 -n 4 --quiet");
    let assert = run(command.args(["--prompt", "One", "--prompt", "Two"])).success();
    let text = stdout(assert.get_output());
    let (first, second) = (text.find("==> 1 of 2: One <==\n"), text.find("\n==> 2 of 2: Two <==\n"));
    assert!(first == Some(0) && second > first, "{text}");
}

#[test]
fn logprobs_come_when_asked_for() {
    let arguments = "generate --temperature 0 -n 3 --json --logprobs 2 --prompt Emma --ignore-eos";
    let assert = run(&mut llama4(arguments)).success();
    let line = &json_lines(assert.get_output())[0];
    let entries = line["logprobs"].as_array().expect("a list");
    assert_eq!(entries.len(), 3);
    for (entry, id) in entries.iter().zip(line["tokens"].as_array().expect("a list")) {
        assert_eq!(&entry["id"], id);
        let top = entry["top"].as_array().expect("a list");
        assert_eq!(top.len(), 2);
        // Greedy: the chosen token is the most likely one.
        assert_eq!((&top[0]["id"], &top[0]["logprob"]), (id, &entry["logprob"]));
        assert!(entry["logprob"].as_f64().is_some_and(|logprob| logprob <= 0.0));
    }
}

#[test]
fn stop_strings_and_biases_are_heard() {
    // Everything but one token is out of the question.
    let assert = run(&mut llama4("generate --prompt Emma -n 4 --logit-bias 65=1000 --json")).success();
    let line = &json_lines(assert.get_output())[0];
    assert_eq!(ids(&line["tokens"]), [65; 4]);
    let text = line["text"].as_str().expect("a text");
    let piece = &text[..text.len() / 4];
    let mut command = llama4("generate --prompt Emma -n 4 --logit-bias 65=1000 --json");
    let assert = run(command.args(["--stop", &piece.repeat(2)])).success();
    let line = &json_lines(assert.get_output())[0];
    assert_eq!((&line["finish_reason"], &line["text"]), (&json!("stop_string"), &json!("")));
    assert_eq!(ids(&line["tokens"]), [65; 2]);
}

#[test]
fn a_context_that_is_full_is_no_failure() {
    let arguments =
        format!("generate --model {} --tokens 1,5,7 --context 6 --temperature 0 --ignore-eos --json", golden(P1));
    let assert = run(&mut llama4(&arguments)).success();
    let line = &json_lines(assert.get_output())[0];
    assert_eq!(line["finish_reason"], "context_full");
    // Three more fit, and the last one needs no room.
    assert_eq!(ids(&line["tokens"]).len(), 4);
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let mut child = llama4("generate --ignore-eos -n 400")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut pipe = child.stdout.take().expect("a pipe");
    pipe.read_exact(&mut [0]).expect("a first byte");
    drop(pipe);
    let output = child.wait_with_output().expect("the program ends");
    assert!(output.status.success(), "{:?}: {}", output.status, stderr(&output));
    assert!(!stderr(&output).contains("error"), "{}", stderr(&output));
}
