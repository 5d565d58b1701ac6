use std::fmt;

use serde::{Deserialize, Serialize};

use super::hf::Section;
use crate::error::ConfigError;
use crate::quant::Packing;

/// How the checkpoint's weights are quantised, as its `quantization_config` says.
///
/// Reading a configuration accepts any; whether the weights can be loaded is for `import` to say, which names what it refuses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuantConfig {
    /// `quant_method`: `compressed-tensors`, `fbgemm_fp8`, `gptq`, `bitsandbytes`, …
    pub method: Option<String>,
    /// `format`, where the method has several: `float-quantized`, …
    pub format: Option<String>,
    /// Bits of a weight, where the file says so.
    pub bits: Option<usize>,
    /// Version of the layout, where the method has several: this library's own.
    #[serde(default)]
    pub version: Option<usize>,
    /// How the head is stored, in this library's own layout.
    #[serde(default)]
    pub head: Option<Packing>,
    /// How the embedding is stored, in this library's own layout.
    #[serde(default)]
    pub embedding: Option<Packing>,
}

impl QuantConfig {
    /// `quant_method` of what this library writes.
    pub const OWN_METHOD: &'static str = "llama4-burn";

    pub(super) fn read(quant: &Section) -> Result<Self, ConfigError> {
        Ok(Self {
            method: quant.text("quant_method")?.map(str::to_owned),
            format: quant.text("format")?.map(str::to_owned),
            bits: bits(quant)?,
            version: quant.count("version")?,
            head: packing(quant, "head")?,
            embedding: packing(quant, "embedding")?,
        })
    }
}

/// A word of this library's own layout; what others mean by the key is theirs to know.
fn packing(quant: &Section, key: &str) -> Result<Option<Packing>, ConfigError> {
    if quant.text("quant_method")? != Some(QuantConfig::OWN_METHOD) {
        return Ok(None);
    }
    quant.text(key)?.map(str::parse).transpose()
}

fn bits(quant: &Section) -> Result<Option<usize>, ConfigError> {
    for (flag, bits) in [("load_in_4bit", 4), ("load_in_8bit", 8)] {
        if quant.switch(flag)? == Some(true) {
            return Ok(Some(bits));
        }
    }
    if let Some(bits) = quant.count("bits")? {
        return Ok(Some(bits));
    }
    // compressed-tensors says it per group; what is stored differs by group only in mixed checkpoints, which `bits` cannot tell.
    let Some(groups) = quant.object("config_groups")? else {
        return Ok(None);
    };
    let bits = groups.values().find_map(|group| group.get("weights")?.get("num_bits")?.as_u64());
    Ok(bits.and_then(|bits| usize::try_from(bits).ok()))
}

impl fmt::Display for QuantConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.method.as_deref().unwrap_or("unnamed method"))?;
        if let Some(format) = &self.format {
            write!(f, " {format}")?;
        }
        if let Some(bits) = self.bits {
            write!(f, " {bits}-bit")?;
        }
        Ok(())
    }
}
