//! Texts with placeholders: parsed once, when the configuration is read.
//!
//! Invariant: a value that takes a placeholder's place is never looked at again, whatever braces
//! it holds.

use std::fmt;

/// A text with placeholders: `{number}`, `{endpoint}`, `{home}`, `{ip}`, `{port.NAME}`. `{{` is a
/// brace; a `}` that ends no placeholder is itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Place(Placeholder),
}

/// What a placeholder stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Placeholder {
    /// `{number}`.
    Number,
    /// `{endpoint}`.
    Endpoint,
    /// `{home}`.
    Home,
    /// `{ip}`.
    Ip,
    /// `{port.NAME}`.
    Port(String),
}

impl Placeholder {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "number" => Self::Number,
            "endpoint" => Self::Endpoint,
            "home" => Self::Home,
            "ip" => Self::Ip,
            _ => Self::Port(name.strip_prefix("port.").filter(|n| !n.is_empty())?.to_owned()),
        })
    }
}

/// Why a text is no template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error(
        "`{{{0}}}` is no placeholder: there are {{number}}, {{endpoint}}, {{home}}, {{ip}} and \
         {{port.NAME}}; write {{{{ for a brace"
    )]
    Unknown(String),
    #[error("a placeholder is not closed: write {{{{ for a brace")]
    Open,
}

impl Template {
    /// Reads a text.
    pub(crate) fn parse(text: &str) -> Result<Self, Malformed> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            plain.push_str(before);
            if let Some(after) = after.strip_prefix('{') {
                plain.push('{');
                rest = after;
                continue;
            }
            let (name, after) = after.split_once('}').ok_or(Malformed::Open)?;
            let place = Placeholder::parse(name).ok_or_else(|| Malformed::unknown(name))?;
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.push(Part::Place(place));
            rest = after;
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Self(parts))
    }

    /// A text that is taken as it is.
    pub(crate) fn literal(text: impl Into<String>) -> Self {
        Self(vec![Part::Text(text.into())])
    }

    /// Names of the ports that it speaks of.
    pub(crate) fn ports(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Place(Placeholder::Port(name)) => Some(name.as_str()),
            _ => None,
        })
    }

    /// Its text, each placeholder replaced by what `value` gives.
    pub(crate) fn expand<E>(
        &self,
        mut value: impl FnMut(&Placeholder) -> Result<String, E>,
    ) -> Result<String, E> {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Text(plain) => text.push_str(plain),
                Part::Place(place) => text.push_str(&value(place)?),
            }
        }
        Ok(text)
    }
}

impl Malformed {
    /// Shortened: an open brace may have swallowed much of a file.
    fn unknown(name: &str) -> Self {
        let mut short: String = name.chars().take(40).collect();
        if short.len() < name.len() {
            short.push('…');
        }
        Self::Unknown(short)
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.0 {
            match part {
                Part::Text(text) => f.write_str(&text.replace('{', "{{"))?,
                Part::Place(Placeholder::Number) => f.write_str("{number}")?,
                Part::Place(Placeholder::Endpoint) => f.write_str("{endpoint}")?,
                Part::Place(Placeholder::Home) => f.write_str("{home}")?,
                Part::Place(Placeholder::Ip) => f.write_str("{ip}")?,
                Part::Place(Placeholder::Port(name)) => write!(f, "{{port.{name}}}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn expand(text: &str, value: &str) -> String {
        let template = Template::parse(text).unwrap();
        template.expand(|_| Ok::<_, std::convert::Infallible>(value.to_owned())).unwrap()
    }

    #[test]
    fn placeholders_stand_for_their_own_values() {
        let text = "{endpoint}-{number} {home} {ip}:{port.a-b}";
        let seen = Template::parse(text)
            .unwrap()
            .expand(|place| Ok::<_, std::convert::Infallible>(format!("<{place:?}>")))
            .unwrap();
        assert_eq!(seen, "<Endpoint>-<Number> <Home> <Ip>:<Port(\"a-b\")>");
        assert_eq!(Template::parse(text).unwrap().ports().collect::<Vec<_>>(), ["a-b"]);
    }

    #[test]
    fn braces_are_written_twice_when_they_open() {
        let cases = [
            ("", ""),
            ("plain", "plain"),
            ("}{{}", "}{}"),
            ("{{number}", "{number}"),
            ("{{{number}}", "{7}"),
            ("{{\"a\": {{\"port\": {port.game}}}", "{\"a\": {\"port\": 7}}"),
        ];
        for (text, said) in cases {
            assert_eq!(expand(text, "7"), said, "{text}");
        }
    }

    #[test]
    fn what_is_no_placeholder_is_refused() {
        let said = |text: &str| Template::parse(text).unwrap_err().to_string();
        assert_eq!(said("{numbr}").split(':').next(), Some("`{numbr}` is no placeholder"));
        for text in ["{}", "{port.}", "{ number }", "{Number}", "{port}", "{a\n}"] {
            assert!(said(text).contains("is no placeholder"), "{text}");
        }
        for text in ["{", "a {number", "{number} {{{"] {
            assert_eq!(said(text), "a placeholder is not closed: write {{ for a brace", "{text}");
        }
        assert!(said(&format!("{{{}}}", "é".repeat(5000))).len() < 300);
    }

    proptest! {
        /// Values with braces, and texts made of the pieces that could be read twice.
        #[test]
        fn a_value_is_never_read_again(
            parts in prop::collection::vec(
                prop_oneof![
                    Just(("{{".to_owned(), Some("{".to_owned()))),
                    Just(("{number}".to_owned(), None)),
                    Just(("{port.game}".to_owned(), None)),
                    "[a-z}$`\"' \\\\\n]{0,5}".prop_map(|text| (text.clone(), Some(text))),
                ],
                0..8,
            ),
            value in "[{}a-z.]{0,6}|\\{number\\}|\\{\\{|\\{port\\.game\\}|\\$HOME",
        ) {
            let text: String = parts.iter().map(|(text, _)| text.as_str()).collect();
            let said: String =
                parts.iter().map(|(_, said)| said.as_deref().unwrap_or(&value)).collect();
            prop_assert_eq!(expand(&text, &value), said);
        }

        #[test]
        fn any_text_is_read_or_refused_and_printed_as_it_was_meant(text in ".{0,40}|[{}a-z.]{0,12}") {
            if let Ok(template) = Template::parse(&text) {
                prop_assert_eq!(Template::parse(&template.to_string()), Ok(template));
            }
        }
    }
}
