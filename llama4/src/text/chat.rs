use minijinja::{Environment, Value, context};
use serde::{Deserialize, Serialize};

use super::template_env;
use crate::error::TextError;

/// One turn of a conversation, text only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatMessage {
    /// Who speaks: `system`, `user`, `assistant`, or `ipython` for the result of a tool.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl ChatMessage {
    /// A message of any role.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }

    /// Instructions that hold for the conversation.
    pub fn system(content: impl Into<String>) -> Self {
        Self::new("system", content)
    }

    /// A question.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new("user", content)
    }

    /// An answer of the model.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new("assistant", content)
    }
}

/// Writes a conversation as the prompt that a model was trained on.
///
/// A template is Jinja, as checkpoints bring it: with Python's methods of strings and dictionaries, `raise_exception`,
/// `strftime_now`, `tojson` in Python's spelling, `break` and `continue`, and blocks that take their line with them. It
/// sees `messages`, `add_generation_prompt`, the tokens by name (`bos_token`, `eos_token`, ...), and `tools` and
/// `documents` as none.
///
/// The [default](ChatTemplate::default) is Llama 4's format, for checkpoints that bring no template:
/// `<|header_start|>ROLE<|header_end|>`, an empty line, the content and `<|eot|>` for each message, after one
/// `<|begin_of_text|>`.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    name: String,
    source: String,
    environment: Environment<'static>,
    tokens: Vec<(String, String)>,
}

impl ChatTemplate {
    /// A template from its text. `name` is what errors call it.
    ///
    /// `bos_token` and `eos_token` are Llama 4's until [`with_tokens`](Self::with_tokens) says otherwise.
    ///
    /// # Errors
    /// A template that does not parse, with its line.
    pub fn new(name: impl Into<String>, source: &str) -> Result<Self, TextError> {
        let name = name.into();
        let source = template_env::without_generation_tags(source);
        let mut environment = template_env::environment();
        environment.add_template_owned(name.clone(), source.clone()).map_err(|error| template_error(&name, &error))?;
        let token = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        Ok(Self {
            name,
            source,
            environment,
            tokens: vec![token("bos_token", "<|begin_of_text|>"), token("eos_token", "<|eot|>")],
        })
    }

    /// Replaces the tokens that the template sees by name.
    pub fn with_tokens(mut self, tokens: Vec<(String, String)>) -> Self {
        self.tokens = tokens;
        self
    }

    /// What errors call this template: its file, or `built-in chat template`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The template's text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The prompt for a conversation; with `add_generation_prompt` it ends where the assistant's answer begins.
    ///
    /// # Errors
    /// What the template raises (for example for roles out of order), or a mistake in it, with its file and line.
    pub fn render(&self, messages: &[ChatMessage], add_generation_prompt: bool) -> Result<String, TextError> {
        let messages: Vec<Value> = messages
            .iter()
            .map(|message| Value::from_pairs([("role", message.role.as_str()), ("content", message.content.as_str())]))
            .collect();
        let tokens = Value::from_pairs(self.tokens.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let given = context! {
            messages,
            add_generation_prompt,
            tools => (),
            documents => (),
            ..tokens
        };
        self.environment
            .get_template(&self.name)
            .and_then(|template| template.render(given))
            .map_err(|error| template_error(&self.name, &error))
    }
}

impl Default for ChatTemplate {
    fn default() -> Self {
        Self::new("built-in chat template", include_str!("default_template.jinja"))
            .expect("the built-in template parses, as its tests show")
    }
}

fn template_error(file: &str, error: &minijinja::Error) -> TextError {
    // For the commonest kind, which is also that of `raise_exception`, the detail is the whole sentence.
    let reason = match (error.kind(), error.detail()) {
        (minijinja::ErrorKind::InvalidOperation, Some(detail)) => detail.to_owned(),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    };
    TextError::Template { file: file.to_owned(), line: error.line().unwrap_or(0), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn default(messages: &[ChatMessage], add_generation_prompt: bool) -> String {
        ChatTemplate::default().render(messages, add_generation_prompt).unwrap()
    }

    #[test]
    fn the_default_is_llama_4s_format() {
        assert_eq!(
            default(&[ChatMessage::user("Hi")], true),
            "<|begin_of_text|><|header_start|>user<|header_end|>\n\nHi<|eot|>\
             <|header_start|>assistant<|header_end|>\n\n"
        );
        assert_eq!(default(&[], false), "<|begin_of_text|>");
        assert_eq!(
            default(&[ChatMessage::user("Hi"), ChatMessage::assistant("Ho"), ChatMessage::new("tool", "3"),], false),
            "<|begin_of_text|><|header_start|>user<|header_end|>\n\nHi<|eot|>\
             <|header_start|>assistant<|header_end|>\n\nHo<|eot|>\
             <|header_start|>ipython<|header_end|>\n\n3<|eot|>"
        );
    }

    #[test]
    fn the_default_trims_the_opening_system_message_only() {
        assert_eq!(
            default(&[ChatMessage::system(" S\n"), ChatMessage::user(" U\n"), ChatMessage::system(" T ")], false),
            "<|begin_of_text|><|header_start|>system<|header_end|>\n\nS<|eot|>\
             <|header_start|>user<|header_end|>\n\n U\n<|eot|>\
             <|header_start|>system<|header_end|>\n\n T <|eot|>"
        );
    }

    #[test]
    fn content_is_not_template_code_and_not_html() {
        let content = "{{ bos_token }} {% if %} <b>&amp; 'q' \"p\"</b> {# #}\n";
        assert!(default(&[ChatMessage::user(content)], false).contains(content));
    }

    #[test]
    fn nothing_is_escaped_whatever_the_file_is_called() {
        for name in ["chat_template.jinja", "template.html", "template.json"] {
            let template = ChatTemplate::new(name, "{{ messages[0].content }}").unwrap();
            let message = ChatMessage::user("<b>&'\"");
            assert_eq!(template.render(&[message], false).unwrap(), "<b>&'\"", "{name}");
        }
    }

    #[test]
    fn errors_name_file_and_line() {
        let broken = ChatTemplate::new("dir/chat_template.jinja", "a\nb\n{% if %}").unwrap_err();
        assert!(broken.to_string().starts_with("dir/chat_template.jinja:3: "), "{broken}");
        let raising = ChatTemplate::new(
            "t.jinja",
            "{% for message in messages %}\n  {% if message.role != 'user' %}\n    \
             {{ raise_exception('no ' + message.role) }}\n  {% endif %}\n{% endfor %}",
        )
        .unwrap();
        raising.render(&[ChatMessage::user("x")], true).unwrap();
        let raised = raising.render(&[ChatMessage::assistant("x")], true);
        assert_eq!(raised.unwrap_err().to_string(), "t.jinja:3: no assistant");

        let wrong = ChatTemplate::new("t.jinja", "\n{{ messages[0].content.nonsense() }}").unwrap();
        let wrong = wrong.render(&[ChatMessage::user("x")], true).unwrap_err();
        assert!(wrong.to_string().starts_with("t.jinja:2: "), "{wrong}");
    }

    #[test]
    fn messages_are_read_from_json() {
        let message: ChatMessage = serde_json::from_str(r#"{"role": "user", "content": "Hi"}"#).unwrap();
        assert_eq!(message, ChatMessage::user("Hi"));
        // Content in parts is how images come.
        let parts = r#"{"role": "user", "content": [{"type": "image"}]}"#;
        assert!(serde_json::from_str::<ChatMessage>(parts).is_err());
    }
}
