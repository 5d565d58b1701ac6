use super::candidates::Candidates;
use super::logprobs::Logprobs;
use super::penalties::Edits;
use super::random::{SequenceRng, entropy, sequence_seed};
use super::softmax::peak;
use super::{History, SamplingParams, TokenLogprob};
use crate::error::GenerateError;

/// A chosen token.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    /// The token.
    pub id: u32,
    /// `ln p` of it, see [`TokenLogprob`]; `None` unless [`SamplingParams::logprobs`] asks for it.
    pub logprob: Option<f32>,
    /// The most likely tokens, best first; as many as [`SamplingParams::logprobs`] asks for and the model allows.
    pub top: Vec<TokenLogprob>,
}

impl Sampled {
    /// A token whose probability nobody asked for.
    pub(super) fn unranked(id: u32) -> Self {
        Self { id, logprob: None, top: Vec::new() }
    }
}

/// Chooses one sequence's next token from the model's logits.
///
/// In this order, each step on what the one before has left:
///
/// 1. logit bias, added;
/// 2. repetition penalty;
/// 3. frequency and presence penalty;
/// 4. temperature, by which the logits are divided; at 0 the largest one is the answer and what follows is left out;
/// 5. top-k;
/// 6. softmax over what is left, then top-p;
/// 7. min-p, against the most likely token;
/// 8. the draw, from the probabilities of what is left, scaled to sum to one.
///
/// It is the order of transformers; vLLM takes min-p before top-k, llama.cpp the temperature last.
///
/// The random numbers are xoshiro256++, one number for each token drawn, and the arithmetic between logits and draw is
/// the same on every platform: equal logits and seeds give equal tokens everywhere. A greedy choice takes none.
///
/// A vocabulary may have rows that no token of the tokenizer uses: pass `&mut logits[..len]` and they are never chosen.
#[derive(Debug, Clone)]
pub struct Sampler {
    params: SamplingParams,
    seed: u64,
    rng: SequenceRng,
    edits: Edits,
    candidates: Candidates,
}

impl Sampler {
    /// The sampler of a single sequence, or of the first of several.
    ///
    /// # Errors
    /// [`GenerateError::Parameter`] for a value out of range, [`GenerateError::Entropy`] if there is no seed to be had.
    pub fn new(params: SamplingParams) -> Result<Self, GenerateError> {
        Self::for_sequence(params, 0)
    }

    /// The sampler of sequence `index` of several that share their parameters. Sequence 0 draws from the seed itself,
    /// the others each from one of their own, made of seed and index alone: what a prompt is answered depends neither
    /// on how many prompts there are nor on how long the others run. Without a seed each gets its own.
    ///
    /// # Errors
    /// As [`Sampler::new`].
    pub fn for_sequence(params: SamplingParams, index: usize) -> Result<Self, GenerateError> {
        params.validate()?;
        let seed = match params.seed {
            Some(seed) => sequence_seed(seed, index),
            None => entropy()?,
        };
        Ok(Self {
            params,
            seed,
            rng: SequenceRng::new(seed),
            edits: Edits::default(),
            candidates: Candidates::default(),
        })
    }

    /// The parameters.
    pub fn params(&self) -> &SamplingParams {
        &self.params
    }

    /// The seed drawn from: as sole seed of [`Sampler::new`] it repeats this sequence, one the system gave included.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// See [`SamplingParams::needs_logits`].
    pub fn needs_logits(&self) -> bool {
        self.params.needs_logits()
    }

    /// Chooses the token after `history`.
    ///
    /// The logits are written to on the way and are as they were on return, after an error too.
    ///
    /// # Shapes
    /// - logits: `[vocab]`, of the last position
    ///
    /// # Errors
    /// [`GenerateError::BrokenLogit`] for NaN or `+inf`, [`GenerateError::NothingToChoose`] if every logit is `-inf`,
    /// [`GenerateError::NoLogit`] for an id of the bias or, with a penalty on, of the history beyond the vocabulary.
    pub fn sample(&mut self, logits: &mut [f32], history: History<'_>) -> Result<Sampled, GenerateError> {
        let id = self.with_edits(logits, history, Self::choose)?;
        let Some(top) = self.params.logprobs else {
            return Ok(Sampled { id, logprob: None, top: Vec::new() });
        };
        let logprobs = Logprobs::new(logits)?;
        Ok(Sampled { id, logprob: Some(logprobs.of(id).logprob), top: logprobs.top(top, self.candidates.ranks()) })
    }

