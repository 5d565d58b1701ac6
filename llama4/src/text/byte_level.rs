//! The alphabet of a byte-level vocabulary: each byte is spelled as one printable character, so that every token is
//! readable text. Printable Latin-1 stands for itself; the remaining 68 bytes take the characters from U+0100 on.

/// First character that stands for a byte other than its own.
const SPARE: u32 = 0x100;

fn stands_for_itself(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff)
}

/// The bytes that take a spare character, in order.
fn displaced() -> impl Iterator<Item = u8> {
    (0..=u8::MAX).filter(|&byte| !stands_for_itself(byte))
}

/// The byte that a character of the alphabet spells.
fn byte_of(character: char) -> Option<u8> {
    let code = u32::from(character);
    match u8::try_from(code) {
        Ok(byte) => stands_for_itself(byte).then_some(byte),
        Err(_) => displaced().nth((code - SPARE) as usize),
    }
}

/// Appends the bytes that a vocabulary piece spells. A piece with a character outside of the alphabet, as an added token
/// can have, is taken as it is written.
pub(super) fn push_bytes(piece: &str, bytes: &mut Vec<u8>) {
    let start = bytes.len();
    for character in piece.chars() {
        match byte_of(character) {
            Some(byte) => bytes.push(byte),
            None => {
                bytes.truncate(start);
                bytes.extend_from_slice(piece.as_bytes());
                return;
            }
        }
    }
}

/// The character that spells a byte.
#[cfg(test)]
pub(super) fn char_of(byte: u8) -> char {
    if stands_for_itself(byte) {
        return char::from(byte);
    }
    let rank = displaced().position(|other| other == byte).unwrap();
    char::from_u32(SPARE + rank as u32).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;

    #[test]
    fn every_byte_has_a_character_of_the_tokenizers_alphabet() {
        let alphabet = ByteLevel::alphabet();
        for byte in 0..=u8::MAX {
            assert!(alphabet.contains(&char_of(byte)));
            assert_eq!(byte_of(char_of(byte)), Some(byte));
        }
        assert_eq!(char_of(b' '), 'Ġ');
        assert_eq!(char_of(b'\n'), 'Ċ');
    }

    #[test]
    fn a_piece_outside_of_the_alphabet_is_taken_as_written() {
        let mut bytes = vec![1];
        push_bytes("日Ġ", &mut bytes);
        assert_eq!(bytes, [&[1], "日Ġ".as_bytes()].concat());
    }
}
