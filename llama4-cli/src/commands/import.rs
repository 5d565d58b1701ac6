use std::collections::BTreeMap;
use std::fmt::Display;

use anyhow::Result;
use llama4::import::{Checkpoint, ConvertOptions, ConvertReport};
use serde_json::json;

use crate::args::ImportArgs;
use crate::exit::Outcome;
use crate::interrupt::Watch;
use crate::model::{self, Model, follow, stopped};
use crate::output::Output;

pub(super) fn run(args: &ImportArgs, output: &Output) -> Result<Outcome> {
    let model = Model::open(&args.model)?;
    let options = ConvertOptions {
        quantization: args.quantize.quantization(),
        shard_bytes: args.shard_size,
        replace: args.force,
    };
    let watch = Watch::begin();
    let bar = output.bytes_bar();
    let message = format!("Importing {}", model.name());
    let checkpoint: &Checkpoint = model.checkpoint();
    let report = checkpoint.convert(&options, &args.output, follow(&bar, &message, &watch));
    drop(bar);
    let report = report.map_err(stopped)?;
    if let Some(loss) = model::losses(&report.kept_float, &report.requantised) {
        output.note(loss);
    }
    if args.json {
        output.json(&json!({
            "form": report.form.to_string(),
            "bytes_read": report.bytes_read,
            "bytes_written": report.bytes_written,
            "files": report.files,
            "dtypes": words(&report.dtypes),
            "kept_float": report.kept_float,
            "requantised": words(&report.requantised),
            "seconds": report.elapsed.as_secs_f64(),
        }))?;
    } else {
        output.note(said(args, &report));
    }
    Ok(Outcome::Done)
}

fn words(counts: &BTreeMap<impl Display, usize>) -> BTreeMap<String, usize> {
    counts.iter().map(|(word, count)| (word.to_string(), *count)).collect()
}

fn said(args: &ImportArgs, report: &ConvertReport) -> String {
    let dtypes: Vec<String> = report.dtypes.iter().map(|(dtype, count)| format!("{count} {dtype}")).collect();
    format!(
        "{}: {} files, {:.2} GB ({}), from {:.2} GB of {} in {:.1} s",
        args.output.display(),
        report.files,
        report.bytes_written as f64 / 1e9,
        dtypes.join(", "),
        report.bytes_read as f64 / 1e9,
        report.form,
        report.elapsed.as_secs_f64(),
    )
}
