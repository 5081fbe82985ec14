//! The five keys that every answer has.
//!
//! Invariant: `data` is always a list, and `total` counts the rows of this answer.

use serde_json::{Value, json};

/// RESULT_SUCCESS.
pub(super) const SUCCESS: i32 = 0;
/// RESULT_ERROR.
pub(super) const ERROR: i32 = -1;

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Envelope {
    resultcode: i32,
    result: String,
    pagenum: u32,
    data: Vec<Value>,
}

impl Envelope {
    /// It went well.
    pub(super) fn new(result: &str, data: Vec<Value>) -> Self {
        Self { resultcode: SUCCESS, result: result.to_owned(), pagenum: 0, data }
    }

    /// It did not, for a reason that was no error of HTTP.
    pub(super) fn refused(result: &str) -> Self {
        Self { resultcode: ERROR, ..Self::new(result, Vec::new()) }
    }

    /// As that page.
    pub(super) fn on_page(self, pagenum: u32) -> Self {
        Self { pagenum, ..self }
    }

    pub(super) fn to_json(&self) -> Value {
        let result = if self.result.is_empty() { "unkonwn result" } else { &self.result };
        json!({
            "resultcode": self.resultcode,
            "result": result,
            "total": self.data.len(),
            "pagenum": self.pagenum,
            "data": self.data,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_keys_and_no_more() {
        assert_eq!(
            Envelope::new("", vec![json!(1), json!(2)]).on_page(3).to_json(),
            json!({"resultcode": 0, "result": "unkonwn result", "total": 2, "pagenum": 3,
                   "data": [1, 2]}),
        );
        assert_eq!(
            Envelope::refused("no").to_json(),
            json!({"resultcode": -1, "result": "no", "total": 0, "pagenum": 0, "data": []}),
        );
    }
}
