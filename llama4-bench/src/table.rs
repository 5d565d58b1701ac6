//! Records for people, in Markdown.

use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};

use crate::record::Record;

/// A table with its columns from `left` on aligned right.
pub(crate) fn new(header: &[String], left: usize) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header(header);
    for column in left..header.len() {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// A number with three digits that count, whole ones in full.
pub(crate) fn number(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return format!("{value}");
    }
    match value.abs().log10().floor() as i32 {
        power if power < -5 => format!("{value:.2e}"),
        power => format!("{value:.*}", usize::try_from(2 - power).unwrap_or(0)),
    }
}

/// Tables of records, one for each run of consecutive records of the same model on the same backend.
pub(crate) fn markdown(records: &[Record]) -> String {
    let same = |a: &Record, b: &Record| heading(a) == heading(b);
    records.chunk_by(same).map(section).collect::<Vec<_>>().join("\n")
}

fn heading(record: &Record) -> String {
    let model = &record.model;
    let commit = record.commit.as_deref().unwrap_or("unknown");
    format!("{}, {}; {}, commit {commit}", model.shape(), model.form(), record.backend)
}

fn section(records: &[Record]) -> String {
    let Some(first) = records.first() else { return String::new() };
    let peer = records.iter().any(|record| record.peer.is_some());
    let mut header = vec!["case", "rate", "median", "p10", "p90", "repeats", "warm-up s", "GB", "GFLOP"];
    header.extend(["of read", "of compute", "host GB", "device GB"]);
    if peer {
        header.extend(["llama.cpp", "its p10", "its p90", "ratio", "its host GB", "ratio of GB"]);
    }
    let header: Vec<String> = header.into_iter().map(str::to_owned).collect();
    let mut table = new(&header, 2);
    for record in records {
        let absent = || "-".to_owned();
        let percent = |share: Option<f64>| share.map_or_else(absent, |share| format!("{:.0} %", 100.0 * share));
        let gigabytes = |bytes: Option<u64>| bytes.map_or_else(absent, |bytes| number(bytes as f64 / 1e9));
        let cost = |pick: fn(&crate::cost::Cost) -> f64| {
            record.cost.as_ref().map_or_else(absent, |cost| number(pick(cost) / record.work / 1e9))
        };
        let mut row = vec![record.name.clone(), record.unit.clone()];
        row.extend([record.median, record.p10, record.p90].map(number));
        row.extend([record.seconds.len().to_string(), number(record.warm_up_seconds)]);
        row.extend([cost(|cost| cost.bytes), cost(|cost| cost.operations)]);
        row.extend([percent(record.share.map(|share| share.read)), percent(record.share.map(|share| share.compute))]);
        row.extend([gigabytes(record.memory.host_peak), gigabytes(record.memory.device_peak)]);
        if peer {
            let pick =
                |pick: fn(&crate::record::Peer) -> f64| record.peer.as_ref().map_or_else(absent, |p| number(pick(p)));
            row.extend([pick(|peer| peer.median), pick(|peer| peer.quantile(0.1)), pick(|peer| peer.quantile(0.9))]);
            row.push(pick(|peer| peer.ratio));
            let peer = record.peer.as_ref();
            row.push(gigabytes(peer.and_then(|peer| peer.host_peak)));
            row.push(peer.and_then(|peer| peer.memory_ratio).map_or_else(absent, number));
        }
        table.add_row(row);
    }
    let limits = &first.limits;
    let (read, operations) = (limits.read_bytes_per_second / 1e9, limits.operations_per_second / 1e9);
    format!(
        "{}\n\n{} ({} cores, {:.0} GB), {}. Limits: {} GB/s ({}), {} GFLOP/s ({}). GB and GFLOP are what a token (or call) must \
         cost.\n\n{table}\n",
        heading(first),
        first.machine.cpu,
        first.machine.cores,
        first.machine.memory as f64 / 1e9,
        first.machine.adapter,
        number(read),
        limits.read_how,
        number(operations),
        limits.operations_how,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Case;
    use crate::record::{Peer, example};

    #[test]
    fn numbers_have_three_digits() {
        let shown = [1234.6, 99.94, 9.994, 0.12345, 0.000_123_45, 1.5e-9, 0.0].map(number);
        assert_eq!(shown, ["1235", "99.9", "9.99", "0.123", "0.000123", "1.50e-9", "0"]);
    }

    #[test]
    fn a_table_says_what_was_measured_and_on_what() {
        let mut record = example("ndarray", Case::Prefill { tokens: 128 }, 100.0);
        let without = markdown(std::slice::from_ref(&record));
        assert!(without.contains("cpu, 4 layers, f32; ndarray, commit 0123456789ab"), "{without}");
        assert!(without.contains("| prefill 128 ") && without.contains("50 %"), "{without}");
        assert!(!without.contains("llama.cpp"));
        let (program, model) = ("llama.cpp".to_owned(), String::new());
        let (host_peak, memory_ratio) = (Some(4 << 30), Some(0.25));
        let rates = vec![210.0, 190.0, 200.0];
        record.peer = Some(Peer { program, model, rates, median: 200.0, ratio: 0.5, host_peak, memory_ratio });
        let with = markdown(&[record, example("cuda", Case::Load, 1.0)]);
        let cells = ["200", "192", "208", "0.500", "4.29", "0.250"];
        let line = with.lines().find(|line| line.starts_with("| prefill 128")).unwrap();
        let found: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(found[found.len() - cells.len()..], cells, "{with}");
        assert!(with.contains("cuda, commit"), "{with}");
    }
}
