use serde_json::{Value, json};

use super::file::GgufFile;
use super::names::{EMBEDDING, HEAD, QUERY_BIAS, ROPE_FREQS};
use super::tokenizer::TOKENS;
use super::{blocks, rope};
use crate::error::{ConfigError, ImportError};

/// What llama.cpp has in its code, whatever a file says, as no file says it: the chunk, the layers without RoPE, the temperature.
const CHUNK_SIZE: usize = 8192;
const NO_ROPE_INTERVAL: usize = 4;
const FLOOR_SCALE: usize = 8192;
const ATTN_SCALE: f64 = 0.1;

/// The number of experts by which llama.cpp knows Maverick, the model without QK norm.
const EXPERTS_WITHOUT_QK_NORM: usize = 128;

const ARCHITECTURE: &str = "general.architecture";

/// The `config.json` that the same model has in Hugging Face's form, flat (`Llama4ForCausalLM`).
///
/// What the format does not say is as llama.cpp has it in its code. One thing is not: where `attention.sliding_window` is 0 every layer
/// has RoPE, as in the checkpoints that such files come from; llama.cpp leaves it out in the last one.
///
/// # Errors
/// When the model is no Llama 4, a key is missing or wrong, or says something that cannot be said in a `config.json`.
pub(in crate::import) fn hf_config(file: &GgufFile) -> Result<Value, ImportError> {
    let metadata = &file.metadata;
    match metadata.text(ARCHITECTURE)? {
        Some("llama4") => {}
        Some(_) => return Err(metadata.unsupported(ARCHITECTURE, "llama4")),
        None => return Err(metadata.missing(ARCHITECTURE)),
    }
    let layers = required(file, "block_count")?;
    let hidden = required(file, "embedding_length")?;
    let heads = required(file, "attention.head_count")?;
    let kv_heads = whole(file, "attention.head_count_kv")?.unwrap_or(heads);
    let head_dim = head_dim(file, hidden, heads)?;
    let moe_step = required(file, "interleave_moe_layer_step")?;
    // A width that no layer has may be missing.
    let dense_width = match whole(file, "feed_forward_length")? {
        None if moe_step != 1 => return Err(metadata.missing(&key("feed_forward_length"))),
        width => width,
    };
    let (experts, top_k) = match moe_step {
        0 => (whole(file, "expert_count")?.unwrap_or(0), whole(file, "expert_used_count")?.unwrap_or(0)),
        _ => (required(file, "expert_count")?, required(file, "expert_used_count")?),
    };
    let vocab = match whole(file, "vocab_size")? {
        Some(vocab) => vocab,
        None => match file.tensor(EMBEDDING).and_then(|tensor| tensor.shape.first()) {
            Some(&rows) => rows,
            None => return Err(metadata.missing(&key("vocab_size"))),
        },
    };
    let theta = metadata.required_number(&key("rope.freq_base"))?;
    check_unsaid(file, head_dim, theta)?;
    let full = whole(file, "attention.sliding_window")? == Some(0);

    let mut config = json!({
        "architectures": ["Llama4ForCausalLM"],
        "attention_bias": file.tensor(QUERY_BIAS).is_some(),
        "attention_chunk_size": if full { Value::Null } else { CHUNK_SIZE.into() },
        "attn_scale": ATTN_SCALE,
        "attn_temperature_tuning": true,
        "bos_token_id": metadata.token_id("tokenizer.ggml.bos_token_id")?,
        "eos_token_id": end_ids(file)?,
        "floor_scale": FLOOR_SCALE,
        "head_dim": head_dim,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "interleave_moe_layer_step": moe_step,
        "intermediate_size": required(file, "expert_feed_forward_length")?,
        "max_position_embeddings": required(file, "context_length")?,
        "model_type": "llama4_text",
        // One more than there are layers means that all have RoPE.
        "no_rope_layer_interval": if full { layers.saturating_add(1) } else { NO_ROPE_INTERVAL },
        "num_attention_heads": heads,
        "num_experts_per_tok": top_k,
        "num_hidden_layers": layers,
        "num_key_value_heads": kv_heads,
        "num_local_experts": experts,
        "pad_token_id": metadata.token_id("tokenizer.ggml.padding_token_id")?,
        "rms_norm_eps": metadata.required_number(&key("attention.layer_norm_rms_epsilon"))?,
        "rope_scaling": rope_scaling(file, head_dim, theta)?,
        "rope_theta": theta,
        "tie_word_embeddings": file.tensor(HEAD).is_none(),
        "use_qk_norm": experts != EXPERTS_WITHOUT_QK_NORM,
        "vocab_size": vocab,
    });
    if let Some(width) = dense_width {
        config["intermediate_size_mlp"] = width.into();
    }
    if let Some(types) = layer_types(file, layers)?.filter(|_| !full) {
        config["layer_types"] = types;
    }
    Ok(config)
}

/// A key of the architecture's own.
fn key(name: &str) -> String {
    format!("llama4.{name}")
}

fn whole(file: &GgufFile, name: &str) -> Result<Option<usize>, ImportError> {
    file.metadata.whole(&key(name))
}

