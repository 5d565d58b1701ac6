use llama4_tests::golden::fixtures;
use serde_json::json;

use crate::binary::{json_lines, llama4, run, run_with, stderr, stdout};

#[test]
fn text_comes_back_byte_for_byte() {
    let text = "Roses are red,\n\n  naïve 日本 \u{1f600}\t<|eot|> and 12345\r\n";
    let assert = run_with(&mut llama4("tokenize --json -"), text.as_bytes()).success();
    let [line] = json_lines(assert.get_output()).try_into().expect("one line");
    let ids: Vec<u64> = line["ids"].as_array().expect("ids").iter().map(|id| id.as_u64().expect("an id")).collect();
    assert_eq!(line["pieces"].as_array().expect("pieces").len(), ids.len());
    assert!(ids.contains(&4093), "<|eot|> is one token");
    let typed = ids.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
    let assert = run(&mut llama4(&format!("tokenize --json --decode {typed}"))).success();
    assert_eq!(json_lines(assert.get_output())[0]["text"], json!(text));
    let assert = run(&mut llama4(&format!("tokenize --decode {typed}"))).success();
    assert_eq!(stdout(assert.get_output()), format!("{text}\n"));
    let assert = run(&mut llama4(&format!("tokenize --skip-special --decode {typed}"))).success();
    assert_eq!(stdout(assert.get_output()), format!("{}\n", text.replace("<|eot|>", "")));
    let assert = run_with(&mut llama4("tokenize --json --plain -"), text.as_bytes()).success();
    let plain = &json_lines(assert.get_output())[0]["ids"];
    assert!(!plain.as_array().expect("ids").contains(&json!(4093)), "as it is written");
}

#[test]
fn ids_and_pieces_stand_in_lines() {
    let assert = run(llama4("tokenize").arg("Roses are")).success();
    let text = stdout(assert.get_output());
    let ids: Vec<&str> = text.lines().map(|line| line.split_once('\t').expect("two columns").0).collect();
    let pieces: String = text.lines().map(|line| line.split_once('\t').expect("two columns").1).collect();
    assert_eq!(pieces, "RosesĠare");
    // What `cut -f1` makes of it can be decoded.
    let assert = run_with(&mut llama4("tokenize --decode -"), ids.join("\n").as_bytes()).success();
    assert_eq!(stdout(assert.get_output()), "Roses are\n");
}

#[test]
fn begin_of_text_is_a_choice() {
    let ids = |arguments: &str| {
        let assert = run(&mut llama4(&format!("tokenize --json Roses {arguments}"))).success();
        json_lines(assert.get_output())[0]["ids"].as_array().expect("ids").clone()
    };
    let (bare, framed) = (ids(""), ids("--begin-of-text"));
    assert_eq!(framed[0], json!(4089));
    assert_eq!(framed[1..], bare);
}

#[test]
fn a_tokenizer_can_be_a_file_of_its_own() {
    let file = fixtures().join("demo/tokenizer.json");
    let assert = run(llama4("tokenize Roses --tokenizer").arg(&file)).success();
    let own = run(&mut llama4("tokenize Roses")).success();
    assert_eq!(stdout(assert.get_output()), stdout(own.get_output()));
    let assert = run(&mut llama4("tokenize Roses --tokenizer /no/such/file")).code(1);
    assert!(stderr(assert.get_output()).contains("/no/such/file"));
}

#[test]
fn nothing_is_no_token() {
    let assert = run_with(&mut llama4("tokenize -"), b"").success();
    assert_eq!(stdout(assert.get_output()), "");
    let assert = run_with(&mut llama4("tokenize --json -"), b"").success();
    assert_eq!(json_lines(assert.get_output())[0], json!({ "ids": [], "pieces": [] }));
}

#[test]
fn what_is_no_text_or_no_token_is_an_error() {
    let assert = run_with(&mut llama4("tokenize -"), b"abc\xfe").code(1);
    assert!(stderr(assert.get_output()).contains("not UTF-8: byte 3 is 0xfe"));
    let assert = run(&mut llama4("tokenize --decode 1,99999")).code(1);
    assert!(stderr(assert.get_output()).contains("99999"));
}
