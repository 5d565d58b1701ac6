use std::sync::Arc;

use super::super::blob::Blob;
use super::super::header;
use super::*;
use crate::config::ReturnLogits;
use crate::import::{StoredDtype, WeightsForm};
use crate::nn::{ForwardOptions, TokenBatch};

const GOLDENS: [&str; 6] = [
    "p1_scout_like",
    "p2_maverick_like",
    "p3_chunked",
    "p4_temperature",
    "p5_ropescaled_bias_tied_gqa4",
    "p6_batch_padded",
];

/// The prompt of a golden with one, and the logits of every position.
fn expected(name: &str) -> Option<(Vec<u32>, Vec<f32>)> {
    let file: Arc<Path> = golden(name).join("golden.safetensors").into();
    let tensors = header::read(&Blob::open(&file).unwrap(), &file).unwrap();
    let find = |name: &str| tensors.iter().find(|tensor| tensor.name == name);
    let ids = find("prompt_ids")?.bytes().as_chunks().0.iter().map(|&id| i64::from_le_bytes(id) as u32).collect();
    let logits = find("logits")?.bytes().as_chunks().0.iter().map(|&value| f32::from_le_bytes(value)).collect();
    Some((ids, logits))
}

#[test]
fn every_float_golden_loads_and_computes_what_it_should() {
    for name in GOLDENS {
        let Loaded { model, report } = load(golden(name)).unwrap();
        assert_eq!(report.form, WeightsForm::Safetensors, "{name}");
        assert_eq!(report.skipped_vision, 0, "{name}");
        let Some((ids, logits)) = expected(name) else { continue };
        let device = Default::default();
        let mut cache = model.new_cache(1, ids.len());
        let options = ForwardOptions { logits: ReturnLogits::All, ..Default::default() };
        let output = model.forward(&TokenBatch::single(&ids, &device), &mut cache, &options).unwrap();
        let found = output.logits.unwrap().into_data().to_vec::<f32>().unwrap();
        let worst = found.iter().zip(&logits).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(found.len() == logits.len() && worst < 1e-3, "{name}: off by {worst}");
    }
}

#[test]
fn the_report_counts_what_was_read_and_headers_alone_tell_it() {
    let mut report = load(golden("p1_scout_like")).unwrap().report;
    let survey = crate::import::Checkpoint::open(golden("p1_scout_like")).unwrap().survey().unwrap();
    report.elapsed = survey.elapsed;
    assert_eq!(report, survey);
    let weights = std::fs::metadata(golden("p1_scout_like").join("model.safetensors")).unwrap().len();
    assert_eq!(report.tensors, 51);
    assert_eq!(report.dtypes.into_iter().collect::<Vec<_>>(), [(StoredDtype::Bf16, 51)]);
    assert!(report.bytes < weights && report.bytes > weights * 9 / 10, "{} of {weights}", report.bytes);
}

#[test]
fn eight_bit_floats_with_scales_load() {
    let report = load(golden("p7_fp8_experts")).unwrap().report;
    // Two mixture layers; all else is 16 bits.
    assert_eq!(report.dtypes.into_iter().collect::<Vec<_>>(), [(StoredDtype::Bf16, 41), (StoredDtype::F8E4m3, 4)]);
}
