use crate::binary::{llama4, run_with, stderr, stdout};

const CHAT: &str = "chat --temperature 0 -n 6";

#[test]
fn each_line_is_answered_and_what_was_said_is_not_computed_again() {
    let assert = run_with(&mut llama4(CHAT), b"Who art thou?\n\nAnd whither?\n").success();
    let output = assert.get_output();
    assert!(stdout(output).lines().count() >= 2, "{}", stdout(output));
    let turns: Vec<String> = stderr(output).lines().filter(|line| line.contains("decode")).map(str::to_owned).collect();
    let [first, second] = turns.as_slice() else { panic!("two turns: {}", stderr(output)) };
    assert!(!first.contains("cached"), "{first}");
    assert!(second.contains("cached"), "{second}");
}

#[test]
fn a_reset_forgets_and_the_rest_is_a_new_conversation() {
    let answers = |stdin: &str| {
        let assert = run_with(&mut llama4(&format!("{CHAT} --quiet")), stdin.as_bytes()).success();
        stdout(assert.get_output())
    };
    let alone = answers("Who art thou?\n");
    let again = answers("Whither goest thou?\n/reset\nWho art thou?\n/quit\nnever read\n");
    assert!(again.ends_with(&alone), "{again}\nends with\n{alone}");
}

#[test]
fn commands_are_answered_on_stderr() {
    let assert = run_with(&mut llama4(CHAT), b"/help\n/rest\n/system Be brief.\n/quit\n").success();
    let output = assert.get_output();
    assert_eq!(stdout(output), "");
    for part in ["/reset", "no command /rest", "new instructions"] {
        assert!(stderr(output).contains(part), "{part}\n{}", stderr(output));
    }
}

#[test]
fn a_full_context_is_said_and_can_be_left() {
    let mut stdin = "A long message. ".repeat(30);
    stdin.push_str("\n/reset\nHi\n");
    let assert = run_with(&mut llama4("chat --temperature 0 -n 2 --context 32"), stdin.as_bytes()).success();
    let output = assert.get_output();
    assert!(stderr(output).contains("context is full") && stderr(output).contains("/reset"), "{}", stderr(output));
    assert!(!stdout(output).is_empty(), "the short message is answered");
}
