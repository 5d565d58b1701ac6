/// The tokens before the one to be chosen. The repetition penalty looks at all of them, the frequency and presence
/// penalties at the generated ones alone: a word of the prompt may be said once without being punished for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct History<'a> {
    /// What the model was given.
    pub prompt: &'a [u32],
    /// What it has answered so far.
    pub generated: &'a [u32],
}

impl<'a> History<'a> {
    /// The first `prompt_len` of `tokens` are the prompt (all of them, if there are fewer).
    pub fn new(tokens: &'a [u32], prompt_len: usize) -> Self {
        let (prompt, generated) = tokens.split_at(prompt_len.min(tokens.len()));
        Self { prompt, generated }
    }

    /// The last `count` tokens; 0 is all.
    pub(super) fn last(self, count: usize) -> Self {
        if count == 0 {
            return self;
        }
        let generated = tail(self.generated, count);
        Self { prompt: tail(self.prompt, count - generated.len()), generated }
    }
}

fn tail(tokens: &[u32], count: usize) -> &[u32] {
    &tokens[tokens.len().saturating_sub(count)..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_ends_at_the_newest_token() {
        let history = History::new(&[1, 2, 3, 4, 5], 3);
        assert_eq!(history.last(0), history);
        assert_eq!(history.last(1), History::new(&[5], 0));
        assert_eq!(history.last(3), History::new(&[3, 4, 5], 1));
        assert_eq!(history.last(9), history);
        assert_eq!(History::new(&[1, 2], 5).generated, [0; 0]);
    }
}
