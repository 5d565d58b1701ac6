//! Stop strings never leak: whatever the text, the stop strings, and the places at which the text is cut into pieces.

use llama4::generate::StopStrings;
use proptest::prelude::*;
use proptest::sample::Index;

/// Few letters, so that beginnings of stop strings are everywhere; they take one to four bytes.
const TEXT: &str = "[aß😀]{0,60}";
const STOP: &str = "[aß😀]{1,5}";

/// Where printing must end, and on which stop string: the definition, in one scan over the ends of the text.
fn expected<'a>(text: &str, stops: &'a [String]) -> (usize, Option<&'a str>) {
    for end in (0..=text.len()).filter(|&end| text.is_char_boundary(end)) {
        let complete = stops.iter().filter(|stop| text[..end].ends_with(stop.as_str()));
        if let Some(stop) = complete.max_by_key(|stop| stop.len()) {
            return (end - stop.len(), Some(stop));
        }
    }
    (text.len(), None)
}

fn pieces<'a>(text: &'a str, cuts: &[Index]) -> Vec<&'a str> {
    let borders: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| borders[cut.index(borders.len())]).collect();
    cuts.extend([0, text.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_text_ends_where_the_first_stop_string_begins(
        text in TEXT,
        stops in prop::collection::vec(STOP, 0..4),
        cuts in prop::collection::vec(any::<Index>(), 0..20),
    ) {
        let (len, stop) = expected(&text, &stops);
        let mut filter = StopStrings::new(stops.clone()).unwrap();
        let (mut pushed, mut printed) = (String::new(), String::new());
        for piece in pieces(&text, &cuts) {
            let output = filter.push(piece);
            pushed.push_str(piece);
            printed.push_str(&output.text);
            prop_assert!(text[..len].starts_with(&printed), "{:?} leaked", printed);
            if output.stopped.is_some() {
                prop_assert_eq!(output.stopped.as_deref(), stop);
                prop_assert_eq!(&printed, &text[..len]);
                continue;
            }
            // Held back: the longest end that some stop string begins with, and not a byte more.
            let begins = |end: &str| stops.iter().any(|stop| stop.starts_with(end));
            let ends = pushed.char_indices().map(|(at, _)| at);
            let longest = ends.into_iter().find(|&at| begins(&pushed[at..])).unwrap_or(pushed.len());
            prop_assert_eq!(printed.len(), longest);
        }
        printed.push_str(&filter.finish());
        prop_assert_eq!(printed, &text[..len]);
        prop_assert_eq!(filter.stopped(), stop);
    }
}
