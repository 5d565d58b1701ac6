//! Meta's `params.json` becomes Hugging Face's `config.json`.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::ranks;
use crate::config::{HfConfig, Section};
use crate::error::{ConfigError, ImportError};

/// Tokens of every released model.
const BEGIN: u32 = 200_000;
const ENDS: [u32; 3] = [200_001, 200_007, 200_008];
const PAD: u32 = 200_018;

/// Largest size, as everywhere in a configuration.
const MAX_SIZE: usize = i32::MAX as usize;

/// Context length before rope scaling, which no params.json says.
const ORIGINAL_POSITIONS: usize = 8192;

/// The configuration in a folder's `params.json`. Where that does not say the size of the vocabulary, the first of the ranks does, by its
/// rows of the embedding.
pub(in crate::import) fn read(dir: &Path) -> Result<HfConfig, ImportError> {
    let file = dir.join("params.json");
    let text = std::fs::read(&file).map_err(|error| ImportError::Read { file: file.clone(), error })?;
    let located = |error: ConfigError| ImportError::from(error.in_file(&file));
    let root: Map<String, Value> =
        serde_json::from_slice(&text).map_err(|error| located(ConfigError::Json { error }))?;
    // Some files have everything under `model`.
    let root_section = Section::new("", &root);
    let params = match root_section.get("model") {
        Some(Value::Object(params)) => Section::new("model.", params),
        _ => root_section,
    };
    let vocab_size = match vocab_size(&params).map_err(located)? {
        Some(size) => size,
        None => embedding_rows(dir, &file)?,
    };
    let config = hf_config(&params, vocab_size).map_err(located)?;
    let hf = HfConfig::from_slice(config.to_string().as_bytes()).map_err(located)?;
    // Here, so that an error names the file that it is in.
    hf.to_model_config().map_err(located)?;
    Ok(hf)
}

/// Rows of the embedding in all ranks.
fn embedding_rows(dir: &Path, params: &Path) -> Result<usize, ImportError> {
    const NAME: &str = "tok_embeddings.weight";
    let files = ranks::files(dir)?;
    let first = files.first().map(|file| ranks::read_rank(file)).transpose()?;
    let embedding = first.as_ref().and_then(|rank| rank.tensors.iter().find(|tensor| tensor.name == NAME));
    let rows = embedding.and_then(|tensor| tensor.shape.first()?.checked_mul(files.len()));
    rows.ok_or_else(|| {
        let file = first.map_or_else(|| dir.to_path_buf(), |rank| rank.file.to_path_buf());
        let reason = format!("it has no {NAME}, and {} does not say the size of the vocabulary", params.display());
        ImportError::Corrupt { file, reason }
    })
}

/// `vocab_size`; `None` where it is absent or -1, Meta's word for "as the tokenizer has it".
fn vocab_size(params: &Section) -> Result<Option<usize>, ConfigError> {
    match params.get("vocab_size") {
        Some(value) if value.as_i64() == Some(-1) => Ok(None),
        _ => size(params, "vocab_size"),
    }
}

