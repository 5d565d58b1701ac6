//! Where the lines of a conversation come from.

use std::io::{BufRead, IsTerminal};

use anyhow::{Context, Result};
use rustyline::DefaultEditor;
use rustyline::config::{Behavior, Config};
use rustyline::error::ReadlineError;

/// A terminal with editing and history, or plain stdin.
pub(crate) enum Lines {
    Terminal(Box<DefaultEditor>),
    Stdin,
}

/// What came.
pub(crate) enum Typed {
    Line(String),
    /// Ctrl-C on a line that was being typed.
    Discarded,
    End,
}

impl Lines {
    pub(crate) fn open() -> Result<Self> {
        if !std::io::stdin().is_terminal() {
            return Ok(Self::Stdin);
        }
        // On the terminal itself, so that answers can go to a file.
        let config = Config::builder().behavior(Behavior::PreferTerm).build();
        let editor = DefaultEditor::with_config(config).context("cannot read from the terminal")?;
        Ok(Self::Terminal(Box::new(editor)))
    }

    pub(crate) fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal(_))
    }

    pub(crate) fn next(&mut self) -> Result<Typed> {
        match self {
            Self::Stdin => {
                let mut line = Vec::new();
                let read = std::io::stdin().lock().read_until(b'\n', &mut line).context("cannot read stdin")?;
                if read == 0 {
                    return Ok(Typed::End);
                }
                Ok(Typed::Line(String::from_utf8(line).context("a line of stdin is not UTF-8")?))
            }
            Self::Terminal(editor) => match editor.readline("> ") {
                Ok(line) => {
                    editor.add_history_entry(line.as_str()).context("cannot remember the line")?;
                    Ok(Typed::Line(line))
                }
                Err(ReadlineError::Interrupted) => Ok(Typed::Discarded),
                Err(ReadlineError::Eof) => Ok(Typed::End),
                Err(error) => Err(error).context("cannot read from the terminal"),
            },
        }
    }
}
