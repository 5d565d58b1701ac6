//! `adapter_config.json`.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::error::ImportError;
use crate::nn::{LoraConfig, LoraTarget};

/// Fields that say nothing about what an adapter computes.
const INERT: [&str; 13] = [
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "inference_mode",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
];

/// Ways to begin an adapter that leave the base model's weights as they are; others change them, so that an adapter means nothing
/// without its own base.
const BEGINNINGS: [&str; 3] = ["gaussian", "orthogonal", "eva"];

/// What PEFT needs to read an adapter.
pub(super) fn write(config: &LoraConfig, base_model: Option<&str>) -> Value {
    let whole = config.alpha.fract() == 0.0 && config.alpha.abs() < 1e15;
    let alpha = if whole { json!(config.alpha as i64) } else { json!(config.alpha) };
    json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": config.rank,
        "lora_alpha": alpha,
        "lora_dropout": config.dropout,
        "use_rslora": config.rank_stabilized,
        "target_modules": config.targets,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "modules_to_save": null,
        "use_dora": false,
    })
}

/// Read a configuration. What is neither known nor switched off is refused: it would change what the adapter computes.
pub(super) fn read(file: &Path) -> Result<LoraConfig, ImportError> {
    let text = fs::read(file).map_err(|error| ImportError::Read { file: file.to_path_buf(), error })?;
    let corrupt = |reason: String| ImportError::Corrupt { file: file.to_path_buf(), reason };
    let fields: Map<String, Value> =
        serde_json::from_slice(&text).map_err(|error| corrupt(format!("not a JSON object: {error}")))?;
    let reader = Reader { file, fields: &fields };
    let peft_type = fields.get("peft_type").unwrap_or(&Value::Null);
    if peft_type != "LORA" {
        return Err(reader.refused("peft_type", "\"LORA\""));
    }

    let mut config = LoraConfig::new()
        .with_rank(reader.rank()?)
        .with_alpha(reader.number("lora_alpha")?)
        .with_targets(reader.targets()?);
    for (name, value) in &fields {
        match name.as_str() {
            "r" | "lora_alpha" | "target_modules" => {}
            "lora_dropout" => config.dropout = reader.number(name)?,
            "use_rslora" => {
                config.rank_stabilized = value.as_bool().ok_or_else(|| reader.refused(name, "a boolean"))?
            }
            "bias" if value == "none" => {}
            "bias" => return Err(reader.refused(name, "\"none\"")),
            "init_lora_weights" if value.is_boolean() => {}
            "init_lora_weights" if value.as_str().is_some_and(|way| BEGINNINGS.contains(&way)) => {}
            name if INERT.contains(&name) || is_off(value) => {}
            name => return Err(reader.refused(name, "nothing (it is not supported)")),
        }
    }
    config.validate()?;
    Ok(config)
}

/// How JSON says that something is not wanted.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(values) => values.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

struct Reader<'a> {
    file: &'a Path,
    fields: &'a Map<String, Value>,
}

impl Reader<'_> {
    fn refused(&self, field: &str, expected: &str) -> ImportError {
        let found = self.fields.get(field).map_or("not there".to_string(), Value::to_string);
        ImportError::Adapter {
            file: self.file.to_path_buf(),
            field: field.to_string(),
            found,
            expected: expected.to_string(),
        }
    }

    fn rank(&self) -> Result<usize, ImportError> {
        let rank = self.fields.get("r").and_then(Value::as_u64).and_then(|rank| usize::try_from(rank).ok());
        rank.filter(|rank| *rank > 0).ok_or_else(|| self.refused("r", "a positive integer"))
    }

    fn number(&self, field: &str) -> Result<f64, ImportError> {
        self.fields.get(field).and_then(Value::as_f64).ok_or_else(|| self.refused(field, "a number"))
    }

    fn targets(&self) -> Result<Vec<LoraTarget>, ImportError> {
        let names = self.fields.get("target_modules").and_then(Value::as_array);
        let targets = names.and_then(|names| {
            names.iter().map(|name| name.as_str().and_then(|name| name.parse().ok())).collect::<Option<Vec<_>>>()
        });
        let known = || format!("a list of some of {}", LoraTarget::ALL.map(LoraTarget::as_str).join(", "));
        targets.filter(|targets| !targets.is_empty()).ok_or_else(|| self.refused("target_modules", &known()))
    }
}