    /// The distribution that [`Sampler::sample`] would draw from: tokens of a probability above 0, by id, with
    /// probabilities that sum to one. It takes no random number.
    ///
    /// # Shapes
    /// - logits: `[vocab]`, of the last position
    ///
    /// # Errors
    /// As [`Sampler::sample`].
    pub fn distribution(&mut self, logits: &mut [f32], history: History<'_>) -> Result<Vec<(u32, f64)>, GenerateError> {
        self.with_edits(logits, history, |sampler, logits, peak| {
            if sampler.params.is_greedy() {
                return first(logits, peak).map(|id| vec![(id, 1.0)]);
            }
            sampler.narrow(logits, peak);
            Some(sampler.candidates.distribution())
        })
    }

    /// Runs `choose` on the logits with bias and penalties, given the largest of them.
    fn with_edits<T>(
        &mut self,
        logits: &mut [f32],
        history: History<'_>,
        choose: impl FnOnce(&mut Self, &[f32], f32) -> Option<T>,
    ) -> Result<T, GenerateError> {
        self.edits.apply(logits, history, &self.params)?;
        let chosen = peak(logits).map(|peak| choose(self, logits, peak));
        self.edits.undo(logits);
        chosen?.ok_or(GenerateError::NothingToChoose { vocab: logits.len() })
    }

    fn choose(&mut self, logits: &[f32], peak: f32) -> Option<u32> {
        if self.params.is_greedy() {
            return first(logits, peak);
        }
        self.narrow(logits, peak);
        self.candidates.draw(self.rng.unit())
    }

    /// Steps 4 to 7.
    fn narrow(&mut self, logits: &[f32], peak: f32) {
        let params = &self.params;
        self.candidates.fill(logits, peak, params.temperature, params.top_k);
        if params.top_p < 1.0 {
            self.candidates.keep_top_p(f64::from(params.top_p));
        }
        if params.min_p > 0.0 {
            self.candidates.keep_min_p(params.min_p);
        }
    }
}

