//! What a conversation remembers, and what a line of it means.

use llama4::text::ChatMessage;

/// A line as typed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line<'a> {
    Nothing,
    Message(&'a str),
    Reset,
    /// New instructions, or none.
    System(Option<&'a str>),
    Help,
    Quit,
    /// A command that there is not.
    Unknown(&'a str),
}

/// The commands, for people.
pub(crate) const HELP: &str = "\
/reset        forget everything but the instructions
/system TEXT  new instructions, and a new conversation; without TEXT none
/help         these commands
/quit         leave, as does Ctrl-D
Ctrl-C stops an answer.";

impl<'a> Line<'a> {
    pub(crate) fn parse(line: &'a str) -> Self {
        let line = line.trim();
        if line.is_empty() {
            return Self::Nothing;
        }
        if !line.starts_with('/') {
            return Self::Message(line);
        }
        let (command, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        match command {
            "/reset" => Self::Reset,
            "/system" => Self::System((!rest.is_empty()).then_some(rest)),
            "/help" | "/?" => Self::Help,
            "/quit" | "/exit" | "/bye" => Self::Quit,
            _ => Self::Unknown(command),
        }
    }
}

/// Messages so far, the instructions first.
#[derive(Debug, Default)]
pub(crate) struct Conversation {
    system: Option<String>,
    messages: Vec<ChatMessage>,
}

impl Conversation {
    pub(crate) fn new(system: Option<String>) -> Self {
        let mut conversation = Self { system, messages: Vec::new() };
        conversation.reset();
        conversation
    }

    /// Forget all but the instructions.
    pub(crate) fn reset(&mut self) {
        self.messages = self.system.iter().map(ChatMessage::system).collect();
    }

    pub(crate) fn messages(&self) -> &[ChatMessage] {
        &self.messages
    }

    pub(crate) fn ask(&mut self, message: &str) {
        self.messages.push(ChatMessage::user(message));
    }

    pub(crate) fn answer(&mut self, text: String) {
        self.messages.push(ChatMessage::assistant(text));
    }

    /// Take back a question that cannot be answered.
    pub(crate) fn take_back(&mut self) {
        self.messages.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_begin_with_a_slash() {
        assert_eq!(Line::parse("  "), Line::Nothing);
        assert_eq!(Line::parse(" Hi /reset "), Line::Message("Hi /reset"));
        assert_eq!(Line::parse("/reset"), Line::Reset);
        assert_eq!(Line::parse("/system  Be brief. "), Line::System(Some("Be brief.")));
        assert_eq!(Line::parse("/system"), Line::System(None));
        assert_eq!(Line::parse("/quit"), Line::Quit);
        assert_eq!(Line::parse("/rest"), Line::Unknown("/rest"));
    }

    #[test]
    fn a_reset_keeps_the_instructions() {
        let mut conversation = Conversation::new(Some("S".to_owned()));
        conversation.ask("Q");
        conversation.answer("A".to_owned());
        assert_eq!(conversation.messages().len(), 3);
        conversation.reset();
        assert_eq!(conversation.messages(), [ChatMessage::system("S")]);
        assert_eq!(Conversation::new(None).messages(), []);
    }
}
