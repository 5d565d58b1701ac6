//! Several texts on one stdout: the first that is not finished is written as it comes, those after it are held back.

/// What to write, in the order of the prompts.
#[derive(Debug)]
pub(crate) struct InOrder {
    texts: Vec<Held>,
    current: usize,
    /// With one text there is nothing to tell apart.
    labelled: bool,
}

#[derive(Debug, Default)]
struct Held {
    label: String,
    waiting: String,
    /// The text written so far ends a line.
    line_ended: bool,
    finished: bool,
}

impl InOrder {
    /// Texts to come, by their labels.
    pub(crate) fn texts(labels: impl IntoIterator<Item = String>) -> Self {
        let texts: Vec<Held> = labels.into_iter().map(|label| Held { label, ..Held::default() }).collect();
        let labelled = texts.len() > 1;
        Self { texts, current: 0, labelled }
    }

    /// `count` lines to come, one below the other.
    pub(crate) fn lines(count: usize) -> Self {
        Self { texts: (0..count).map(|_| Held::default()).collect(), current: 0, labelled: false }
    }

    /// Written before anything else.
    pub(crate) fn begin(&self) -> String {
        if self.texts.is_empty() { String::new() } else { self.heading(0) }
    }

    /// A piece of text `index`; returns what can be written now.
    pub(crate) fn push(&mut self, index: usize, piece: &str) -> String {
        self.texts[index].waiting.push_str(piece);
        self.advance()
    }

    /// Text `index` is complete; returns what can be written now.
    pub(crate) fn finish(&mut self, index: usize) -> String {
        self.texts[index].finished = true;
        self.advance()
    }

    fn advance(&mut self) -> String {
        let mut ready = String::new();
        while let Some(text) = self.texts.get_mut(self.current) {
            let piece = std::mem::take(&mut text.waiting);
            if !piece.is_empty() {
                text.line_ended = piece.ends_with('\n');
                ready.push_str(&piece);
            }
            if !text.finished {
                break;
            }
            if !text.line_ended {
                ready.push('\n');
            }
            self.current += 1;
            if self.labelled && self.current < self.texts.len() {
                ready.push('\n');
                ready.push_str(&self.heading(self.current));
            }
        }
        ready
    }

    fn heading(&self, index: usize) -> String {
        match self.labelled {
            true => format!("==> {} of {}: {} <==\n", index + 1, self.texts.len(), self.texts[index].label),
            false => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_text_passes_and_ends_its_line() {
        let mut order = InOrder::texts(["x".to_owned()]);
        assert_eq!(order.begin(), "");
        assert_eq!(order.push(0, "a"), "a");
        assert_eq!(order.push(0, ""), "");
        assert_eq!(order.finish(0), "\n");
        let mut order = InOrder::texts(["x".to_owned()]);
        order.push(0, "a\n");
        assert_eq!(order.finish(0), "");
    }

    #[test]
    fn texts_come_in_their_order() {
        let mut order = InOrder::texts(["x", "y", "z"].map(str::to_owned));
        assert_eq!(order.begin(), "==> 1 of 3: x <==\n");
        assert_eq!(order.push(1, "b"), "");
        assert_eq!(order.push(0, "a"), "a");
        assert_eq!(order.finish(1), "");
        assert_eq!(order.push(2, "c"), "");
        assert_eq!(order.finish(0), "\n\n==> 2 of 3: y <==\nb\n\n==> 3 of 3: z <==\nc");
        assert_eq!(order.push(2, "d"), "d");
        assert_eq!(order.finish(2), "\n");
    }

    #[test]
    fn lines_have_nothing_between_them() {
        let mut order = InOrder::lines(2);
        assert_eq!(order.begin(), "");
        assert_eq!(order.push(1, "b"), "");
        assert_eq!(order.finish(1), "");
        assert_eq!(order.push(0, "a") + &order.finish(0), "a\nb\n");
    }
}