/// The model as Hugging Face's `config.json` says it.
///
/// What a params.json leaves out has the default of Meta's `ModelArgs`, by which the file was written, with one exception:
/// temperature tuning, which is off there, an option for whoever runs the model, and on in the released models' config.json. They differ
/// from position 8191 on. What no params.json says (special tokens, the longest context) is what the released models have.
pub(super) fn hf_config(params: &Section, vocab_size: usize) -> Result<Value, ConfigError> {
    refuse_adapted(params)?;
    let hidden = required(params, "dim")?;
    let layers = required(params, "n_layers")?;
    let heads = required(params, "n_heads")?;
    let kv_heads = size(params, "n_kv_heads")?.unwrap_or(heads);
    if !heads.is_multiple_of(kv_heads) {
        let rule = format!("`{}` must be a multiple of it, and is {heads}", params.path("n_heads"));
        return Err(ConfigError::invalid(params.path("n_kv_heads"), kv_heads, rule));
    }
    let head_dim = match size(params, "head_dim")? {
        Some(head_dim) => head_dim,
        None if hidden.is_multiple_of(heads) => hidden / heads,
        None => {
            let rule = format!("`{}` must be a multiple of it, and is {hidden}", params.path("dim"));
            return Err(ConfigError::invalid(params.path("n_heads"), heads, rule));
        }
    };
    let moe_map = params.object("moe_args")?;
    let moe_path = format!("{}.", params.path("moe_args"));
    let moe = moe_map.map(|map| Section::new(&moe_path, map));
    let widths = Widths::read(params, hidden)?;
    let known = |id: &u32| (*id as usize) < vocab_size;
    let mut config = json!({
        "architectures": ["Llama4ForCausalLM"],
        "model_type": "llama4_text",
        "attention_bias": false,
        // Null and absent are the same to Meta: full attention in all layers.
        "attention_chunk_size": size(params, "attention_chunk_size")?,
        "attn_scale": params.number("attn_scale")?.unwrap_or(0.1),
        "attn_temperature_tuning": params.switch("attn_temperature_tuning")?.unwrap_or(true),
        "bos_token_id": Some(BEGIN).filter(known),
        "eos_token_id": ENDS.into_iter().filter(known).collect::<Vec<_>>(),
        "floor_scale": positive(params, "floor_scale")?.unwrap_or(8192.0),
        "head_dim": head_dim,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size_mlp": widths.dense(params)?,
        // One more than there are layers: RoPE in all of them.
        "no_rope_layer_interval": size(params, "nope_layer_interval")?.unwrap_or(layers + 1),
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": kv_heads,
        "pad_token_id": Some(PAD).filter(known),
        "rms_norm_eps": positive(params, "norm_eps")?.unwrap_or(1e-5),
        "rope_scaling": rope_scaling(params)?,
        "rope_theta": positive(params, "rope_theta")?.unwrap_or(500_000.0),
        "tie_word_embeddings": false,
        "torch_dtype": "bfloat16",
        "use_qk_norm": params.switch("use_qk_norm")?.unwrap_or(false),
        "vocab_size": vocab_size,
    });
    let experts = match &moe {
        None => {
            config["moe_layers"] = json!([]);
            0
        }
        Some(moe) => {
            let experts = required(moe, "num_experts")?;
            let top_k = size(moe, "top_k")?.unwrap_or(1);
            if top_k > experts {
                let rule = format!("there are only {experts} experts");
                return Err(ConfigError::invalid(moe.path("top_k"), top_k, rule));
            }
            config["num_experts_per_tok"] = json!(top_k);
            config["interleave_moe_layer_step"] = json!(size(moe, "interleave_moe_layer_step")?.unwrap_or(1));
            config["intermediate_size"] = json!(widths.expert(params, moe)?);
            experts
        }
    };
    config["num_local_experts"] = json!(experts);
    // Scout, Maverick and Guard, the instruction-tuned ones.
    config["max_position_embeddings"] = json!(match experts {
        0 => 163_840,
        16 => 10_485_760,
        _ => 1_048_576,
    });
    Ok(config)
}

/// Weights that are packed, or that come in two parts, are not what these names mean.
fn refuse_adapted(params: &Section) -> Result<(), ConfigError> {
    if let Some(lora) = params.get("lora_args") {
        return Err(params.unsupported("lora_args", lora, "weights that adapters are merged into"));
    }
    let Some(quantization) = params.object("quantization_args")? else { return Ok(()) };
    let path = format!("{}.", params.path("quantization_args"));
    let quantization = Section::new(&path, quantization);
    match quantization.get("scheme") {
        Some(scheme) => Err(quantization.unsupported("scheme", scheme, "none; of Hugging Face's files, FP8 as well")),
        None => Ok(()),
    }
}

/// Scout alone has it, and its params.json may leave the numbers out; Meta's code then takes these.
fn rope_scaling(params: &Section) -> Result<Value, ConfigError> {
    if !params.switch("use_scaled_rope")?.unwrap_or(false) {
        return Ok(Value::Null);
    }
    Ok(json!({
        "rope_type": "llama3",
        "factor": positive(params, "rope_scaling_factor")?.unwrap_or(16.0),
        "low_freq_factor": 1.0,
        "high_freq_factor": positive(params, "rope_high_freq_factor")?.unwrap_or(1.0),
        "original_max_position_embeddings": ORIGINAL_POSITIONS,
    }))
}

/// What the widths of feed-forward layers are computed from: two thirds of `ffn_exp · dim`, times `ffn_dim_multiplier`, rounded down
/// after each step and up to `multiple_of` at the end.
struct Widths {
    hidden: usize,
    expansion: f64,
    multiplier: f64,
    multiple: usize,
}

impl Widths {
    fn read(params: &Section, hidden: usize) -> Result<Self, ConfigError> {
        Ok(Self {
            hidden,
            // Meta's dense layers ignore it and take 4, transformers' converter does not; all released models have 4.
            expansion: positive(params, "ffn_exp")?.unwrap_or(4.0),
            multiplier: positive(params, "ffn_dim_multiplier")?.unwrap_or(1.0),
            multiple: size(params, "multiple_of")?.unwrap_or(256),
        })
    }

    /// Width of a dense layer.
    fn dense(&self, params: &Section) -> Result<usize, ConfigError> {
        self.rounded(params, self.unrounded())
    }

    /// Width of each expert, and of the shared one: smaller, so that the active ones together are as wide as a dense layer.
    fn expert(&self, params: &Section, moe: &Section) -> Result<usize, ConfigError> {
        let capacity = positive(moe, "capacity_factor")?.unwrap_or(1.0);
        let width = self.unrounded();
        let scaled = moe.switch("auto_scale_F")?.unwrap_or(true);
        self.rounded(params, if scaled { (width / (capacity + 1.0)).floor() } else { width })
    }

