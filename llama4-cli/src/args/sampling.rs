use llama4::generate::SamplingParams;

/// How the next token is chosen. What is not given here comes from the model's generation_config.json.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Sampling (defaults: the model's generation_config.json)")]
pub(crate) struct SamplingArgs {
    /// Divides the logits: below 1 sharper, above 1 flatter; 0 is greedy, the most likely token each time
    #[arg(long, value_name = "T")]
    pub(crate) temperature: Option<f32>,
    /// Draw from the K most likely tokens; 0 is off
    #[arg(long, value_name = "K")]
    pub(crate) top_k: Option<usize>,
    /// Draw from the most likely tokens that together reach probability P; 1 is off
    #[arg(long, value_name = "P")]
    pub(crate) top_p: Option<f32>,
    /// Draw from tokens at least P times as likely as the most likely one; 0 is off
    #[arg(long, value_name = "P")]
    pub(crate) min_p: Option<f32>,
    /// Makes tokens of prompt and answer less likely (above 1) or more (below 1); 1 is off
    #[arg(long, value_name = "X")]
    pub(crate) repetition_penalty: Option<f32>,
    /// Subtracted from a token's logit for each time it was generated; 0 is off
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) frequency_penalty: Option<f32>,
    /// Subtracted once from the logit of each token that was generated; 0 is off
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) presence_penalty: Option<f32>,
    /// Where the random numbers start: the same seed gives the same text. Without one every run differs
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Add VALUE to the logit of token ID, as in 4090=-100; -inf bans the token (repeatable)
    #[arg(long, value_name = "ID=VALUE", value_parser = logit_bias)]
    pub(crate) logit_bias: Vec<(u32, f32)>,
}

impl SamplingArgs {
    /// `defaults` with what was given in their place.
    ///
    /// Whoever gives nothing but a filter (`--top-k 40`) to a model that is greedy by default wants to draw: a filter without a
    /// temperature makes it 1.
    pub(crate) fn over(&self, defaults: SamplingParams) -> SamplingParams {
        let draws = self.top_k.is_some() || self.top_p.is_some() || self.min_p.is_some();
        let default_temperature = match defaults.temperature {
            0.0 if draws => 1.0,
            temperature => temperature,
        };
        SamplingParams {
            temperature: self.temperature.unwrap_or(default_temperature),
            top_k: self.top_k.unwrap_or(defaults.top_k),
            top_p: self.top_p.unwrap_or(defaults.top_p),
            min_p: self.min_p.unwrap_or(defaults.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(defaults.repetition_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(defaults.frequency_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(defaults.presence_penalty),
            seed: self.seed.or(defaults.seed),
            logit_bias: defaults.logit_bias.into_iter().chain(self.logit_bias.iter().copied()).collect(),
            ..defaults
        }
    }
}

fn logit_bias(text: &str) -> Result<(u32, f32), String> {
    let parse = || {
        let (id, value) = text.split_once('=')?;
        Some((id.trim().parse().ok()?, value.trim().parse().ok()?))
    };
    parse().ok_or_else(|| "expected ID=VALUE, a token id and a number, as in 4090=-100".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_values_replace_defaults() {
        let defaults = SamplingParams { temperature: 0.7, top_p: 0.9, ..Default::default() };
        let args = SamplingArgs { temperature: Some(0.0), seed: Some(3), ..Default::default() };
        let params = args.over(defaults);
        assert_eq!((params.temperature, params.top_p, params.seed), (0.0, 0.9, Some(3)));
    }

    #[test]
    fn a_filter_alone_means_drawing() {
        let args = SamplingArgs { top_k: Some(40), ..Default::default() };
        assert_eq!(args.over(SamplingParams::default()).temperature, 1.0);
        assert_eq!(args.over(SamplingParams { temperature: 0.6, ..Default::default() }).temperature, 0.6);
        let greedy = SamplingArgs { temperature: Some(0.0), ..args };
        assert_eq!(greedy.over(SamplingParams::default()).temperature, 0.0);
    }

    #[test]
    fn a_bias_is_an_id_and_a_number() {
        assert_eq!(logit_bias("12=-100"), Ok((12, -100.0)));
        assert_eq!(logit_bias("12=-inf"), Ok((12, f32::NEG_INFINITY)));
        assert!(logit_bias("12").is_err());
        assert!(logit_bias("a=1").is_err());
    }
}
