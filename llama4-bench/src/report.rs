use std::path::{Path, PathBuf};

use anyhow::Result;
use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use crate::cases::Case;
use crate::harness::Sample;

/// One measured case, as a line of JSON has it.
#[derive(Debug, Serialize)]
pub(crate) struct Record {
    case: String,
    backend: String,
    model: PathBuf,
    threads: usize,
    tokens: usize,
    /// Tokens per second of the median repeat.
    median: f64,
    /// Of the slowest tenth.
    p10: f64,
    /// Of the fastest tenth.
    p90: f64,
}

impl Record {
    pub(crate) fn new(case: &Case, backend: &str, model: &Path, sample: Sample) -> Self {
        let tokens = case.tokens();
        let rate = |share: f64| tokens as f64 / sample.quantile(share);
        Self {
            case: case.to_string(),
            backend: backend.to_owned(),
            model: model.to_owned(),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            tokens,
            median: rate(0.5),
            p10: rate(0.9),
            p90: rate(0.1),
        }
    }
}

pub(crate) fn json_lines(records: &[Record]) -> Result<String> {
    let mut text = String::new();
    for record in records {
        text += &serde_json::to_string(record)?;
        text.push('\n');
    }
    Ok(text)
}

pub(crate) fn table(records: &[Record]) -> String {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header(["case", "backend", "tokens/s", "p10", "p90"]);
    for record in records {
        let rates = [record.median, record.p10, record.p90].map(|rate| format!("{rate:.1}"));
        table.add_row([record.case.clone(), record.backend.clone()].into_iter().chain(rates));
    }
    for column in 2..5 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!("{table}\n")
}