fn required(file: &GgufFile, name: &str) -> Result<usize, ImportError> {
    file.metadata.required_whole(&key(name))
}

fn head_dim(file: &GgufFile, hidden: usize, heads: usize) -> Result<usize, ImportError> {
    const KEY: &str = "attention.key_length";
    let head_dim = match whole(file, KEY)? {
        Some(head_dim) => head_dim,
        None if heads > 0 && hidden.is_multiple_of(heads) => hidden / heads,
        None => return Err(file.metadata.missing(&key(KEY))),
    };
    for other in ["attention.value_length", "rope.dimension_count"] {
        if whole(file, other)?.is_some_and(|width| width != head_dim) {
            let same = format!("{head_dim}, the width of a head's keys");
            return Err(file.metadata.unsupported(&key(other), &same));
        }
    }
    Ok(head_dim)
}

/// Keys with a meaning that a `config.json` has no word for may only say what is so anyway.
fn check_unsaid(file: &GgufFile, head_dim: usize, theta: f64) -> Result<(), ImportError> {
    let unscaled = file.metadata.text(&key("rope.scaling.type"))? == Some("none");
    // llama.cpp reads 0 as "not set" in these three.
    for (name, same) in [
        ("rope.scaling.factor", 1.0),
        ("rope.scale_linear", 1.0),
        ("expert_weights_scale", 1.0),
        ("attention.scale", 1.0 / (head_dim as f64).sqrt()),
    ] {
        let scale = file.metadata.number(&key(name))?.filter(|&scale| scale != 0.0);
        let rope = name.starts_with("rope.");
        if scale.is_some_and(|scale| (scale - same).abs() > 1e-6 * same) && !(rope && unscaled) {
            return Err(file.metadata.unsupported(&key(name), &same.to_string()));
        }
    }
    match file.metadata.number(&key("rope.freq_base_swa"))? {
        Some(local) if local != theta => {
            let same = format!("{theta}, that of the other layers");
            Err(file.metadata.unsupported(&key("rope.freq_base_swa"), &same))
        }
        _ => Ok(()),
    }
}

/// Which layers attend within a chunk, if not those with RoPE: with a pattern of `n`, all but every `n`-th.
fn layer_types(file: &GgufFile, layers: usize) -> Result<Option<Value>, ImportError> {
    let period = match whole(file, "attention.sliding_window_pattern")? {
        None | Some(NO_ROPE_INTERVAL) => return Ok(None),
        Some(period) => period,
    };
    // Before a list of this length is built.
    if layers > file.tensors.len() {
        let rule = format!("the file has only {} tensors", file.tensors.len());
        return Err(file.metadata.invalid(&key("block_count"), &rule));
    }
    let chunked = |layer: usize| period == 0 || layer % period < period - 1;
    let word = |layer| if chunked(layer) { "chunked_attention" } else { "full_attention" };
    Ok(Some((0..layers).map(word).collect()))
}

/// The tokens that end a text or a turn: those that the file names, and Llama 4's by their text where it does not. A list, as in
/// Hugging Face's files: a chat model stops at all of them.
fn end_ids(file: &GgufFile) -> Result<Vec<u32>, ImportError> {
    let metadata = &file.metadata;
    let tokens = metadata.texts(TOKENS)?.unwrap_or_default();
    let by_text = |text: &str| {
        let position = tokens.iter().position(|token| *token == text);
        position.and_then(|id| u32::try_from(id).ok())
    };
    let mut ids = Vec::from_iter(metadata.token_id("tokenizer.ggml.eos_token_id")?);
    ids.extend(by_text("<|end_of_text|>"));
    for (key, text) in [("eot", "<|eot|>"), ("eom", "<|eom|>")] {
        let named = metadata.token_id(&format!("tokenizer.ggml.{key}_token_id"))?;
        ids.extend(named.or_else(|| by_text(text)));
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// The scaling of the rotary frequencies, which the format has as their divisors only.
fn rope_scaling(file: &GgufFile, head_dim: usize, theta: f64) -> Result<Value, ImportError> {
    let Some(tensor) = file.tensor(ROPE_FREQS) else { return Ok(Value::Null) };
    let wrong = |reason: String| {
        let error = ConfigError::invalid(ROPE_FREQS, format!("{} of shape {:?}", tensor.kind, tensor.shape), reason);
        ImportError::from(error.in_file(&*tensor.file))
    };
    if tensor.shape != [head_dim / 2] {
        return Err(wrong(format!("heads of {head_dim} have {} rotated pairs", head_dim / 2)));
    }
    let mut divisors = vec![0.0; head_dim / 2];
    blocks::dequantise(tensor.kind, tensor.bytes(), &mut divisors)
        .map_err(|_| wrong("its values are not read; F32 is usual".to_string()))?;
    let scaling = rope::recover(&divisors, theta, head_dim).map_err(wrong)?;
    Ok(scaling.map_or(Value::Null, |scaling| {
        json!({
            "factor": scaling.factor,
            "high_freq_factor": scaling.high_freq_factor,
            "low_freq_factor": scaling.low_freq_factor,
            "original_max_position_embeddings": scaling.orig_max_position,
            "rope_type": "llama3",
        })
    }))
}
