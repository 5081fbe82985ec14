//! Finds the line that says that a game is ready.
//!
//! Invariant: it holds at most one line of [`LINE`] bytes, wherever the output is cut into pieces.

use regex::bytes::{Regex, RegexBuilder};

/// How much of a line is looked at.
const LINE: usize = 8 << 10;

/// How large the compiled expression may be.
const SIZE: usize = 1 << 20;

/// Whether a `ready_line` can be used.
///
/// # Errors
/// What is wrong with it.
pub fn check_ready_line(expression: &str) -> Result<(), String> {
    compile(expression).map(|_| ())
}

fn compile(expression: &str) -> Result<Regex, String> {
    RegexBuilder::new(expression).size_limit(SIZE).build().map_err(|e| e.to_string())
}

/// A search that goes on as long as nothing was found.
#[derive(Debug)]
pub(crate) struct Ready {
    expression: Regex,
    /// The beginning of a line whose end has not come.
    line: Vec<u8>,
}

impl Ready {
    /// Begins to look for a line.
    pub(crate) fn new(expression: &str) -> Result<Self, String> {
        Ok(Self { expression: compile(expression)?, line: Vec::new() })
    }

    /// Looks at more output; true when a whole line matched.
    pub(crate) fn feed(&mut self, mut output: &[u8]) -> bool {
        while let Some(end) = memchr::memchr(b'\n', output) {
            let (line, rest) = output.split_at(end);
            let found = if self.line.is_empty() {
                matches(&self.expression, line)
            } else {
                self.keep(line);
                let found = matches(&self.expression, &self.line);
                self.line.clear();
                found
            };
            if found {
                return true;
            }
            output = rest.get(1..).unwrap_or_default();
        }
        self.keep(output);
        false
    }

    fn keep(&mut self, part: &[u8]) {
        let room = LINE.saturating_sub(self.line.len());
        self.line.extend_from_slice(part.get(..room).unwrap_or(part));
    }
}

fn matches(expression: &Regex, line: &[u8]) -> bool {
    let line = line.get(..LINE).unwrap_or(line);
    expression.is_match(line.strip_suffix(b"\r").unwrap_or(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_however_it_is_cut() {
        let output = b"loading\r\nserver ready on 7000\r\nmore\n";
        for first in 0..output.len() {
            for second in first..output.len() {
                let mut ready = Ready::new("^server ready on [0-9]+$").unwrap();
                let pieces = [&output[..first], &output[first..second], &output[second..]];
                assert!(pieces.iter().any(|piece| ready.feed(piece)), "{first} {second}");
            }
        }
    }

    #[test]
    fn only_whole_lines_count_and_only_their_beginning() {
        let mut ready = Ready::new("ready").unwrap();
        assert!(!ready.feed(b"rea"));
        assert!(!ready.feed(b"\ndy\n"));
        assert!(!ready.feed(&vec![b'x'; 100 * LINE]));
        assert!(ready.line.len() <= LINE);
        assert!(!ready.feed(b"ready\n"));
        assert!(!ready.feed(b"ready"));
        assert!(ready.feed(b"\n"));
    }

    #[test]
    fn an_expression_that_cannot_be_used_is_refused() {
        assert!(check_ready_line("(").is_err());
        assert!(check_ready_line(r"\w{1000}{1000}").is_err());
        assert!(check_ready_line("ready|started").is_ok());
    }
}
