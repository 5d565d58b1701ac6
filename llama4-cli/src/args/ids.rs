use std::str::FromStr;

/// Token ids as typed: numbers between commas, blanks or line ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ids(pub(crate) Vec<u32>);

impl FromStr for Ids {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let id = |word: &str| {
            word.parse().map_err(|_| format!("`{word}` is not a token id; ids are whole numbers, as in 1,2,3"))
        };
        let words = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty());
        let ids: Vec<u32> = words.map(id).collect::<Result<_, _>>()?;
        if ids.is_empty() { Err("no token id; give some, as in 1,2,3".to_owned()) } else { Ok(Self(ids)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_stand_between_commas_or_blanks() {
        let expected = Ok(Ids(vec![1, 20, 3]));
        assert_eq!("1,20,3".parse(), expected);
        assert_eq!(" 1, 20\n3\n".parse(), expected);
    }

    #[test]
    fn what_is_no_id_is_named() {
        assert!("1,x2".parse::<Ids>().unwrap_err().contains("`x2`"));
        assert!("1,-2".parse::<Ids>().unwrap_err().contains("`-2`"));
        assert!("4294967296".parse::<Ids>().is_err());
        assert!("".parse::<Ids>().is_err());
        assert!(" , ".parse::<Ids>().is_err());
    }
}
