//! Jinja as transformers sets it up for chat templates.

use std::fmt::Write;

use chrono::{DateTime, Local, TimeZone};
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, ErrorKind};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::json::tojson;

/// An environment without templates.
pub(super) fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_syntax(
        SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .expect("the standard delimiters are valid"),
    );
    // Escapes would otherwise be chosen by the template's file name, and a prompt is neither HTML nor JSON.
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(unknown_method_callback);
    environment.set_debug(false);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", |format: &str| strftime(Local::now(), format));
    environment.add_filter("tojson", tojson);
    environment
}

fn raise_exception(sentence: String) -> Result<String, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, sentence))
}

fn strftime<Tz: TimeZone>(time: DateTime<Tz>, format: &str) -> Result<String, Error>
where
    Tz::Offset: std::fmt::Display,
{
    let mut text = String::new();
    // Writing fails, where `to_string` would panic, on a format that is not one.
    write!(text, "{}", time.format(format)).map_err(|_| {
        Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {format:?} is not a time format"))
    })?;
    Ok(text)
}

/// Replaces transformers' own tag `{% generation %}` … `{% endgeneration %}`, which marks the assistant's words for
/// training and prints what is in it, by a condition that always holds. Lines stay where they are.
pub(super) fn without_generation_tags(source: &str) -> String {
    let mut result = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        result.push_str(before);
        let Some(end) = tag.find("%}") else {
            rest = tag;
            break;
        };
        let (inside, after) = (&tag[2..end], &tag[end + 2..]);
        let control = |character: char| matches!(character, '-' | '+');
        let word = inside.trim_matches(control).trim();
        let replacement = match word {
            "generation" => Some("if true"),
            "endgeneration" => Some("endif"),
            _ => None,
        };
        result.push_str("{%");
        match replacement {
            Some(replacement) => result.push_str(&inside.replacen(word, replacement, 1)),
            None => result.push_str(inside),
        }
        result.push_str("%}");
        rest = after;
    }
    result.push_str(rest);
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use minijinja::context;

    fn render(template: &str) -> String {
        let source = without_generation_tags(template);
        let messages = [
            context! {role => "user", content => "  Hi<think>a</think> there\n"},
            context! {role => "assistant", content => "skip"},
            context! {role => "user", content => "stop"},
            context! {role => "user", content => "never"},
        ];
        environment().render_str(&source, context! {messages, tools => ()}).unwrap_or_else(|error| panic!("{error:#}"))
    }

    #[test]
    fn strings_have_pythons_methods() {
        let template = "{%- set content = messages[0].content -%}
[{{ content.strip() }}][{{ content.split('</think>')[-1].lstrip() }}][{{ content.split('<think>')[0].rstrip() }}]
{{- content.startswith('  H') }} {{ 'x'.upper() }} {{ content.strip().endswith('there') }} {{ 'a-b'.replace('-', '+') }}
{{- '\\n'.join(['a', 'b']) }} {{ 'Hi' in content }} {{ {'k': 1}.get('k') }} {{ {'k': 1}.items() | list | length }}";
        assert_eq!(render(template), "[Hi<think>a</think> there][there\n][  Hi]True X True a+ba\nb True 1 1");
    }

    #[test]
    fn blocks_take_their_line_with_them() {
        let template = "a\n  {% if true %}\n  b\n  {% endif %}\nc\n";
        assert_eq!(render(template), "a\n  b\nc");
    }

    #[test]
    fn loops_break_and_continue_and_namespaces_remember() {
        let template = "\
{% set ns = namespace(count=0, last='') %}
{% for message in messages %}
    {%- if message['role'] == 'assistant' %}{% continue %}{% endif %}
    {%- if message.content == 'stop' %}{% break %}{% endif %}
    {%- set ns.count = ns.count + 1 %}
    {%- set ns.last = message.content | trim %}
    {{- loop.index0 }}{{ loop.first }}{{ loop.last }}
{%- endfor %}
{{- ns.count }} {{ ns.last }} {{ messages[1:] | length }} {{ messages[::-1][0].content }}";
        assert_eq!(render(template), "0TrueFalse1 Hi<think>a</think> there 3 never");
    }

    #[test]
    fn tests_that_templates_make() {
        let template = "\
{%- if messages[0].content is string and messages is not mapping and messages is iterable %}a{% endif %}
{%- if date_string is not defined and strftime_now is defined %}b{% endif %}
{%- if tools is none and not tools and tools is not defined or true %}c{% endif %}
{%- if 'tool_calls' not in messages[0] and messages[0].tool_calls is not defined %}d{% endif %}
{%- if not messages[0].tool_calls %}e{% endif %}[{{ messages[0].name }}]
{%- macro bold(text) %}<b>{{ text }}</b>{% endmacro %}{{ bold('x') }}";
        assert_eq!(render(template), "abcde[]<b>x</b>");
    }

    #[test]
    fn today_is_formatted_as_in_python() {
        let before = Local::now().format("%d %b %Y").to_string();
        let written = render("{{ strftime_now('%d %b %Y') }}");
        let after = Local::now().format("%d %b %Y").to_string();
        assert!(written == before || written == after, "{written}");

        let time = chrono::Utc.with_ymd_and_hms(2025, 4, 5, 6, 7, 8).unwrap();
        assert_eq!(
            strftime(time, "%d %b %Y|%-d %B %y|%A %H:%M:%S|100%%").unwrap(),
            "05 Apr 2025|5 April 25|Saturday 06:07:08|100%"
        );
        assert!(strftime(time, "%Ö").is_err());
    }

    #[test]
    fn an_exception_has_its_sentence_and_line() {
        let error = environment()
            .render_str(
                "a\n{% macro fail() %}\n{{ raise_exception('Roles must alternate!') }}{% endmacro %}\n{{ fail() }}",
                (),
            )
            .unwrap_err();
        assert_eq!(error.detail(), Some("Roles must alternate!"));
        assert_eq!(error.line(), Some(3));
    }

    #[test]
    fn generation_tags_print_what_is_in_them() {
        assert_eq!(render("a {%- generation -%} b {%- endgeneration %} c{% generation%}d{%endgeneration %}"), "ab cd");
        let untouched = "{% if generation %}x{% endif %} {% generation";
        assert_eq!(without_generation_tags(untouched), untouched);
    }
}
