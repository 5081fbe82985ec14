//! Pages of a sorted list.
//!
//! Invariant: a token says after which row the next page begins, so rows that come or go
//! meanwhile neither repeat nor hide others; and it fits only the query that it came from.

use goperation::{Error, Result};
use sha2::{Digest as _, Sha256};

/// Rows when none are said.
const DEFAULT_ROWS: usize = 100;
/// Most rows of a page.
const MOST_ROWS: usize = 1000;

/// Which page is asked for.
#[derive(Debug)]
pub(crate) struct Ask {
    rows: usize,
    after: Option<Vec<u8>>,
    query: [u8; 8],
}

/// A page.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Page<T> {
    pub(crate) rows: Vec<T>,
    pub(crate) next: String,
    pub(crate) total: i32,
}

impl Ask {
    /// Reads `page_size` and `page_token` of a request. `query` is all that the list depends on.
    pub(crate) fn new(size: i32, token: &str, query: &[&str]) -> Result<Self> {
        let mut hash = Sha256::new();
        for part in query {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        let mut fingerprint = [0; 8];
        fingerprint.copy_from_slice(&hash.finalize()[..8]);

        let rows = match usize::try_from(size) {
            Ok(0) => DEFAULT_ROWS,
            Ok(rows) => rows.min(MOST_ROWS),
            Err(_) => return Err(Error::invalid("page_size", "must not be negative")),
        };
        let after = if token.is_empty() {
            None
        } else {
            let bytes = unhex(token);
            let Some((bound, after)) = bytes.as_deref().and_then(<[u8]>::split_first_chunk) else {
                return Err(Error::invalid("page_token", "is not a token of an earlier page"));
            };
            if *bound != fingerprint {
                return Err(Error::invalid(
                    "page_token",
                    "belongs to a list with another filter or order; begin without a token",
                ));
            }
            Some(after.to_vec())
        };
        Ok(Self { rows, after, query: fingerprint })
    }

    /// Rows of the page, at most.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// The sort key after which the page begins, if it is not the first.
    pub(crate) fn after(&self) -> Option<&[u8]> {
        self.after.as_deref()
    }

    /// The page of rows with their sort keys, no two of them equal.
    pub(crate) fn cut<T>(&self, mut rows: Vec<(Vec<u8>, T)>, descending: bool) -> Page<T> {
        rows.sort_by(|(a, _), (b, _)| if descending { b.cmp(a) } else { a.cmp(b) });
        let total = i32::try_from(rows.len()).unwrap_or(i32::MAX);
        let begin = self.after.as_ref().map_or(0, |after| {
            rows.partition_point(|(key, _)| if descending { key >= after } else { key <= after })
        });
        let mut page: Vec<_> = rows.drain(begin..).collect();
        let more = page.len() > self.rows;
        page.truncate(self.rows);
        let next = match page.last() {
            Some((key, _)) if more => self.token(key),
            _ => String::new(),
        };
        Page { rows: page.into_iter().map(|(_, row)| row).collect(), next, total }
    }

    /// The token of a page that ends with the row of this sort key.
    pub(crate) fn token(&self, key: &[u8]) -> String {
        hex(&[&self.query, key].concat())
    }
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || text.len() > 4096 || !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(numbers: &[u32]) -> Vec<(Vec<u8>, u32)> {
        numbers.iter().map(|&n| (n.to_be_bytes().to_vec(), n)).collect()
    }

    #[test]
    fn pages_join_to_the_whole_list_in_both_orders() {
        let numbers: Vec<u32> = (1..=300).collect();
        for descending in [false, true] {
            let (mut all, mut token) = (Vec::new(), String::new());
            loop {
                let page = Ask::new(7, &token, &["x"]).unwrap().cut(rows(&numbers), descending);
                assert_eq!(page.total, 300);
                all.extend(page.rows);
                token = page.next;
                if token.is_empty() {
                    break;
                }
            }
            let mut expected = numbers.clone();
            if descending {
                expected.reverse();
            }
            assert_eq!(all, expected);
        }
    }

    #[test]
    fn a_row_that_goes_does_not_hide_another() {
        let first = Ask::new(2, "", &[]).unwrap().cut(rows(&[1, 2, 3, 4]), false);
        let second = Ask::new(2, &first.next, &[]).unwrap().cut(rows(&[1, 3, 4]), false);
        assert_eq!(second.rows, [3, 4]);
        assert_eq!(second.next, "");
    }

    #[test]
    fn a_token_fits_only_its_query() {
        let page = Ask::new(1, "", &["agents", "id = 1"]).unwrap().cut(rows(&[1, 2]), false);
        assert!(Ask::new(1, &page.next, &["agents", "id = 1"]).is_ok());
        assert!(Ask::new(1, &page.next, &["agents", "id = 2"]).is_err());
        // The parts are told apart.
        assert!(Ask::new(1, &page.next, &["agentsid", " = 1"]).is_err());
        for bad in ["x", "zz", "00", "äää", &"0".repeat(5000)] {
            assert!(Ask::new(1, bad, &["agents"]).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes() {
        assert!(Ask::new(-1, "", &[]).is_err());
        let all: Vec<u32> = (0..2000).collect();
        assert_eq!(Ask::new(0, "", &[]).unwrap().cut(rows(&all), false).rows.len(), 100);
        assert_eq!(Ask::new(5000, "", &[]).unwrap().cut(rows(&all), false).rows.len(), 1000);
    }
}
