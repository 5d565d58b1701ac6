//! The commands that only look: inspect, devices, completions, help.

use serde_json::json;

use crate::binary::{golden, json_lines, llama4, run, stdout};

#[test]
fn inspect_says_what_is_in_a_checkpoint() {
    let assert = run(&mut llama4(&format!("inspect --json --model {}", golden("p1_scout_like")))).success();
    let [found] = json_lines(assert.get_output()).try_into().expect("one line");
    assert_eq!(found["weights"]["form"], "safetensors");
    let tensors = found["weights"]["tensors"].as_u64().expect("a count");
    assert_eq!(found["weights"]["dtypes"], json!({ "BF16": tensors }));
    assert_eq!(found["config"]["hidden_size"], 64);
    let layers = found["layers"].as_array().expect("a list");
    assert_eq!(layers.len(), 4);
    assert_eq!(layers[0], json!({ "rope": true, "chunk": 8192, "moe": true }));
    assert_eq!(layers[3], json!({ "rope": false, "chunk": null, "moe": true }));
    // Two bytes for each parameter.
    let total = found["parameters"]["total"].as_u64().expect("a count");
    assert_eq!(found["weights"]["bytes"].as_u64(), Some(2 * total));
    // Four layers of two heads of 16, key and value, two bytes each, over 4096 positions.
    assert_eq!(found["kv_cache"]["sizes"][0], json!({ "tokens": 4096, "bytes": 4 * 2 * 16 * 2 * 2 * 4096 }));

    let assert = run(&mut llama4("inspect --context 100,200")).success();
    let text = stdout(assert.get_output());
    for part in ["demo model", "RoPE, chunks of 64, MoE", "NoPE, full attention", "parameters", "100 tokens"] {
        assert!(text.contains(part), "{part}\n{text}");
    }
}

#[test]
fn inspect_describes_what_cannot_be_loaded() {
    let assert = run(&mut llama4(&format!("inspect --json --model {}", golden("p7_fp8_experts")))).success();
    let found = &json_lines(assert.get_output())[0];
    assert!(found["parameters"]["total"].as_u64().is_some_and(|total| total > 0));
}

#[test]
fn devices_names_backend_types_and_kernels() {
    let assert = run(&mut llama4("devices")).success();
    let text = stdout(assert.get_output());
    for part in ["ndarray (default)", "threads", "f32", "linear", "attention"] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    let assert = run(&mut llama4("devices --json")).success();
    let found = &json_lines(assert.get_output())[0];
    assert_eq!((&found["backend"], &found["default"]), (&json!("ndarray"), &json!(true)));
    assert_eq!(found["devices"][0]["dtypes"], json!(["f32"]));
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let assert = run(&mut llama4(&format!("completions {shell}"))).success();
        assert!(stdout(assert.get_output()).contains("max-new-tokens"), "{shell}");
    }
}

#[test]
fn help_goes_to_stdout() {
    for arguments in ["--help", "generate --help", "chat --help", "help logits"] {
        let assert = run(&mut llama4(arguments)).success();
        assert!(stdout(assert.get_output()).contains("Examples:"), "{arguments}");
    }
    let assert = run(&mut llama4("--version")).success();
    assert!(stdout(assert.get_output()).starts_with("llama4-cli "));
}

#[test]
fn perplexity_is_that_of_the_logits() {
    // A window of the whole text: the mean over positions of log-sum-exp less the target's logit.
    let golden = llama4_tests::golden::Golden::open("p3_chunked");
    let ids = golden.ids("prompt_ids");
    let (logits, vocab) = (golden.values("logits"), golden.shape("logits")[1]);
    let losses = ids[1..].iter().enumerate().map(|(at, &target)| {
        let row = &logits[at * vocab..(at + 1) * vocab];
        row.iter().map(|logit| logit.exp()).sum::<f64>().ln() - row[target as usize]
    });
    let expected = losses.sum::<f64>() / (ids.len() - 1) as f64;

    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("ids.u16");
    std::fs::write(&file, ids.iter().flat_map(|&id| (id as u16).to_le_bytes()).collect::<Vec<_>>()).expect("a file");
    let arguments = format!("perplexity --model {} --token-file {} --json", golden.dir.display(), file.display());
    let assert = run(&mut llama4(&arguments)).success();
    let found = &json_lines(assert.get_output())[0];
    assert_eq!(found["tokens"], ids.len() - 1);
    let loss = found["loss"].as_f64().expect("a number");
    assert!((loss - expected).abs() < 1e-4, "{loss} instead of {expected}");
}
