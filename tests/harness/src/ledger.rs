//! The outside ledger: a file to which the parts under test append, and which they never read.
//!
//! Invariant: a line counts only once its newline is there, so a writer killed half-way through
//! adds nothing.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{guard, poll_for};

/// An append-only file of lines. A shell script adds one with `echo "$line" >> "$LEDGER"`.
#[derive(Debug, Clone)]
pub struct Ledger {
    path: PathBuf,
}

impl Ledger {
    /// A new, empty ledger in this process's scratch folder.
    pub fn create() -> Self {
        Self::at(guard::scratch().join(format!("ledger-{}", uuid::Uuid::new_v4().simple())))
    }

    /// A ledger at `path`; what is there already stays.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        let ledger = Self { path: path.into() };
        OpenOptions::new().create(true).append(true).open(&ledger.path).expect("a ledger file");
        ledger
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends one line with one write.
    pub fn append(&self, line: &str) {
        let mut file =
            OpenOptions::new().append(true).open(&self.path).expect("the ledger opens to append");
        file.write_all(format!("{line}\n").as_bytes()).expect("the ledger takes a line");
    }

    /// The complete lines, in the order in which they were written.
    pub fn lines(&self) -> Vec<String> {
        let bytes = std::fs::read(&self.path).expect("the ledger can be read");
        let text = String::from_utf8_lossy(&bytes);
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        if complete.is_empty() && !text.starts_with('\n') {
            return Vec::new();
        }
        complete.split('\n').map(str::to_owned).collect()
    }

    /// How often each line is there.
    pub fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for line in self.lines() {
            *counts.entry(line).or_default() += 1;
        }
        counts
    }

    /// Waits until there are at least `count` lines and gives them all; panics after `within`.
    #[track_caller]
    pub fn wait_for(&self, count: usize, within: Duration) -> impl Future<Output = Vec<String>> {
        let what = format!("{count} lines in the ledger");
        let ledger = self.clone();
        let wait = std::panic::Location::caller();
        async move {
            poll_for(within, &format!("{what} (for {wait})"), async || {
                let lines = ledger.lines();
                (lines.len() >= count).then_some(lines)
            })
            .await
        }
    }
}
