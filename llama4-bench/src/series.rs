//! Records of several files, as columns of configurations and rows of cases.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::record::{self, Model, Record};

/// Records of one file that were made in one configuration.
#[derive(Debug, PartialEq)]
pub(crate) struct Series {
    /// What tells it from the others, in as few words as do.
    pub(crate) label: String,
    pub(crate) records: Vec<Record>,
    columns: Columns,
}

/// What is a column of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Columns {
    /// A backend, adapter, commit or type of activations; how weights are quantised belongs to the model.
    Backends,
    /// Besides these, each way to hold the weights.
    Forms,
}

impl Columns {
    fn shape(self, model: &Model) -> String {
        match (self, model.quantization) {
            (Self::Backends, Some(packings)) => format!("{}, {}", model.shape(), packings.words()),
            _ => model.shape(),
        }
    }

    fn form(self, model: &Model) -> String {
        match self {
            Self::Backends => model.dtype.clone(),
            Self::Forms => model.form(),
        }
    }
}

/// A case of a model, in any column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    /// The model's name and depth, and its quantisation where that is no column.
    pub(crate) shape: String,
    pub(crate) case: String,
    pub(crate) unit: String,
}

impl Row {
    fn of(record: &Record, columns: Columns) -> Self {
        Self { shape: columns.shape(&record.model), case: record.name.clone(), unit: record.unit.clone() }
    }
}

impl Series {
    /// The last measurement of a case.
    pub(crate) fn find(&self, row: &Row) -> Option<&Record> {
        self.records.iter().rev().find(|record| Row::of(record, self.columns) == *row)
    }
}

/// What a column is of: file, backend, adapter, form of the weights, commit.
fn facts(path: &Path, record: &Record, columns: Columns) -> [String; 5] {
    [
        record.backend.clone(),
        columns.form(&record.model),
        record.commit.clone().unwrap_or_else(|| "unknown commit".into()),
        record.machine.adapter.clone(),
        path.display().to_string(),
    ]
}

/// All records of some files, in the files' order.
///
/// # Errors
/// When a file cannot be read, or a line of it.
pub(crate) fn read(files: &[PathBuf], columns: Columns) -> Result<Vec<Series>> {
    let mut found: Vec<([String; 5], Vec<Record>)> = Vec::new();
    for path in files {
        for record in record::read(path)? {
            let facts = facts(path, &record, columns);
            match found.iter_mut().find(|(known, _)| *known == facts) {
                Some((_, records)) => records.push(record),
                None => found.push((facts, vec![record])),
            }
        }
    }
    Ok(label(found, columns))
}

/// Only what differs is said, at least the backend; the file only where nothing else tells two columns apart.
fn label(found: Vec<([String; 5], Vec<Record>)>, columns: Columns) -> Vec<Series> {
    let differs = |at: usize| found.iter().any(|(facts, _)| facts[at] != found[0].0[at]);
    let mut used: Vec<usize> = (0..4).filter(|&at| differs(at)).collect();
    let words =
        |used: &[usize], facts: &[String; 5]| used.iter().map(|&at| facts[at].clone()).collect::<Vec<_>>().join(", ");
    if used.is_empty() {
        used.push(0);
    }
    let mut labels: Vec<String> = found.iter().map(|(facts, _)| words(&used, facts)).collect();
    labels.sort();
    if labels.windows(2).any(|pair| pair[0] == pair[1]) {
        used.push(4);
    }
    let series = found.iter().map(|(facts, _)| words(&used, facts)).collect::<Vec<_>>();
    series.into_iter().zip(found).map(|(label, (_, records))| Series { label, records, columns }).collect()
}

/// Every case that was measured, in the order in which they come.
pub(crate) fn rows(series: &[Series]) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for (record, columns) in
        series.iter().flat_map(|series| series.records.iter().map(|record| (record, series.columns)))
    {
        let row = Row::of(record, columns);
        if !rows.contains(&row) {
            rows.push(row);
        }
    }
    // Models stay together, as they first come.
    let mut shapes: Vec<String> = Vec::new();
    rows.iter().for_each(|row| {
        if !shapes.contains(&row.shape) {
            shapes.push(row.shape.clone());
        }
    });
    rows.sort_by_key(|row| shapes.iter().position(|shape| *shape == row.shape));
    rows
}

#[cfg(test)]
pub(crate) fn of_records(groups: &[(&str, &[Record])], columns: Columns) -> Vec<Series> {
    let mut found: Vec<([String; 5], Vec<Record>)> = Vec::new();
    for (file, records) in groups {
        found.push((facts(Path::new(file), &records[0], columns), records.to_vec()));
    }
    label(found, columns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Case;
    use llama4::quant::Packing;

    use crate::record::{Packings, example};

    const CASE: Case = Case::Prefill { tokens: 128 };

    #[test]
    fn labels_say_what_differs() {
        let (a, b) = (example("ndarray", CASE, 1.0), example("ndarray", CASE, 2.0));
        let labels = |groups: &[(&str, &[Record])]| -> Vec<String> {
            of_records(groups, Columns::Backends).into_iter().map(|series| series.label).collect()
        };
        assert_eq!(labels(&[("x", std::slice::from_ref(&a))]), ["ndarray"]);
        assert_eq!(
            labels(&[("x", std::slice::from_ref(&a)), ("y", std::slice::from_ref(&b))]),
            ["ndarray, x", "ndarray, y"]
        );
        let mut other = b.clone();
        other.commit = Some("fedcba987654".into());
        assert_eq!(labels(&[("x", std::slice::from_ref(&a)), ("y", &[other])]), ["0123456789ab", "fedcba987654"]);
    }

    #[test]
    fn quantisation_is_the_models_or_a_column() {
        let (a, mut b) = (example("ndarray", CASE, 1.0), example("ndarray", CASE, 2.0));
        let [weights, head, embedding] = [Packing::Q4; 3];
        b.model.quantization = Some(Packings { weights, head, embedding });
        for (columns, count) in [(Columns::Backends, 2), (Columns::Forms, 1)] {
            let groups = [("x", std::slice::from_ref(&a)), ("y", std::slice::from_ref(&b))];
            let series = of_records(&groups, columns);
            assert_eq!(rows(&series).len(), count, "{columns:?}");
        }
    }

    #[test]
    fn the_last_measurement_of_a_case_counts() {
        let (a, b) = (example("ndarray", CASE, 1.0), example("ndarray", CASE, 2.0));
        let series = of_records(&[("x", &[a, b])], Columns::Backends);
        let rows = rows(&series);
        assert_eq!(rows.len(), 1);
        assert_eq!(series[0].find(&rows[0]).unwrap().median, 2.0);
    }
}
