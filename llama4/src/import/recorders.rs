//! Single files through burn-import's recorders.
//!
//! Alone they ignore extra tensors and wrong shapes and take a hole for an absent option, so they only see files that passed the plan.
//! They hold the whole record on the host, in `f32`: right for small files, and only for those.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use burn::module::{ConstantRecord, Module, Param};
use burn::record::{FullPrecisionSettings, Recorder, RecorderError};
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use burn_import::pytorch::PyTorchFileRecorder;
use burn_import::safetensors::{AdapterType, SafetensorsFileRecorder};
use burn_import::{pytorch, safetensors};

use super::experts::{self, Group};
use super::report::WeightsForm;
use crate::Llama4Config;
use crate::error::ImportError;
use crate::nn::moe::{ELEMENTS_PER_TENSOR, ExpertGroupRecord};
use crate::nn::{FeedForwardRecord, Llama4ForCausalLM, Llama4ForCausalLMRecord};
use crate::quant::WeightRecord;

/// From names in the file to places in the record, one rule after the other.
const RENAMES: [(&str, &str); 5] = [
    // The vision half, all of it to one place that no record has.
    (r"^(model\.)?(vision_model|multi_modal_projector)\..*$", "vision"),
    // What `names::text_name` does.
    (r"^language_model\.", ""),
    (r"^model\.language_model\.", "model."),
    (r"^model\.(model|lm_head)\.", "$1."),
    // The file's stacked experts are one group of the model's, for now.
    (r"\.experts\.(gate_up_proj|down_proj)$", ".experts.groups.0.$1"),
];

/// Load a file that has passed the plan.
pub(super) fn load<B: Backend>(
    config: &Llama4Config,
    form: WeightsForm,
    file: &Path,
    device: &B::Device,
) -> Result<Llama4ForCausalLM<B>, ImportError> {
    let failed = |reason: String| ImportError::Loader { file: file.to_path_buf(), reason };
    // The recorders answer some surprises with a panic. The plan leaves none that we know of, but a library must not rely on it.
    let loaded = catch_unwind(AssertUnwindSafe(|| match form {
        WeightsForm::PyTorch => {
            let args = RENAMES.iter().fold(pytorch::LoadArgs::new(file.to_path_buf()), |args, (pattern, name)| {
                args.with_key_remap(pattern, name)
            });
            PyTorchFileRecorder::<FullPrecisionSettings>::default().load(args, device)
        }
        _ => {
            let args = safetensors::LoadArgs::new(file.to_path_buf()).with_adapter_type(AdapterType::NoAdapter);
            let args = RENAMES.iter().fold(args, |args, (pattern, name)| args.with_key_remap(pattern, name));
            SafetensorsFileRecorder::<FullPrecisionSettings>::default().load(args, device)
        }
    }));
    let mut record: Llama4ForCausalLMRecord<B> = match loaded {
        Ok(loaded) => loaded.map_err(|error| failed(reason(error)))?,
        Err(_) => return Err(failed("burn-import panicked".to_string())),
    };
    let groups = experts::groups(config, ELEMENTS_PER_TENSOR);
    for layer in &mut record.model.layers {
        if let FeedForwardRecord::Moe(moe) = &mut layer.feed_forward {
            let stacked = moe.experts.groups.pop().ok_or_else(|| failed("a layer without experts".to_string()))?;
            let float = |weight| match weight {
                WeightRecord::Float(param) => Ok(Param::into_value(param)),
                WeightRecord::Packed(_) | WeightRecord::Split(_) => Err(failed("packed experts".to_string())),
            };
            let (gate_up, down) = (float(stacked.gate_up_proj)?, float(stacked.down_proj)?);
            moe.experts.groups = groups
                .iter()
                .map(|&group| ExpertGroupRecord {
                    gate_up_proj: WeightRecord::Float(turned(&gate_up, group)),
                    down_proj: WeightRecord::Float(turned(&down, group)),
                    experts: ConstantRecord::new(),
                })
                .collect();
        }
    }
    Ok(config.init::<B>(device).load_record(record))
}

/// What a recorder says went wrong. Its own text has the variant's name around it.
pub(super) fn reason(error: RecorderError) -> String {
    match error {
        RecorderError::FileNotFound(text) | RecorderError::DeserializeError(text) | RecorderError::Unknown(text) => {
            text
        }
    }
}

/// A group of stacked experts, `[experts, in, out]`, as `[experts, out, in]` with each output contiguous.
fn turned<B: Backend>(stacked: &Tensor<B, 3>, group: Group) -> Param<Tensor<B, 3>> {
    let device = stacked.device();
    let turned = stacked.clone().narrow(0, group.first, group.count).swap_dims(1, 2);
    // Through the host: a backend may turn by relabelling strides, and then an output would not be contiguous.
    Param::from_tensor(Tensor::from_data(turned.into_data(), &device))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use burn::tensor::{DType, Distribution};

    use super::super::blob::Blob;
    use super::super::encode;
    use super::super::matrix::{Matrix, Strided};
    use super::super::stored::StoredDtype;
    use super::super::stored::StoredTensor;
    use super::*;

    #[test]
    fn groups_are_turned_as_the_streaming_loader_turns_them() {
        let stacked = Tensor::<burn_ndarray::NdArray, 3>::random([5, 3, 7], Distribution::Default, &Default::default());
        let bytes: Vec<u8> = stacked.to_data().iter::<f32>().flat_map(f32::to_le_bytes).collect();
        let tensor = Arc::new(StoredTensor {
            name: "experts".into(),
            dtype: StoredDtype::F32,
            shape: vec![5, 3, 7],
            file: Path::new("test").into(),
            range: 0..bytes.len(),
            blob: Blob::Static(bytes.leak()),
        });
        let experts: Vec<Matrix> =
            (0..5).map(|expert| Matrix::Floats(Strided::new(&tensor, expert * 21, [7, 3], [1, 7]).unwrap())).collect();
        for (first, count) in [(0, 2), (2, 2), (4, 1)] {
            let streamed = encode::floats(&experts[first..first + count], DType::F32, vec![count, 7, 3]).unwrap();
            assert_eq!(turned(&stacked, Group { first, count }).val().into_data(), streamed);
        }
    }
}