/// The lowest id with the logit `peak`.
fn first(logits: &[f32], peak: f32) -> Option<u32> {
    logits.iter().position(|&logit| logit == peak).map(|id| id as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: History<'static> = History { prompt: &[], generated: &[] };

    fn sampler(change: impl Fn(&mut SamplingParams)) -> Sampler {
        let mut params = SamplingParams { temperature: 1.0, seed: Some(42), ..Default::default() };
        change(&mut params);
        Sampler::new(params).unwrap()
    }

    fn ids(sampler: &mut Sampler, logits: &[f32], count: usize) -> Vec<u32> {
        let mut logits = logits.to_vec();
        (0..count).map(|_| sampler.sample(&mut logits, NONE).unwrap().id).collect()
    }

    /// Logits whose probabilities at temperature 1 are these.
    fn log<const N: usize>(probabilities: [f32; N]) -> [f32; N] {
        probabilities.map(f32::ln)
    }

    fn left(sampler: &mut Sampler, mut logits: impl AsMut<[f32]>) -> Vec<u32> {
        let distribution = sampler.distribution(logits.as_mut(), NONE).unwrap();
        distribution.into_iter().map(|(id, _)| id).collect()
    }

    /// The numbers come from another program: xoshiro256++ and the softmax in Python's doubles.
    #[test]
    fn the_tokens_of_a_seed_are_pinned() {
        let logits: Vec<f32> = (0..100).map(|i| (i * 37 % 100) as f32 / 16.0).collect();
        assert_eq!(ids(&mut sampler(|_| ()), &logits, 12), [81, 32, 97, 69, 80, 56, 13, 59, 24, 91, 54, 83]);
        let narrow = |p: &mut SamplingParams| (p.top_k, p.top_p, p.min_p) = (20, 0.9, 0.1);
        assert_eq!(ids(&mut sampler(narrow), &logits, 12), [81, 32, 97, 62, 78, 54, 16, 54, 24, 89, 54, 81]);
        let mut fourth = Sampler::for_sequence(sampler(|_| ()).params, 3).unwrap();
        assert_eq!(ids(&mut fourth, &logits, 12), [54, 10, 16, 81, 27, 16, 35, 24, 45, 45, 89, 50]);
    }

    #[test]
    fn greedy_takes_the_lowest_of_equal_ids() {
        let mut greedy = Sampler::new(SamplingParams::default()).unwrap();
        assert_eq!(ids(&mut greedy, &[1.0, 5.0, 2.0, 5.0], 1), [1]);
        assert_eq!(ids(&mut sampler(|p| p.top_k = 1), &[1.0, 5.0, 2.0, 5.0], 3), [1, 1, 1]);
        assert_eq!(greedy.distribution(&mut [0.0, -0.0], NONE).unwrap(), [(0, 1.0)]);
    }

    #[test]
    fn sequences_draw_apart_and_the_first_as_if_alone() {
        let params = SamplingParams { temperature: 1.0, seed: Some(7), ..Default::default() };
        let draw = |index| ids(&mut Sampler::for_sequence(params.clone(), index).unwrap(), &[0.0; 1000], 8);
        assert_eq!(draw(0), ids(&mut Sampler::new(params.clone()).unwrap(), &[0.0; 1000], 8));
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(0), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn a_seed_from_the_system_can_be_repeated() {
        let mut some = sampler(|p| p.seed = None);
        let seed = some.seed();
        let drawn = ids(&mut some, &[0.0; 1000], 8);
        assert_eq!(drawn, ids(&mut sampler(|p| p.seed = Some(seed)), &[0.0; 1000], 8));
        assert_ne!(drawn, ids(&mut sampler(|p| p.seed = None), &[0.0; 1000], 8));
    }

    #[test]
    fn top_k_comes_before_top_p() {
        // Top-p alone needs three tokens for 0.7; of the best two, scaled to one, the first has 0.5 / 0.7 = 0.71.
        let logits = log([0.5, 0.2, 0.15, 0.15]);
        assert_eq!(left(&mut sampler(|p| p.top_p = 0.71), logits), [0, 1, 2]);
        assert_eq!(left(&mut sampler(|p| (p.top_k, p.top_p) = (2, 0.71)), logits), [0]);
    }

    #[test]
    fn top_p_comes_before_min_p() {
        // Min-p first would leave 0.5 and 0.3, of which the first alone reaches 0.6.
        let logits = log([0.5, 0.3, 0.1, 0.1]);
        assert_eq!(left(&mut sampler(|p| (p.top_p, p.min_p) = (0.6, 0.5)), logits), [0, 1]);
    }

    #[test]
    fn temperature_comes_before_top_p_and_min_p() {
        let logits = log([0.6, 0.3, 0.1]);
        assert_eq!(left(&mut sampler(|p| p.top_p = 0.6), logits), [0, 1]);
        assert_eq!(left(&mut sampler(|p| (p.temperature, p.top_p) = (0.5, 0.6)), logits), [0]);
        assert_eq!(left(&mut sampler(|p| p.min_p = 0.3), logits), [0, 1]);
        assert_eq!(left(&mut sampler(|p| (p.temperature, p.min_p) = (2.0, 0.3)), logits), [0, 1, 2]);
    }

    #[test]
    fn penalties_come_before_the_temperature() {
        // ln(0.75 / 0.25) = 1.0986. A penalty of 1 leaves 0.0986, doubled by the temperature of 0.5.
        let mut some = sampler(|p| (p.temperature, p.presence_penalty) = (0.5, 1.0));
        let history = History::new(&[0], 0);
        let distribution = some.distribution(&mut log([0.75, 0.25]), history).unwrap();
        let ratio = distribution[0].1 / distribution[1].1;
        assert!((ratio.ln() - 2.0 * (3_f64.ln() - 1.0)).abs() < 1e-6, "{ratio}");
    }

    #[test]
    fn a_temperature_next_to_nothing_is_greedy_and_not_nan() {
        let mut some = sampler(|p| p.temperature = f32::from_bits(1));
        assert_eq!(some.distribution(&mut [1.0, 1.0, 0.5], NONE).unwrap(), [(0, 0.5), (1, 0.5)]);
    }

    #[test]
    fn bias_bans_and_forces() {
        let logits = [3.0, 2.0, 1.0];
        let banned = |p: &mut SamplingParams| p.logit_bias = [(0, f32::NEG_INFINITY)].into();
        assert_eq!(left(&mut sampler(banned), logits), [1, 2]);
        let mut forced = sampler(|p| p.logit_bias = [(2, 100.0)].into());
        assert_eq!(ids(&mut forced, &logits, 20), [2; 20]);
        let mut nothing = sampler(|p| p.logit_bias = (0..3).map(|id| (id, f32::NEG_INFINITY)).collect());
        let error = nothing.sample(&mut logits.clone(), NONE).unwrap_err();
        assert!(matches!(error, GenerateError::NothingToChoose { vocab: 3 }), "{error}");
    }

    #[test]
    fn broken_logits_are_an_error_and_left_as_they_were() {
        for temperature in [0.0, 1.0] {
            let mut some = sampler(|p| {
                (p.temperature, p.presence_penalty) = (temperature, 1.0);
            });
            let mut logits = [1.0, f32::NAN, 2.0];
            let error = some.sample(&mut logits, History::new(&[0], 0)).unwrap_err();
            assert!(matches!(error, GenerateError::BrokenLogit { id: 1, .. }), "{error}");
            assert_eq!((logits[0], logits[2]), (1.0, 2.0));
            assert!(some.sample(&mut [f32::NEG_INFINITY; 3], NONE).is_err());
            assert!(some.sample(&mut [], NONE).is_err());
        }
    }

    #[test]
    fn logprobs_are_the_models_own_whatever_the_sampler_does() {
        let mut some = sampler(|p| {
            p.logprobs = Some(2);
            (p.temperature, p.top_k, p.repetition_penalty) = (0.3, 2, 3.0);
            p.logit_bias = [(0, f32::NEG_INFINITY), (1, f32::NEG_INFINITY)].into();
        });
        let mut logits = log([0.5, 0.25, 0.125, 0.125]);
        let sampled = some.sample(&mut logits, History::new(&[2], 0)).unwrap();
        assert_eq!(logits, log([0.5, 0.25, 0.125, 0.125]));
        assert!((sampled.logprob.unwrap() - 0.125_f32.ln()).abs() < 1e-6);
        assert_eq!(sampled.top.iter().map(|t| t.id).collect::<Vec<_>>(), [0, 1]);
        assert!((sampled.top[1].logprob - 0.25_f32.ln()).abs() < 1e-6);
    }

    #[test]
    fn logprobs_only_when_asked() {
        let sampled = sampler(|_| ()).sample(&mut [0.0, 0.0], NONE).unwrap();
        assert_eq!((sampled.logprob, sampled.top), (None, vec![]));
        let sampled = sampler(|p| p.logprobs = Some(0)).sample(&mut [0.0, 0.0], NONE).unwrap();
        assert!((sampled.logprob.unwrap() - 0.5_f32.ln()).abs() < 1e-6);
        assert_eq!(sampled.top, []);
    }

    #[test]
    fn invalid_parameters_make_no_sampler() {
        let params = SamplingParams { top_p: f32::NAN, ..Default::default() };
        assert!(matches!(Sampler::new(params), Err(GenerateError::Parameter { .. })));
    }
}
