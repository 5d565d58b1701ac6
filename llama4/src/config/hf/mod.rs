//! Hugging Face's `config.json` as found on disk.

mod layers;
mod rope;
mod section;
mod write;

use std::path::{Path, PathBuf};

use burn::tensor::DType;
use serde_json::{Map, Value};

pub(crate) use section::Section;

use super::model::MAX_LAYERS;
use super::{Llama4Config, QuantConfig};
use crate::error::ConfigError;

const TEXT: &str = "text_config";

/// A `config.json` of a Llama 4 model, nested (`Llama4ForConditionalGeneration`, the text part under `text_config`) or flat
/// (`Llama4ForCausalLM`), in the spelling of transformers 4.5x or 5.x. Keys that say nothing about the text model are ignored.
///
/// Absent keys have transformers' defaults, except for the sizes (widths, heads, layers, vocabulary), which every file
/// states: a default there would only hide a damaged file.
#[derive(Debug, Clone, PartialEq)]
pub struct HfConfig {
    file: Option<PathBuf>,
    root: Map<String, Value>,
    nested: bool,
}

impl HfConfig {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, is not a JSON object, or is the configuration of another architecture.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let file = path.as_ref();
        let mut hf = parse_file(file, Self::from_slice)?;
        hf.file = Some(file.to_owned());
        Ok(hf)
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// When it is not a JSON object, or the configuration of another architecture.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        Self::from_slice(text.as_bytes())
    }

    /// Reads the bytes of a file.
    ///
    /// # Errors
    /// As [`from_json`](Self::from_json).
    pub fn from_slice(bytes: &[u8]) -> Result<Self, ConfigError> {
        let root: Map<String, Value> = serde_json::from_slice(bytes).map_err(|error| ConfigError::Json { error })?;
        let nested = Section::new("", &root).object(TEXT)?.is_some();
        let hf = Self { file: None, root, nested };
        hf.check_architecture()?;
        Ok(hf)
    }

    /// The file it was read from.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Whether the text part is under `text_config`, as in the multimodal checkpoints.
    pub fn is_nested(&self) -> bool {
        self.nested
    }

    /// The type the weights are stored in, as `dtype` or `torch_dtype` says; `None` where neither does, or says a type that
    /// burn has no tensors of.
    pub fn dtype(&self) -> Option<DType> {
        let sections = [self.text(), self.top()];
        let word = sections.iter().find_map(|section| {
            let word = |key| section.get(key).and_then(Value::as_str);
            word("dtype").or_else(|| word("torch_dtype"))
        })?;
        match word.strip_prefix("torch.").unwrap_or(word) {
            "float32" | "float" => Some(DType::F32),
            "bfloat16" => Some(DType::BF16),
            "float16" | "half" => Some(DType::F16),
            "float64" | "double" => Some(DType::F64),
            _ => None,
        }
    }

    /// The model that the file describes, validated.
    ///
    /// # Errors
    /// When a size is missing, a value is of the wrong type, breaks a rule of [`Llama4Config::validate`], or means something
    /// that is not implemented (a rope type other than llama3, an activation other than silu).
    pub fn to_model_config(&self) -> Result<Llama4Config, ConfigError> {
        let read = || {
            let config = self.read_model()?;
            config.validate()?;
            Ok(config)
        };
        read().map_err(|error| self.locate(error))
    }

    pub(super) fn num_layers(&self) -> Result<usize, ConfigError> {
        self.read_num_layers().map_err(|error| self.locate(error))
    }

    pub(super) fn head_dim(&self) -> Result<usize, ConfigError> {
        self.read_head_dim().map_err(|error| self.locate(error))
    }

    pub(super) fn max_position_embeddings(&self) -> Result<usize, ConfigError> {
        self.read_max_position_embeddings().map_err(|error| self.locate(error))
    }

    /// The object that describes the text model.
    fn text(&self) -> Section<'_> {
        match self.root.get(TEXT) {
            Some(Value::Object(text)) => Section::new("text_config.", text),
            _ => self.top(),
        }
    }

    fn top(&self) -> Section<'_> {
        Section::new("", &self.root)
    }

    fn locate(&self, error: ConfigError) -> ConfigError {
        match &self.file {
            Some(file) => error.in_file(file),
            None => error,
        }
    }

    fn check_architecture(&self) -> Result<(), ConfigError> {
        const TYPES: &str = "llama4, llama4_text";
        let sections = [self.top(), self.text()];
        let mut known = false;
        for section in &sections {
            match section.text("model_type")? {
                Some("llama4" | "llama4_text") => known = true,
                Some(other) => {
                    return Err(section.unsupported("model_type", &Value::from(other), TYPES));
                }
                None => {}
            }
        }
        if known {
            return Ok(());
        }
        // Without a type, the class says it; without a class, a key that only Llama 4 has.
        match self.top().get("architectures") {
            Some(classes) if classes.to_string().contains("\"Llama4For") => Ok(()),
            Some(classes) => Err(self.top().unsupported(
                "architectures",
                classes,
                "Llama4ForCausalLM, Llama4ForConditionalGeneration",
            )),
            None if self.text().has("intermediate_size_mlp") => Ok(()),
            None => Err(self.top().missing("model_type")),
        }
    }

    fn read_num_layers(&self) -> Result<usize, ConfigError> {
        const KEY: &str = "num_hidden_layers";
        let layers = self.text().required_count(KEY)?;
        // Before lists of this length are built.
        if layers > MAX_LAYERS {
            let rule = format!("more than {MAX_LAYERS} layers are surely a mistake");
            return Err(ConfigError::invalid(self.text().path(KEY), layers, rule));
        }
        Ok(layers)
    }

    fn read_head_dim(&self) -> Result<usize, ConfigError> {
        let text = self.text();
        if let Some(head_dim) = text.count("head_dim")? {
            return Ok(head_dim);
        }
        let hidden_size = text.required_count("hidden_size")?;
        let heads = text.required_count("num_attention_heads")?;
        if heads == 0 || !hidden_size.is_multiple_of(heads) {
            let rule = format!("without `head_dim` it must be a multiple of `num_attention_heads`, {heads}");
            return Err(ConfigError::invalid(text.path("hidden_size"), hidden_size, rule));
        }
        Ok(hidden_size / heads)
    }

    fn read_max_position_embeddings(&self) -> Result<usize, ConfigError> {
        let positions = self.text().count("max_position_embeddings")?;
        Ok(positions.unwrap_or(4096 * 32))
    }

    fn read_model(&self) -> Result<Llama4Config, ConfigError> {
        let text = self.text();
        if let Some(act) = text.text("hidden_act")?
            && !matches!(act, "silu" | "swish")
        {
            return Err(text.unsupported("hidden_act", &Value::from(act), "silu"));
        }
        let layers = self.read_num_layers()?;
        let heads = text.required_count("num_attention_heads")?;
        let head_dim = self.read_head_dim()?;
        let uses_rope = layers::uses_rope(&text, layers)?;
        let moe_layers = layers::moe_layers(&text, layers)?;
        let (intermediate_size, intermediate_size_mlp) = widths(&text, layers, &moe_layers)?;
        let (rope_theta, rope_scaling_params) = rope::read(&text)?;
        Ok(Llama4Config {
            hidden_size: text.required_count("hidden_size")?,
            num_attention_heads: heads,
            num_key_value_heads: text.count("num_key_value_heads")?.unwrap_or(heads),
            num_hidden_layers: layers,
            head_dim,
            rope_theta,
            rope_scaling_params,
            intermediate_size,
            intermediate_size_mlp,
            vocab_size: text.required_count("vocab_size")?,
            num_local_experts: text.count("num_local_experts")?.unwrap_or(16),
            num_experts_per_tok: text.count("num_experts_per_tok")?.unwrap_or(1),
            moe_layers,
            uses_chunked_attention: layers::uses_chunked_attention(&text, &uses_rope)?,
            uses_rope,
            attention_chunk_size: match text.has("attention_chunk_size") {
                // Null is a value here: Guard 4 attends over everything in every layer.
                true => text.count("attention_chunk_size")?,
                false => Some(8192),
            },
            use_qk_norm: text.switch("use_qk_norm")?.unwrap_or(true),
            attn_temperature_tuning: text.switch("attn_temperature_tuning")?.unwrap_or(true),
            floor_scale: text.number("floor_scale")?.unwrap_or(8192.0),
            attn_scale: text.number("attn_scale")?.unwrap_or(0.1),
            attention_bias: text.switch("attention_bias")?.unwrap_or(false),
            attention_multiplier: Llama4Config::attention_multiplier_for(head_dim),
            rms_norm_eps: text.number("rms_norm_eps")?.unwrap_or(1e-5),
            norm_dtype: None,
            tie_word_embeddings: self.ties_embeddings()?,
            max_position_embeddings: self.read_max_position_embeddings()?,
            bos_token_id: self.either("bos_token_id").token_id("bos_token_id")?,
            eos_token_ids: self.either("eos_token_id").token_ids("eos_token_id")?,
            pad_token_id: self.either("pad_token_id").token_id("pad_token_id")?,
            quant_config: self.read_quant_config()?,
        })
    }

    /// Where `key` is: with the text model, else at the top.
    fn either(&self, key: &str) -> Section<'_> {
        match self.text().get(key) {
            Some(_) => self.text(),
            None => self.top(),
        }
    }

    /// The flag at the top decides where both are there, as it does in MAX.
    fn ties_embeddings(&self) -> Result<bool, ConfigError> {
        const KEY: &str = "tie_word_embeddings";
        let section = match self.top().get(KEY) {
            Some(_) => self.top(),
            None => self.text(),
        };
        Ok(section.switch(KEY)?.unwrap_or(false))
    }

    fn read_quant_config(&self) -> Result<Option<QuantConfig>, ConfigError> {
        const KEY: &str = "quantization_config";
        let section = self.either(KEY);
        let Some(quant) = section.object(KEY)? else {
            return Ok(None);
        };
        let prefix = format!("{}.", section.path(KEY));
        QuantConfig::read(&Section::new(&prefix, quant)).map(Some)
    }
}

