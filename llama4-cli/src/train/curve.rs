use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

const HEADER: &str = "step,tokens,learning_rate,train_loss,balance_loss,validation_loss,seconds";

/// One line of the loss curve.
#[derive(Debug, Clone, Copy)]
pub(super) struct Point {
    pub(super) step: usize,
    pub(super) tokens: usize,
    pub(super) rate: f64,
    pub(super) train: f64,
    pub(super) balance: f64,
    pub(super) validation: Option<f64>,
    pub(super) seconds: f64,
}

/// The loss curve as CSV; losses in nats a token.
pub(super) struct Curve {
    path: PathBuf,
    file: File,
}

impl Curve {
    /// Begin a curve, or go on with one: lines after `step` belong to a run that was cut off, and go.
    pub(super) fn open(path: &Path, step: usize) -> Result<Self> {
        let describe = || format!("cannot write {}", path.display());
        let kept: Vec<String> = match std::fs::read_to_string(path) {
            Ok(text) if step > 0 => text
                .lines()
                .skip(1)
                .filter(|line| {
                    line.split(',').next().and_then(|at| at.parse().ok()).is_some_and(|at: usize| at <= step)
                })
                .map(str::to_owned)
                .collect(),
            _ => Vec::new(),
        };
        let mut file = OpenOptions::new().create(true).write(true).truncate(true).open(path).with_context(describe)?;
        writeln!(file, "{HEADER}").with_context(describe)?;
        for line in kept {
            writeln!(file, "{line}").with_context(describe)?;
        }
        Ok(Self { path: path.to_owned(), file })
    }

    pub(super) fn push(&mut self, point: Point) -> Result<()> {
        let Point { step, tokens, rate, train, balance, validation, seconds } = point;
        let validation = validation.map(|loss| format!("{loss:.4}")).unwrap_or_default();
        writeln!(self.file, "{step},{tokens},{rate:.6},{train:.4},{balance:.4},{validation},{seconds:.1}")
            .with_context(|| format!("cannot write {}", self.path.display()))
    }
}
