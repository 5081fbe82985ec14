//! Path templates of `google.api.http`: `/v1/agents/{agent.id}/x/{rest=**}:verb`.
//!
//! Invariant: a template that was parsed has at most one `**`, as its last segment, and every
//! variable covers a run of its segments.

/// One segment of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Segment {
    /// Exactly this.
    Literal(String),
    /// `*`: any one segment.
    One,
    /// `**`: any number of segments, none included.
    Rest,
}

/// A variable of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Variable {
    /// Path of the field that it sets: `["agent", "id"]`.
    pub(crate) field: Vec<String>,
    /// First segment that it covers.
    pub(crate) first: usize,
    /// Segments of the template that it covers.
    pub(crate) count: usize,
}

/// A path template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template {
    /// Its segments.
    pub(crate) segments: Vec<Segment>,
    /// Its variables, in order.
    pub(crate) variables: Vec<Variable>,
    /// The custom verb that follows the last segment after a colon.
    pub(crate) verb: Option<String>,
}

/// What is wrong with a template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// It is not an absolute path.
    #[error("does not start with /")]
    Relative,
    /// A brace without its partner, or one variable inside another.
    #[error("has braces that do not match")]
    Braces,
    /// A segment that is empty, or has characters that mean something.
    #[error("has the segment {0:?}")]
    Segment(String),
    /// `**` with something after it.
    #[error("has something after **")]
    AfterRest,
    /// A name of a field that is none.
    #[error("has the field path {0:?}")]
    Field(String),
    /// A verb that is none.
    #[error("has the verb {0:?}")]
    Verb(String),
}

impl Template {
    /// Reads a template.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let rest = text.strip_prefix('/').ok_or(Error::Relative)?;
        let (path, verb) = split_verb(rest)?;
        let mut template = Self { segments: Vec::new(), variables: Vec::new(), verb };
        for part in split_outside_braces(path)? {
            template.push(part)?;
        }
        let last = template.segments.len() - 1;
        if template.segments[..last].contains(&Segment::Rest) {
            return Err(Error::AfterRest);
        }
        Ok(template)
    }

    /// Whether that variable may cover any number of segments: then `%2F` in it stays encoded.
    pub(crate) fn is_multi(&self, variable: &Variable) -> bool {
        variable.count != 1 || self.segments.get(variable.first) == Some(&Segment::Rest)
    }

    fn push(&mut self, part: &str) -> Result<(), Error> {
        let Some(inner) = part.strip_prefix('{') else {
            self.segments.push(segment(part)?);
            return Ok(());
        };
        let inner = inner.strip_suffix('}').ok_or(Error::Braces)?;
        let (field, pattern) = inner.split_once('=').unwrap_or((inner, "*"));
        let first = self.segments.len();
        for part in pattern.split('/') {
            self.segments.push(segment(part)?);
        }
        let names: Vec<String> = field.split('.').map(str::to_owned).collect();
        if !names.iter().all(|name| is_name(name)) {
            return Err(Error::Field(field.to_owned()));
        }
        self.variables.push(Variable { field: names, first, count: self.segments.len() - first });
        Ok(())
    }
}

fn split_verb(text: &str) -> Result<(&str, Option<String>), Error> {
    let tail = text.rfind(['/', '}']).map_or(0, |at| at + 1);
    match text[tail..].split_once(':') {
        None => Ok((text, None)),
        Some((before, verb)) if is_literal(verb) => {
            Ok((&text[..tail + before.len()], Some(verb.to_owned())))
        }
        Some((_, verb)) => Err(Error::Verb(verb.to_owned())),
    }
}

fn split_outside_braces(text: &str) -> Result<Vec<&str>, Error> {
    let (mut parts, mut start, mut inside) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        match c {
            '{' | '}' if inside == (c == '{') => return Err(Error::Braces),
            '{' | '}' => inside = c == '{',
            '/' if !inside => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if inside {
        return Err(Error::Braces);
    }
    parts.push(&text[start..]);
    Ok(parts)
}

fn segment(text: &str) -> Result<Segment, Error> {
    match text {
        "*" => Ok(Segment::One),
        "**" => Ok(Segment::Rest),
        _ if is_literal(text) => Ok(Segment::Literal(text.to_owned())),
        _ => Err(Error::Segment(text.to_owned())),
    }
}

fn is_literal(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.~".contains(c))
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::{
        Segment::{Literal, One, Rest},
        *,
    };

    fn literal(text: &str) -> Segment {
        Literal(text.to_owned())
    }

    fn variable(field: &[&str], first: usize, count: usize) -> Variable {
        Variable { field: field.iter().map(|&f| f.to_owned()).collect(), first, count }
    }

    #[test]
    fn every_part_of_a_template_is_read() {
        let template = Template::parse("/v1/{agent.id}/x/{name=a/*/b/**}:go").unwrap();
        assert_eq!(
            template,
            Template {
                segments: vec![
                    literal("v1"),
                    One,
                    literal("x"),
                    literal("a"),
                    One,
                    literal("b"),
                    Rest
                ],
                variables: vec![variable(&["agent", "id"], 1, 1), variable(&["name"], 3, 4)],
                verb: Some("go".to_owned()),
            }
        );
        assert!(!template.is_multi(&template.variables[0]));
        assert!(template.is_multi(&template.variables[1]));
    }

    #[test]
    fn a_verb_follows_a_literal_or_a_variable() {
        let literal = Template::parse("/v1/bridge:cast").unwrap();
        assert_eq!((literal.segments.len(), literal.verb.as_deref()), (2, Some("cast")));
        let variable = Template::parse("/v1/agents/{id}:activate").unwrap();
        assert_eq!((variable.segments.len(), variable.verb.as_deref()), (3, Some("activate")));
    }

    #[test]
    fn what_is_no_template_is_refused() {
        for (text, error) in [
            ("v1", Error::Relative),
            ("/", Error::Segment(String::new())),
            ("/v1/", Error::Segment(String::new())),
            ("/v1//a", Error::Segment(String::new())),
            ("/v1/{id", Error::Braces),
            ("/v1/id}", Error::Braces),
            ("/v1/{a={b}}", Error::Braces),
            ("/v1/{a}b", Error::Braces),
            ("/v1/a*", Error::Segment("a*".to_owned())),
            ("/v1/{a=**}/b", Error::AfterRest),
            ("/v1/**/{b}", Error::AfterRest),
            ("/v1/{1a}", Error::Field("1a".to_owned())),
            ("/v1/{a..b}", Error::Field("a..b".to_owned())),
            ("/v1/a:", Error::Verb(String::new())),
            ("/v1/{a}:b:c", Error::Verb("b:c".to_owned())),
        ] {
            assert_eq!(Template::parse(text), Err(error), "{text}");
        }
    }
}
