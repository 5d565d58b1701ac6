use crate::error::GenerateError;

/// What a piece of text lets through.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StopOutput {
    /// Text that is safe to print.
    pub text: String,
    /// The stop string that the text has run into. Nothing follows.
    pub stopped: Option<String>,
}

/// Lets streamed text through up to the first stop string.
///
/// Of the stop strings in the text, the one that is complete first ends it; if two are complete with the same
/// character, the longer one. The text before it is printed, the stop string is not, nor is any part of it, however
/// the text was cut into pieces. Text is held back only as long as it could be the beginning of a stop string: never
/// more than the longest end of the text that some stop string begins with.
#[derive(Debug, Clone, Default)]
pub struct StopStrings {
    stops: Vec<String>,
    /// Text not let through yet: the beginning of a stop string.
    held: String,
    stopped: Option<String>,
}

impl StopStrings {
    /// A filter for one sequence. Without stop strings everything passes at once.
    ///
    /// # Errors
    /// [`GenerateError::EmptyStopString`] names the first one that is empty.
    pub fn new(stops: impl IntoIterator<Item = String>) -> Result<Self, GenerateError> {
        let stops: Vec<String> = stops.into_iter().collect();
        if let Some(index) = stops.iter().position(String::is_empty) {
            return Err(GenerateError::EmptyStopString { index });
        }
        Ok(Self { stops, ..Self::default() })
    }

    /// Takes the next piece of text, of any length. After a stop nothing passes any more.
    pub fn push(&mut self, piece: &str) -> StopOutput {
        if self.stopped.is_none() {
            self.held.push_str(piece);
            if let Some((start, stop)) = self.first_match() {
                self.stopped = Some(stop.to_owned());
                self.held.truncate(start);
                return self.release(start);
            }
            return self.release(self.safe_len());
        }
        self.release(0)
    }

    /// Ends the text for another reason and gives back what was held: no stop string can begin there any more.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// The stop string that ended the text.
    pub fn stopped(&self) -> Option<&str> {
        self.stopped.as_deref()
    }

    fn release(&mut self, len: usize) -> StopOutput {
        StopOutput { text: self.held.drain(..len).collect(), stopped: self.stopped.clone() }
    }

    /// Start and text of the stop string that is complete first. What has been let through can be no part of it, so
    /// the held text is all there is to search.
    fn first_match(&self) -> Option<(usize, &str)> {
        let found = self.stops.iter().filter_map(|stop| Some((self.held.find(stop.as_str())?, stop.as_str())));
        found.min_by_key(|(start, stop)| (start + stop.len(), *start))
    }

    /// The length of the text before the longest end that a stop string begins with.
    fn safe_len(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let reach = self.held.len().saturating_sub(longest.saturating_sub(1));
        let starts = self.held.char_indices().map(|(at, _)| at).filter(|&at| at >= reach);
        let begins = |at: &usize| self.stops.iter().any(|stop| stop.starts_with(&self.held[*at..]));
        starts.into_iter().find(begins).unwrap_or(self.held.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(stops: &[&str]) -> StopStrings {
        StopStrings::new(stops.iter().map(|s| s.to_string())).unwrap()
    }

    fn passes(filter: &mut StopStrings, piece: &str) -> String {
        let output = filter.push(piece);
        assert_eq!(output.stopped, None);
        output.text
    }

    fn stops(filter: &mut StopStrings, piece: &str) -> (String, String) {
        let output = filter.push(piece);
        (output.text, output.stopped.unwrap())
    }

    #[test]
    fn without_stop_strings_everything_passes_at_once() {
        let mut filter = filter(&[]);
        assert_eq!(passes(&mut filter, "a\n\n"), "a\n\n");
        assert_eq!(filter.finish(), "");
    }

    #[test]
    fn a_stop_string_across_pieces_is_not_printed() {
        let mut filter = filter(&["\nUser:"]);
        assert_eq!(passes(&mut filter, "Hi.\n"), "Hi.");
        assert_eq!(passes(&mut filter, "Us"), "");
        assert_eq!(stops(&mut filter, "er: and on"), (String::new(), "\nUser:".into()));
        assert_eq!(filter.stopped(), Some("\nUser:"));
        assert_eq!(stops(&mut filter, "more"), (String::new(), "\nUser:".into()));
        assert_eq!(filter.finish(), "");
    }

    #[test]
    fn a_false_start_is_released_as_soon_as_it_is_one() {
        let mut filter = filter(&["STOP"]);
        assert_eq!(passes(&mut filter, "a ST"), "a ");
        assert_eq!(passes(&mut filter, "A"), "STA");
        assert_eq!(passes(&mut filter, "SS"), "S");
        assert_eq!(passes(&mut filter, "T"), "");
        assert_eq!(passes(&mut filter, "ST"), "ST");
        assert_eq!(filter.finish(), "ST");
    }

    #[test]
    fn a_beginning_within_a_beginning_counts() {
        let mut filter = filter(&["aab"]);
        assert_eq!(passes(&mut filter, "aa"), "");
        assert_eq!(passes(&mut filter, "a"), "a");
        assert_eq!(stops(&mut filter, "b"), (String::new(), "aab".into()));
    }

    #[test]
    fn the_first_complete_one_wins_whatever_the_cut() {
        for pieces in [vec!["xabc d"], vec!["x", "a", "b", "c", " ", "d"], vec!["xab", "c d"]] {
            let mut filter = filter(&["abc d", "bc"]);
            let outputs: Vec<StopOutput> = pieces.iter().map(|piece| filter.push(piece)).collect();
            let text: String = outputs.iter().map(|output| output.text.as_str()).collect();
            assert_eq!((text.as_str(), filter.stopped()), ("xa", Some("bc")), "{pieces:?}");
        }
    }

    #[test]
    fn of_two_complete_together_the_longer_wins() {
        assert_eq!(stops(&mut filter(&["b", "ab"]), "xab"), ("x".into(), "ab".into()));
        assert_eq!(stops(&mut filter(&["ab", "b"]), "xab"), ("x".into(), "ab".into()));
    }

    #[test]
    fn characters_of_several_bytes_stay_whole() {
        let mut filter = filter(&["ß€"]);
        assert_eq!(passes(&mut filter, "straß"), "stra");
        assert_eq!(passes(&mut filter, "ße"), "ßße");
        assert_eq!(passes(&mut filter, "é😀ß"), "é😀");
        assert_eq!(stops(&mut filter, "€€"), (String::new(), "ß€".into()));
    }

    #[test]
    fn the_default_filter_passes_everything() {
        assert_eq!(passes(&mut StopStrings::default(), "x"), "x");
    }
}
