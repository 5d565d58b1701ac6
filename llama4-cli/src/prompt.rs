//! What a command line's prompts stand for.

use std::io::Read;

use anyhow::{Context, Result};

use crate::exit::usage;

/// The text that an argument stands for: itself, stdin for `-`, a file for `@FILE`, `@…` for `@@…`.
///
/// The last line end of stdin or of a file is an editor's or a shell's, not the prompt's, and goes.
pub(crate) fn resolve(argument: &str) -> Result<String> {
    if argument == "-" {
        return Ok(without_line_end(stdin()?));
    }
    match argument.strip_prefix('@') {
        None => Ok(argument.to_owned()),
        Some(rest) if rest.starts_with('@') => Ok(rest.to_owned()),
        Some("") => Err(usage("`@` names no file; `@@` is the text `@`")),
        Some(file) => {
            let bytes = std::fs::read(file).with_context(|| format!("cannot read the prompt {file}"))?;
            Ok(without_line_end(utf8(bytes, file)?))
        }
    }
}

/// All of stdin, byte for byte.
pub(crate) fn stdin() -> Result<String> {
    let mut bytes = Vec::new();
    std::io::stdin().lock().read_to_end(&mut bytes).context("cannot read stdin")?;
    utf8(bytes, "stdin")
}

fn utf8(bytes: Vec<u8>, from: &str) -> Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        anyhow::anyhow!("{from} is not UTF-8: byte {at} is {:#04x}", error.as_bytes()[at])
    })
}

fn without_line_end(mut text: String) -> String {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    text
}

/// A prompt in a line of its own, shortened: how messages name it.
pub(crate) fn label(prompt: &str) -> String {
    const LONGEST: usize = 60;
    let line = prompt.escape_debug().to_string();
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_is_text_or_a_file() {
        let dir = std::env::temp_dir().join(format!("llama4-cli-prompt-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join("prompt.txt");
        std::fs::write(&file, "two\nlines\r\n").unwrap();
        assert_eq!(resolve("text -").unwrap(), "text -");
        assert_eq!(resolve(&format!("@{}", file.display())).unwrap(), "two\nlines");
        assert_eq!(resolve("@@home").unwrap(), "@home");
        let missing = format!("@{}", dir.join("none").display());
        assert!(format!("{:#}", resolve(&missing).unwrap_err()).contains("none"));
        std::fs::write(&file, b"ab\xff").unwrap();
        let error = resolve(&format!("@{}", file.display())).unwrap_err().to_string();
        assert!(error.contains("not UTF-8: byte 2 is 0xff"), "{error}");
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn one_line_end_goes() {
        assert_eq!(without_line_end("a\n\n".to_owned()), "a\n");
        assert_eq!(without_line_end("a".to_owned()), "a");
    }

    #[test]
    fn a_label_is_one_short_line() {
        assert_eq!(label("a\nb"), "a\\nb");
        assert_eq!(label(&"é".repeat(100)).chars().count(), 61);
    }
}
