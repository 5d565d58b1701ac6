//! Ratios between runs.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::series::{self, Columns, Series};
use crate::table;

/// A table for each model: rates of the first series, and what the others are in it.
pub(crate) fn compare(files: &[PathBuf], columns: Columns) -> Result<String> {
    let series = series::read(files, columns)?;
    ensure!(series.len() > 1, "there is one configuration only: nothing to compare it with");
    Ok(tables(&series))
}

fn tables(series: &[Series]) -> String {
    let rows = series::rows(series);
    let header: Vec<String> = ["case".to_owned(), "rate".to_owned()]
        .into_iter()
        .chain(series.iter().enumerate().map(|(index, series)| match index {
            0 => series.label.clone(),
            _ => format!("{} (ratio)", series.label),
        }))
        .collect();
    let models = rows.chunk_by(|a, b| a.shape == b.shape).map(|rows| {
        let mut table = table::new(&header, 2);
        for row in rows {
            let base = series[0].find(row).map(|record| record.median);
            let cells = series.iter().enumerate().map(|(index, series)| match (series.find(row), base) {
                (None, _) => "-".to_owned(),
                (Some(record), Some(base)) if index > 0 => {
                    format!("{} ({})", table::number(record.median), table::number(record.median / base))
                }
                (Some(record), _) => table::number(record.median),
            });
            table.add_row([row.case.clone(), row.unit.clone()].into_iter().chain(cells));
        }
        format!("{}\n\n{table}\n", rows[0].shape)
    });
    models.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Case;
    use crate::record::example;
    use crate::series::of_records;

    #[test]
    fn cases_are_matched_by_name_and_model() {
        let (prefill, decode) = (Case::Prefill { tokens: 128 }, Case::Decode { sequences: 1, depth: 0, tokens: 32 });
        let mut deeper = example("cuda", prefill, 77.0);
        deeper.model.layers = 16;
        let series = of_records(
            &[
                ("a", &[example("ndarray", prefill, 100.0), example("ndarray", decode, 20.0)]),
                ("b", &[example("cuda", decode, 50.0), deeper]),
            ],
            Columns::Backends,
        );
        let text = tables(&series);
        let line = |start: &str| text.lines().filter(|line| line.starts_with(start)).collect::<Vec<_>>().join("\n");
        assert!(line("| decode at 0").contains("50.0 (2.50)"), "{text}");
        // Measured in each, but not of the same model.
        assert!(line("| prefill 128").contains("100") && line("| prefill 128").contains("77.0"), "{text}");
        assert!(!line("| prefill 128").contains('('), "{text}");
        assert!(text.contains("cpu, 16 layers") && text.contains("cpu, 4 layers"), "{text}");
    }
}
