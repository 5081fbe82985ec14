//! The TOML reader of every role, and the one error that a bad file gives.
//!
//! Invariant: an error names the file and, as far as they are known, the line and the field, so
//! that an operator never has to search for what is wrong.

use std::{
    fmt, fs, io,
    ops::Range,
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};

/// A configuration that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// The line, counted from 1.
    pub line: Option<usize>,
    /// Path of the field: `ports_ranges[1]`; empty when it is not known.
    pub field: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl ConfigError {
    /// An error in a field whose line is not known: it has a default, or no file was read.
    #[must_use]
    pub fn new(file: &Path, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line: None, field: field.into(), message: message.into() }
    }

    /// A file that is missing or cannot be read.
    #[must_use]
    pub fn read(file: &Path, error: &io::Error) -> Self {
        Self::new(file, "", format!("cannot be read: {error}"))
    }

    /// An error at a place of the file's text, such as [`toml::Spanned::span`] gives it.
    #[must_use]
    pub fn at(file: &Path, text: &str, span: Range<usize>, message: impl Into<String>) -> Self {
        let (document, _) = DeTable::parse_recoverable(text);
        // An error of the whole document, such as a missing field, has no place of its own.
        if span == document.span() {
            return Self::new(file, "", message);
        }
        let message = message.into();
        let mut field = find(document.get_ref(), &span);
        // Only the first of two equal keys is in the document.
        if field.is_empty() && message.starts_with("duplicate key") {
            field = text.get(span.clone()).unwrap_or_default().to_owned();
        }
        Self { file: file.to_owned(), line: Some(line(text, &span)), field, message }
    }

    /// An error in a field that is known by its path, such as `broker.uri` or `ranges[1]`; the
    /// line is that of the field, if the file has it.
    #[must_use]
    pub fn in_field(
        file: &Path,
        text: &str,
        field: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        let (document, _) = DeTable::parse_recoverable(text);
        let field = field.into();
        let line = place(document.get_ref(), &field).map(|span| line(text, &span));
        Self { line, ..Self::new(file, field, message) }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for ConfigError {}

/// The text of a configuration file.
///
/// # Errors
/// A [`ConfigError`] when it is missing or cannot be read.
pub fn read_config(file: &Path) -> Result<String, ConfigError> {
    fs::read_to_string(file).map_err(|error| ConfigError::read(file, &error))
}

/// Reads a TOML text into a type; `file` is only named in errors.
///
/// # Errors
/// A [`ConfigError`] for the first thing that is not TOML or does not fit the type.
pub fn parse_config<T: DeserializeOwned>(file: &Path, text: &str) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let message = error.message().trim().replace('\n', "; ");
        match error.span() {
            Some(span) => ConfigError::at(file, text, span, message),
            None => ConfigError::new(file, "", message),
        }
    })
}

/// Line of a place, counted from 1.
fn line(text: &str, span: &Range<usize>) -> usize {
    let before = text.as_bytes().get(..span.start).unwrap_or(text.as_bytes());
    before.iter().filter(|&&byte| byte == b'\n').count() + 1
}

/// Path of the innermost entry whose key or value holds the span; empty when none does.
fn find(table: &DeTable<'_>, span: &Range<usize>) -> String {
    let holds = |outer: &Range<usize>| outer.start <= span.start && span.end <= outer.end;
    let mut path = String::new();
    // The span of a table with a header of its own does not hold its entries: all are looked at.
    visit_table(table, &mut path, &mut |_, place| holds(place));
    path
}

/// Place of the entry with that path.
fn place(table: &DeTable<'_>, field: &str) -> Option<Range<usize>> {
    let mut found = None;
    visit_table(table, &mut String::new(), &mut |path, place| {
        let here = path == field;
        if here {
            found = Some(place.clone());
        }
        here
    });
    found
}

/// Is shown entries, the inner ones first, each by its value and then its key, until it takes one;
/// `path` is then that of the taken one, else as it was.
type Visitor<'a> = dyn FnMut(&str, &Range<usize>) -> bool + 'a;

fn visit_table(table: &DeTable<'_>, path: &mut String, take: &mut Visitor<'_>) -> bool {
    let length = path.len();
    for (key, value) in table {
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(key.get_ref());
        if visit_value(value.get_ref(), path, take)
            || take(path, &value.span())
            || take(path, &key.span())
        {
            return true;
        }
        path.truncate(length);
    }
    false
}

fn visit_value(value: &DeValue<'_>, path: &mut String, take: &mut Visitor<'_>) -> bool {
    match value {
        DeValue::Table(table) => visit_table(table, path, take),
        DeValue::Array(items) => {
            let length = path.len();
            for (index, item) in items.iter().enumerate() {
                path.push_str(&format!("[{index}]"));
                if visit_value(item.get_ref(), path, take) || take(path, &item.span()) {
                    return true;
                }
                path.truncate(length);
            }
            false
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use toml::Spanned;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        ranges: Vec<Spanned<String>>,
        part: Part,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Part {
        size: u16,
    }

    fn error(text: &str) -> String {
        parse_config::<Sample>(Path::new("a.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn errors_name_file_line_and_field() {
        for (text, said) in [
            ("ranges = []\n[part]\nsize = 'x'\n", "a.toml:3: part.size: invalid type"),
            ("ranges = []\n[part]\nsize = 70000\n", "a.toml:3: part.size: invalid value"),
            ("ranges = []\n[part]\nsize = 1\nother = 2\n", "a.toml:4: part.other: unknown field"),
            ("ranges = []\n[part]\n", "a.toml:2: part: missing field `size`"),
            ("ranges = ['a',\n 2]\n[part]\nsize = 1\n", "a.toml:2: ranges[1]: invalid type"),
            ("ranges = []\n", "a.toml: missing field `part`"),
            ("ranges = []\n\nranges = []\n", "a.toml:3: ranges: duplicate key"),
        ] {
            assert!(error(text).starts_with(said), "{}", error(text));
        }
        assert!(error("ranges = []\nnonsense\n").starts_with("a.toml:2: "));
    }

    #[test]
    fn a_semantic_error_finds_its_place() {
        let text = "ranges = [\n 'good',\n 'bad']\npart.size = 3\n";
        let sample: Sample = parse_config(Path::new("a.toml"), text).unwrap();
        assert_eq!(sample.part.size, 3);
        let error = ConfigError::at(Path::new("a.toml"), text, sample.ranges[1].span(), "no");
        assert_eq!(error.to_string(), "a.toml:3: ranges[1]: no");
        for (field, line) in [("ranges[1]", Some(3)), ("part.size", Some(4)), ("part.x", None)] {
            let error = ConfigError::in_field(Path::new("a.toml"), text, field, "no");
            assert_eq!((error.field.as_str(), error.line), (field, line));
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = read_config(Path::new("/nowhere/a.toml")).unwrap_err();
        assert!(error.to_string().starts_with("/nowhere/a.toml: cannot be read: "), "{error}");
    }
}
