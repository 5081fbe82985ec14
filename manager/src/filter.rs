//! Filters of lists: `host = "h1" AND status >= 0 AND labels.zone != b`.
//!
//! Invariant: a filter that was read fits its list: every field exists, every value has the
//! field's type, every operator makes sense for it. What does not fit is refused with its place.

use std::cmp::Ordering;

use goperation::{Error, Result};

/// Longest filter, in bytes.
const LONGEST: usize = 4096;
/// Most conditions.
const MOST: usize = 32;

/// The type of a field.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// An integer.
    Number,
    /// A text, compared by its bytes.
    Text,
    /// `true` or `false`; only = and !=.
    Flag,
    /// One of these names, whatever prefix and case; only = and !=.
    Name(&'static [&'static str]),
    /// Several texts: = says that one of them is it; only = and !=.
    Set,
    /// `labels.KEY`: a text, which may be missing.
    Labels,
}

/// A field of a list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field(pub(crate) &'static str, pub(crate) Kind);

/// The value of a field of one row.
#[derive(Debug)]
pub(crate) enum Cell<'a> {
    Number(i64),
    Text(&'a str),
    Flag(bool),
    Set(&'a [String]),
    /// Nothing there: only != holds.
    None,
}

/// A row that can be filtered.
pub(crate) trait Row {
    /// The value of a field of the schema.
    fn cell(&self, field: &str) -> Cell<'_>;
    /// The value of a label.
    fn label(&self, _key: &str) -> Option<&str> {
        None
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

impl Op {
    fn holds(self, order: Ordering) -> bool {
        match self {
            Self::Eq => order.is_eq(),
            Self::Ne => order.is_ne(),
            Self::Lt => order.is_lt(),
            Self::Le => order.is_le(),
            Self::Gt => order.is_gt(),
            Self::Ge => order.is_ge(),
        }
    }
}

#[derive(Debug)]
enum Want {
    Number(i64),
    Text(String),
    Flag(bool),
}

#[derive(Debug)]
struct Term {
    field: &'static str,
    /// Key of a label.
    key: Option<String>,
    op: Op,
    want: Want,
}

/// A filter; the empty one lets everything through.
#[derive(Debug, Default)]
pub(crate) struct Filter(Vec<Term>);

impl Filter {
    /// Reads a filter.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` with the place of what does not fit.
    pub(crate) fn parse(text: &str, schema: &'static [Field]) -> Result<Self> {
        if text.len() > LONGEST {
            return Err(Error::invalid("filter", format!("is longer than {LONGEST} bytes")));
        }
        let mut reader = Reader { text, at: 0 };
        let mut terms = Vec::new();
        reader.skip_blanks();
        while !reader.rest().is_empty() {
            if !terms.is_empty() {
                let at = reader.at;
                if !reader.word().eq_ignore_ascii_case("AND") {
                    return Err(bad(at, "expected AND between conditions"));
                }
                reader.skip_blanks();
            }
            terms.push(reader.term(schema)?);
            if terms.len() > MOST {
                return Err(Error::invalid("filter", format!("has more than {MOST} conditions")));
            }
            reader.skip_blanks();
        }
        Ok(Self(terms))
    }

    /// Whether a row passes.
    pub(crate) fn passes(&self, row: &impl Row) -> bool {
        self.0.iter().all(|term| term.passes(row))
    }

    /// Whether a field is looked at.
    pub(crate) fn uses(&self, field: &str) -> bool {
        self.0.iter().any(|term| term.field == field)
    }
}

impl Term {
    fn passes(&self, row: &impl Row) -> bool {
        let cell = match &self.key {
            Some(key) => row.label(key).map_or(Cell::None, Cell::Text),
            None => row.cell(self.field),
        };
        match (cell, &self.want) {
            (Cell::Number(is), Want::Number(want)) => self.op.holds(is.cmp(want)),
            (Cell::Text(is), Want::Text(want)) => self.op.holds(is.cmp(want.as_str())),
            (Cell::Flag(is), Want::Flag(want)) => self.op.holds(is.cmp(want)),
            (Cell::Set(is), Want::Text(want)) => is.contains(want) == (self.op == Op::Eq),
            _ => self.op == Op::Ne,
        }
    }
}

fn bad(at: usize, why: &str) -> Error {
    Error::invalid("filter", format!("at position {}: {why}", at + 1))
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn skip_blanks(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    /// Everything up to a blank, an operator or a quote.
    fn word(&mut self) -> &'a str {
        let rest = self.rest();
        let end =
            rest.find(|c: char| c.is_whitespace() || "=!<>\"".contains(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn term(&mut self, schema: &'static [Field]) -> Result<Term> {
        let at = self.at;
        let name = self.word();
        let (known, key) = match name.split_once('.') {
            Some(("labels", key)) => ("labels", Some(key)),
            _ => (name, None),
        };
        let Some(&Field(field, kind)) = schema.iter().find(|Field(f, _)| *f == known) else {
            let fields: Vec<_> = schema.iter().map(|Field(f, kind)| label(f, *kind)).collect();
            return Err(bad(
                at,
                &format!("`{name}` is no field of this list; there are {}", fields.join(", ")),
            ));
        };
        if matches!(kind, Kind::Labels) != key.is_some_and(|key| !key.is_empty()) {
            return Err(bad(at, "a label is written labels.KEY"));
        }
        self.skip_blanks();
        let at = self.at;
        let op = self.op()?;
        if matches!(kind, Kind::Flag | Kind::Name(_) | Kind::Set) && !matches!(op, Op::Eq | Op::Ne)
        {
            return Err(bad(at, &format!("{field} can be compared by = and != only")));
        }
        self.skip_blanks();
        let at = self.at;
        let value = self.value()?;
        Ok(Term { field, key: key.map(str::to_owned), op, want: want(at, kind, value)? })
    }

    fn op(&mut self) -> Result<Op> {
        for (text, op) in [
            ("!=", Op::Ne),
            ("<=", Op::Le),
            (">=", Op::Ge),
            ("=", Op::Eq),
            ("<", Op::Lt),
            (">", Op::Gt),
        ] {
            if self.rest().starts_with(text) {
                self.at += text.len();
                return Ok(op);
            }
        }
        Err(bad(self.at, "expected one of = != < <= > >="))
    }

    fn value(&mut self) -> Result<String> {
        let begin = self.at;
        if !self.rest().starts_with('"') {
            let word = self.word();
            return if word.is_empty() {
                Err(bad(begin, "expected a value"))
            } else {
                Ok(word.to_owned())
            };
        }
        let mut value = String::new();
        let mut chars = self.rest().char_indices().skip(1);
        while let Some((i, c)) = chars.next() {
            match c {
                '"' => {
                    self.at += i + 1;
                    return Ok(value);
                }
                '\\' => match chars.next() {
                    Some((_, c @ ('"' | '\\'))) => value.push(c),
                    _ => return Err(bad(begin + i, "a backslash stands before \" or \\ only")),
                },
                c => value.push(c),
            }
        }
        Err(bad(begin, "the quote is not closed"))
    }
}

fn label(field: &str, kind: Kind) -> String {
    if matches!(kind, Kind::Labels) { format!("{field}.KEY") } else { field.to_owned() }
}

fn want(at: usize, kind: Kind, value: String) -> Result<Want> {
    match kind {
        Kind::Number => value
            .parse()
            .map(Want::Number)
            .map_err(|_| bad(at, &format!("`{value}` is not an integer"))),
        Kind::Flag => value
            .parse()
            .map(Want::Flag)
            .map_err(|_| bad(at, &format!("`{value}` is not true or false"))),
        Kind::Name(names) => {
            // `AGENT_STATE_ACTIVE` is `ACTIVE` too.
            let upper = value.to_ascii_uppercase();
            let short = upper.rsplit('_').next().unwrap_or_default();
            names
                .iter()
                .find(|name| **name == upper || (upper.contains("_STATE_") && **name == short))
                .or_else(|| names.iter().find(|n| upper.starts_with("PROTOCOL_") && **n == short))
                .map(|name| Want::Text((*name).to_owned()))
                .ok_or_else(|| bad(at, &format!("`{value}` is none of {}", names.join(", "))))
        }
        Kind::Text | Kind::Set | Kind::Labels => Ok(Want::Text(value)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SCHEMA: &[Field] = &[
        Field("id", Kind::Number),
        Field("host", Kind::Text),
        Field("state", Kind::Name(&["ACTIVE", "UNACTIVE"])),
        Field("online", Kind::Flag),
        Field("endpoint", Kind::Set),
        Field("labels", Kind::Labels),
    ];

    struct Sample(Vec<String>);

    impl Row for Sample {
        fn cell(&self, field: &str) -> Cell<'_> {
            match field {
                "id" => Cell::Number(7),
                "host" => Cell::Text("h 1\""),
                "state" => Cell::Text("ACTIVE"),
                "online" => Cell::Flag(true),
                "endpoint" => Cell::Set(&self.0),
                _ => Cell::None,
            }
        }

        fn label(&self, key: &str) -> Option<&str> {
            (key == "zone.a").then_some("b")
        }
    }

    fn passes(filter: &str) -> bool {
        Filter::parse(filter, SCHEMA).unwrap().passes(&Sample(vec!["db".into(), "game".into()]))
    }

    #[test]
    fn conditions() {
        for (filter, expected) in [
            ("", true),
            ("  ", true),
            ("id = 7", true),
            ("id=7", true),
            ("id!=7", false),
            ("id < 7", false),
            ("id <= 7 AND id >= 7", true),
            ("id > 6 and id > 7", false),
            ("id > -1", true),
            (r#"host = "h 1\"""#, true),
            ("host > h", true),
            ("state = active", true),
            ("state = AGENT_STATE_ACTIVE", true),
            ("state != UNACTIVE", true),
            ("online = false", false),
            ("endpoint = db", true),
            ("endpoint != db", false),
            ("endpoint = cdn", false),
            ("labels.zone.a = b", true),
            ("labels.zone.a >= c", false),
            ("labels.other = b", false),
            ("labels.other != b", true),
        ] {
            assert_eq!(passes(filter), expected, "{filter}");
        }
    }

    #[test]
    fn errors_name_the_place() {
        for (filter, said) in [
            ("nope = 1", "position 1: `nope` is no field"),
            ("id ~ 1", "position 4: expected one of"),
            ("id = x", "position 6: `x` is not an integer"),
            ("id = ", "position 6: expected a value"),
            ("id = 1 OR id = 2", "position 8: expected AND"),
            ("host = \"x", "position 8: the quote is not closed"),
            ("host = \"\\x\"", "position 9: a backslash"),
            ("online < true", "position 8: online can be compared by"),
            ("state = GONE", "position 9: `GONE` is none of ACTIVE, UNACTIVE"),
            ("labels = x", "position 1: a label is written labels.KEY"),
            ("id = 1 AND", "position 11: `` is no field"),
            ("id.x = 1", "position 1: `id.x` is no field"),
        ] {
            let error = Filter::parse(filter, SCHEMA).unwrap_err();
            assert!(error.message.contains(said), "{filter}: {}", error.message);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,80}") {
            let _ = Filter::parse(&text, SCHEMA);
        }

        #[test]
        fn a_quoted_value_is_what_was_quoted(value in ".{0,40}") {
            let quoted = value.replace('\\', "\\\\").replace('"', "\\\"");
            let filter = Filter::parse(&format!("host = \"{quoted}\""), SCHEMA).unwrap();
            prop_assert!(matches!(&filter.0[0].want, Want::Text(text) if *text == value));
        }
    }
}
