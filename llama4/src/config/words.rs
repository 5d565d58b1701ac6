/// `Display` and `FromStr` of an enum without fields, by the words that configurations and command lines use.
/// Case and the kind of dash do not matter when reading.
macro_rules! words {
    ($type:ty, $field:literal, { $($variant:ident = $word:literal),+ $(,)? }) => {
        impl $type {
            /// Every value.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word for it.
            pub fn as_str(&self) -> &'static str {
                match self {
                    $(Self::$variant => $word),+
                }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $type {
            type Err = $crate::error::ConfigError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let word = text.trim().to_ascii_lowercase().replace('-', "_");
                let found = Self::ALL.iter().find(|value| value.as_str() == word);
                found.copied().ok_or_else(|| {
                    let words: Vec<_> = Self::ALL.iter().map(Self::as_str).collect();
                    $crate::error::ConfigError::unsupported($field, format!("\"{text}\""), words.join(", "))
                })
            }
        }
    };
}

pub(crate) use words;
