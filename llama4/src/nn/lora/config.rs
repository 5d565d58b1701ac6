use std::fmt;
use std::str::FromStr;

use burn::config::Config;
use serde::{Deserialize, Serialize};

use crate::error::LoraError;

/// How a model is adapted. The names in brackets are those of PEFT's `LoraConfig`.
#[derive(Config, Debug, PartialEq)]
pub struct LoraConfig {
    /// Width of the detour, `r`.
    #[config(default = 8)]
    pub rank: usize,
    /// Strength of the detour (`lora_alpha`): what it adds is multiplied by [`scale`](Self::scale).
    #[config(default = 16.0)]
    pub alpha: f64,
    /// Share of the detour's inputs that are dropped (`lora_dropout`); only ever under autodiff.
    #[config(default = 0.0)]
    pub dropout: f64,
    /// Divide by the root of the rank instead of the rank (`use_rslora`, <https://arxiv.org/abs/2312.03732>).
    #[config(default = false)]
    pub rank_stabilized: bool,
    /// The projections that get an adapter (`target_modules`), in every layer.
    #[config(default = "LoraTarget::ALL.to_vec()")]
    pub targets: Vec<LoraTarget>,
}

impl LoraConfig {
    /// What the detour's output is multiplied by: `alpha / r`, or `alpha / √r` where it is rank-stabilised.
    pub fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.rank_stabilized { rank.sqrt() } else { rank }
    }

    /// # Errors
    /// When a field is out of its range.
    pub fn validate(&self) -> Result<(), LoraError> {
        if self.rank == 0 {
            return Err(LoraError::Rank);
        }
        if !self.alpha.is_finite() {
            return Err(LoraError::Alpha { found: self.alpha });
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(LoraError::Dropout { found: self.dropout });
        }
        if self.targets.is_empty() {
            return Err(LoraError::NoTargets);
        }
        Ok(())
    }
}

/// A kind of projection that can be adapted.
///
/// The three of an MLP mean the shared expert in a mixture of experts and the whole feed-forward in a dense layer. Routed experts and the
/// router are never adapted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoraTarget {
    /// Queries.
    QProj,
    /// Keys.
    KProj,
    /// Values.
    VProj,
    /// The attention's output.
    OProj,
    /// Gate of an MLP.
    GateProj,
    /// What the gate multiplies.
    UpProj,
    /// Output of an MLP.
    DownProj,
}

impl LoraTarget {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::QProj, Self::KProj, Self::VProj, Self::OProj, Self::GateProj, Self::UpProj, Self::DownProj];

    /// The projection's name in the model.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::QProj => "q_proj",
            Self::KProj => "k_proj",
            Self::VProj => "v_proj",
            Self::OProj => "o_proj",
            Self::GateProj => "gate_proj",
            Self::UpProj => "up_proj",
            Self::DownProj => "down_proj",
        }
    }
}

impl fmt::Display for LoraTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for LoraTarget {
    type Err = LoraError;

    fn from_str(name: &str) -> Result<Self, LoraError> {
        let named = Self::ALL.into_iter().find(|target| target.as_str() == name);
        named.ok_or_else(|| LoraError::Target { found: name.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_is_alpha_over_the_rank_or_over_its_root() {
        let config = LoraConfig::new().with_rank(16).with_alpha(32.0);
        assert_eq!(config.scale(), 2.0);
        assert_eq!(config.with_rank_stabilized(true).scale(), 8.0);
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let error = |config: LoraConfig| config.validate().unwrap_err().to_string();
        assert_eq!(error(LoraConfig::new().with_rank(0)), "the rank of an adapter is 0; it must be at least 1");
        assert!(error(LoraConfig::new().with_dropout(1.0)).contains("dropout"));
        assert!(error(LoraConfig::new().with_alpha(f64::NAN)).contains("alpha"));
        assert!(error(LoraConfig::new().with_targets(Vec::new())).contains("q_proj"));
        assert!("router".parse::<LoraTarget>().unwrap_err().to_string().contains("router"));
        assert_eq!("up_proj".parse::<LoraTarget>().unwrap(), LoraTarget::UpProj);
    }
}
