use std::fmt;

use anyhow::{Context, Result};
use clap::ValueEnum;
use llama4::Llama4Config;
use llama4::config::HfConfig;
use llama4_backends::{FloatArgs, QuantizeArgs};

/// Shapes of models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Preset {
    /// The demo model of llama4-cli: 6 layers, 7 M parameters
    Demo,
    /// For CPUs: 16 layers with 8 experts, 1.014 G parameters
    Cpu,
    /// Llama 4 Scout 17B-16E: 48 layers, 107.8 G parameters
    Scout,
    /// Llama 4 Maverick 17B-128E: 48 layers, 400.7 G parameters
    Maverick,
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Demo => "demo",
            Self::Cpu => "cpu",
            Self::Scout => "scout",
            Self::Maverick => "maverick",
        })
    }
}

impl Preset {
    pub(crate) fn config(self) -> Result<Llama4Config> {
        Ok(match self {
            Self::Demo => HfConfig::from_json(include_str!("../../../fixtures/demo/config.json"))
                .and_then(|config| config.to_model_config())
                .context("the demo model's config.json")?,
            Self::Cpu => Llama4Config::cpu(),
            Self::Scout => Llama4Config::scout(),
            Self::Maverick => Llama4Config::maverick(),
        })
    }
}

/// How weights are held.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub(crate) struct WeightArgs {
    #[command(flatten)]
    pub(crate) float: FloatArgs,
    #[command(flatten)]
    pub(crate) quantize: QuantizeArgs,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_valid_and_named_as_typed() {
        for preset in Preset::value_variants() {
            preset.config().unwrap().validate().unwrap();
            let typed = preset.to_possible_value().unwrap();
            assert_eq!(typed.get_name(), preset.to_string());
        }
    }
}