    fn unrounded(&self) -> f64 {
        let width = (self.expansion * self.hidden as f64).floor();
        let width = (2.0 * width / 3.0).floor();
        (self.multiplier * width).floor()
    }

    fn rounded(&self, params: &Section, width: f64) -> Result<usize, ConfigError> {
        let multiple = self.multiple as f64;
        let rounded = (width / multiple).ceil() * multiple;
        if (1.0..=MAX_SIZE as f64).contains(&rounded) {
            return Ok(rounded as usize);
        }
        let rule = format!(
            "with `ffn_exp` {}, `ffn_dim_multiplier` {} and `multiple_of` {} it gives a feed-forward width of {rounded}",
            self.expansion, self.multiplier, self.multiple
        );
        Err(ConfigError::invalid(params.path("dim"), self.hidden, rule))
    }
}

/// A number of things, of which there must be one at least.
fn size(section: &Section, key: &str) -> Result<Option<usize>, ConfigError> {
    match section.count(key)? {
        Some(count) if !(1..=MAX_SIZE).contains(&count) => {
            Err(ConfigError::invalid(section.path(key), count, format!("it must be 1 to {MAX_SIZE}")))
        }
        count => Ok(count),
    }
}

fn required(section: &Section, key: &str) -> Result<usize, ConfigError> {
    size(section, key)?.ok_or_else(|| section.missing(key))
}

fn positive(section: &Section, key: &str) -> Result<Option<f64>, ConfigError> {
    match section.number(key)? {
        Some(number) if !(number.is_finite() && number > 0.0) => {
            Err(ConfigError::invalid(section.path(key), number, "it must be finite and above 0"))
        }
        number => Ok(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Llama4Config;

    fn model(params: &Value) -> Llama4Config {
        let config = hf_config(&Section::new("", params.as_object().unwrap()), 202_048).unwrap();
        HfConfig::from_json(&config.to_string()).unwrap().to_model_config().unwrap()
    }

    /// What the released models' files have in common.
    fn released() -> Value {
        json!({
            "dim": 5120, "n_layers": 48, "n_heads": 40, "n_kv_heads": 8, "ffn_exp": 4.0, "ffn_dim_multiplier": 1.2,
            "multiple_of": 2048, "norm_eps": 1e-5, "rope_theta": 500_000, "nope_layer_interval": 4,
            "attention_chunk_size": 8192,
        })
    }

    fn scout() -> Value {
        let mut params = released();
        params["use_scaled_rope"] = json!(true);
        params["use_qk_norm"] = json!(true);
        params["moe_args"] = json!({ "num_experts": 16, "capacity_factor": 1.0, "auto_scale_F": true, "top_k": 1, "interleave_moe_layer_step": 1 });
        params
    }

    #[test]
    fn the_released_models_are_what_their_params_say() {
        assert_eq!(model(&scout()), Llama4Config::scout());
        let mut maverick = released();
        maverick["use_scaled_rope"] = json!(false);
        maverick["use_qk_norm"] = json!(false);
        maverick["moe_args"] = json!({ "num_experts": 128, "interleave_moe_layer_step": 2 });
        assert_eq!(model(&maverick), Llama4Config::maverick());
    }

    #[test]
    fn a_dense_model_with_rope_everywhere() {
        let mut guard = scout();
        guard["ffn_exp"] = json!(2);
        for key in ["moe_args", "nope_layer_interval", "attention_chunk_size"] {
            guard[key] = Value::Null;
        }
        let expected = Llama4Config::guard4();
        assert_eq!(model(&guard), Llama4Config { intermediate_size: 8192, ..expected.clone() });
        for key in ["moe_args", "nope_layer_interval", "attention_chunk_size"] {
            guard.as_object_mut().unwrap().remove(key);
        }
        assert_eq!(model(&guard), Llama4Config { intermediate_size: 8192, ..expected });
    }

    #[test]
    fn what_params_say_wins() {
        let mut params = scout();
        for (key, value) in [
            ("rope_scaling_factor", json!(8.0)),
            ("rope_high_freq_factor", json!(4)),
            ("attn_temperature_tuning", json!(false)),
            ("floor_scale", json!(4096.0)),
            ("attn_scale", json!(0.2)),
            ("head_dim", json!(64)),
            ("n_kv_heads", Value::Null),
            ("nope_layer_interval", json!(6)),
        ] {
            params[key] = value;
        }
        params["moe_args"]["auto_scale_F"] = json!(false);
        let model = model(&params);
        let scaling = model.rope_scaling_params.unwrap();
        assert_eq!((scaling.factor, scaling.low_freq_factor, scaling.high_freq_factor), (8.0, 1.0, 4.0));
        assert_eq!((model.attn_temperature_tuning, model.floor_scale, model.attn_scale), (false, 4096.0, 0.2));
        assert_eq!((model.head_dim, model.num_key_value_heads, model.intermediate_size), (64, 40, 16_384));
        assert!(!model.uses_rope[5] && model.uses_rope[3]);
    }
}