/// Width of the experts and width of the dense layers. A file must state those that its layers have; one that no layer has
/// (Guard 4 has no experts) may be absent and is then the other.
fn widths(text: &Section, layers: usize, moe_layers: &[usize]) -> Result<(usize, usize), ConfigError> {
    let (experts, dense) = ("intermediate_size", "intermediate_size_mlp");
    let expert_width = text.count(experts)?;
    let dense_width = text.count(dense)?;
    if expert_width.is_none() && (!moe_layers.is_empty() || dense_width.is_none()) {
        return Err(text.missing(experts));
    }
    if dense_width.is_none() {
        let mut is_dense = vec![true; layers];
        for &layer in moe_layers {
            // One that is not there is for validation to name.
            is_dense.get_mut(layer).into_iter().for_each(|is_dense| *is_dense = false);
        }
        if is_dense.contains(&true) {
            return Err(text.missing(dense));
        }
    }
    let either = expert_width.or(dense_width).unwrap_or_default();
    Ok((expert_width.unwrap_or(either), dense_width.unwrap_or(either)))
}

/// Reads `file` and says its name in every error.
pub(super) fn parse_file<T>(file: &Path, parse: impl Fn(&[u8]) -> Result<T, ConfigError>) -> Result<T, ConfigError> {
    let bytes = std::fs::read(file).map_err(|error| ConfigError::Read { file: file.to_owned(), error })?;
    parse(&bytes).map_err(|error| error.in_file(file))
}

#[cfg(test)]
mod tests;
