//! `tojson` as Hugging Face's chat templates have it: Python's `json.dumps` with `ensure_ascii=False`, and no HTML escapes.

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind};

/// The filter; takes `ensure_ascii`, `indent`, `separators` and `sort_keys` by name.
pub(super) fn tojson(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let separators = match separators.as_deref() {
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
        Some([item, key]) => (item.clone(), key.clone()),
        Some(other) => {
            return Err(refused(format!("tojson: expected two separators, found {}", other.len())));
        }
    };
    let mut writer = Writer {
        text: String::new(),
        indent,
        separators,
        ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sorted: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    options.assert_all_used()?;
    writer.value(value, 0)?;
    Ok(writer.text)
}

fn refused(sentence: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, sentence)
}

struct Writer {
    text: String,
    indent: Option<usize>,
    /// Between items, and between a key and its value.
    separators: (String, String),
    ascii: bool,
    sorted: bool,
}

impl Writer {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => self.text.push_str("null"),
            ValueKind::Bool => self.text.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number if value.is_integer() => self.text.push_str(&value.to_string()),
            ValueKind::Number => self.text.push_str(&float(f64::try_from(value.clone())?)),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.list('[', ']', &items, depth, |writer, item| writer.value(item, depth + 1))?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sorted {
                    keys.sort();
                }
                self.list('{', '}', &keys, depth, |writer, key| {
                    writer.key(key)?;
                    let between = writer.separators.1.clone();
                    writer.text.push_str(&between);
                    writer.value(&value.get_item(key)?, depth + 1)
                })?;
            }
            kind => return Err(refused(format!("tojson: {kind} has no JSON form"))),
        }
        Ok(())
    }

    fn list(
        &mut self,
        open: char,
        close: char,
        items: &[Value],
        depth: usize,
        mut item: impl FnMut(&mut Self, &Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.text.push(open);
        for (index, value) in items.iter().enumerate() {
            if index > 0 {
                let between = self.separators.0.clone();
                self.text.push_str(&between);
            }
            self.new_line(depth + 1);
            item(self, value)?;
        }
        if !items.is_empty() {
            self.new_line(depth);
        }
        self.text.push(close);
        Ok(())
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(indent) = self.indent {
            self.text.push('\n');
            self.text.extend(std::iter::repeat_n(' ', indent * depth));
        }
    }

    /// Keys are strings in JSON; Python writes numbers, truth values and None as strings.
    fn key(&mut self, key: &Value) -> Result<(), Error> {
        match key.kind() {
            ValueKind::String => self.string(key.as_str().unwrap_or_default()),
            ValueKind::None | ValueKind::Bool | ValueKind::Number => {
                self.text.push('"');
                self.value(key, 0)?;
                self.text.push('"');
            }
            kind => return Err(refused(format!("tojson: {kind} cannot be a key"))),
        }
        Ok(())
    }

    fn string(&mut self, text: &str) {
        use std::fmt::Write;
        self.text.push('"');
        for character in text.chars() {
            match character {
                '"' => self.text.push_str("\\\""),
                '\\' => self.text.push_str("\\\\"),
                '\n' => self.text.push_str("\\n"),
                '\r' => self.text.push_str("\\r"),
                '\t' => self.text.push_str("\\t"),
                '\u{8}' => self.text.push_str("\\b"),
                '\u{c}' => self.text.push_str("\\f"),
                _ if character < ' ' || (self.ascii && character > '~') => {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        let _ = write!(self.text, "\\u{unit:04x}");
                    }
                }
                _ => self.text.push(character),
            }
        }
        self.text.push('"');
    }
}

/// A float as Python's `repr` writes it: the same digits as Rust's, but signs and two digits in the exponent.
fn float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let text = format!("{value:?}");
    match text.split_once('e') {
        None => text,
        Some((digits, exponent)) => {
            let (sign, exponent) = match exponent.strip_prefix('-') {
                Some(exponent) => ('-', exponent),
                None => ('+', exponent),
            };
            format!("{digits}e{sign}{exponent:0>2}")
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::text::template_env::environment;

    fn render(template: &str) -> String {
        environment().render_str(template, ()).unwrap()
    }

    #[test]
    fn as_python_writes_it() {
        assert_eq!(
            render(r#"{{ {"a": [1, 2.5, true, none, "é<b>&'\"\n"], "b": {}, "c": []} | tojson }}"#),
            r#"{"a": [1, 2.5, true, null, "é<b>&'\"\n"], "b": {}, "c": []}"#
        );
        assert_eq!(
            render(r#"{{ {"b": {"x": 1}, "a": [], "c": [1, 2]} | tojson(indent=4) }}"#),
            "{\n    \"b\": {\n        \"x\": 1\n    },\n    \"a\": [],\n    \"c\": [\n        1,\n        2\n    ]\n}"
        );
        assert_eq!(
            render(r#"{{ {"b": 1, "a": 2} | tojson(sort_keys=true, separators=(",", ":")) }}"#),
            r#"{"a":2,"b":1}"#
        );
        assert_eq!(render(r#"{{ "é😀" | tojson(ensure_ascii=true) }}"#), r#""\u00e9\ud83d\ude00""#);
        assert_eq!(
            render(r#"{{ [1e20, 0.00001, 1.0, 1e16, 123456789012345678] | tojson }}"#),
            "[1e+20, 1e-05, 1.0, 1e+16, 123456789012345678]"
        );
    }

    #[test]
    fn undefined_is_an_error_as_in_python() {
        let error = environment().render_str("{{ nothing | tojson }}", ()).unwrap_err();
        assert_eq!(error.detail(), Some("tojson: undefined has no JSON form"), "{error}");
        assert!(environment().render_str("{{ 1 | tojson(colour=3) }}", ()).is_err());
    }
}
