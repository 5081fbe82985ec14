//! What a program's end means: its result, or METHOD_FAILED with its own words.
//!
//! Invariant: an error stays small, because it crosses gRPC in a header: tails are bounded after
//! they were made text.

use std::{os::unix::process::ExitStatusExt as _, process::ExitStatus, time::Duration};

use goperation::{Error, JsonObject, Reason, Result, check_object};
use serde_json::Value;

use super::Invocation;

/// Bytes of stderr that an error carries.
pub(super) const TAIL: usize = 4096;
/// Bytes of stdout that an error carries.
const STDOUT: usize = 1024;
/// Bytes of the last line of stderr that stand in the message.
const LINE: usize = 300;

/// The end of a stream.
#[derive(Debug)]
pub(super) struct Tail {
    bytes: Vec<u8>,
    max: usize,
}

impl Tail {
    pub(super) fn new(max: usize) -> Self {
        Self { bytes: Vec::new(), max }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        // Not at every push: each costs a copy.
        if self.bytes.len() > 4 * self.max {
            self.bytes.drain(..self.bytes.len() - self.max);
        }
    }
}

/// The last bytes of a text, cut between characters; what is not UTF-8 is replaced.
pub(crate) fn tail(bytes: &[u8], max: usize) -> String {
    let text = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(max)..]);
    let mut start = text.len().saturating_sub(max);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    text[start..].to_owned()
}

/// What is known of a run that may fail.
#[derive(Debug, Clone)]
pub(super) struct Failed {
    endpoint: String,
    method: String,
    message_id: String,
    entity: Option<u32>,
    stderr: String,
    stdout: String,
}

impl Failed {
    pub(super) fn about(endpoint: &str, invocation: &Invocation) -> Self {
        Self {
            endpoint: endpoint.to_owned(),
            method: invocation.method.clone(),
            message_id: invocation.message_id.as_str().to_owned(),
            entity: invocation.subject.as_ref().map(|subject| subject.entity),
            stderr: String::new(),
            stdout: String::new(),
        }
    }

    pub(super) fn with_output(self, stdout: &[u8], stderr: &Tail) -> Self {
        Self { stderr: tail(&stderr.bytes, TAIL), stdout: tail(stdout, STDOUT), ..self }
    }

    /// METHOD_FAILED, with what the program wrote.
    pub(super) fn error(&self, what: String) -> Error {
        let entity = self.entity.map(|entity| format!(" {entity}")).unwrap_or_default();
        let mut message = format!("{} of {}{entity}: {what}", self.method, self.endpoint);
        if let Some(line) = self.stderr.lines().rev().find(|line| !line.trim().is_empty()) {
            message.push_str(": ");
            message.push_str(tail(line.trim().as_bytes(), LINE).as_str());
        }
        let mut error = Error::new(Reason::MethodFailed, message)
            .with("endpoint", &self.endpoint)
            .with("method", &self.method)
            .with_message_id(&self.message_id);
        if let Some(entity) = self.entity {
            error = error.with("entity", entity);
        }
        for (key, text) in [("stderr", &self.stderr), ("stdout", &self.stdout)] {
            if !text.is_empty() {
                error = error.with(key, text);
            }
        }
        error
    }

    pub(super) fn timed_out(&self, limit: Duration) -> Error {
        let limit = humantime::format_duration(limit);
        self.error(format!("timed out after {limit} and was killed"))
    }

    pub(super) fn flooded(&self, max: usize) -> Error {
        self.error(format!("wrote more than {max} bytes on stdout and was killed"))
    }

    pub(super) fn exit(&self, status: ExitStatus) -> Error {
        match (status.code(), status.signal()) {
            (Some(code), _) => {
                self.error(format!("ended with exit code {code}")).with("exit_code", code)
            }
            (None, Some(signal)) => {
                self.error(format!("was ended by signal {signal}")).with("signal", signal)
            }
            (None, None) => self.error(format!("ended with {status}")),
        }
    }

    /// The result of a program that ended well; no output is an empty one.
    pub(super) fn parse(&self, output: &[u8]) -> Result<JsonObject> {
        if output.trim_ascii().is_empty() {
            return Ok(JsonObject::new());
        }
        let object = match serde_json::from_slice(output) {
            Ok(Value::Object(object)) => object,
            Ok(_) => return Err(self.bad("is not a JSON object")),
            Err(error) => return Err(self.bad(&format!("is not JSON: {error}"))),
        };
        check_object("result", &object)
            .map_err(|error| self.bad(&format!("cannot be passed on: {}", error.message)))?;
        Ok(object)
    }

    fn bad(&self, why: &str) -> Error {
        self.error(format!("ended with exit code 0, but its output {why}")).with("exit_code", 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails_are_bounded_text() {
        let mut end = Tail::new(10);
        for _ in 0..1000 {
            end.push("abc€".as_bytes());
        }
        assert!(end.bytes.len() <= 46);
        assert!("abc€abc€".ends_with(&tail(&end.bytes, 10)));
        assert_eq!(tail("ab€".as_bytes(), 2), "");
        // Each bad byte becomes three: the bound is that of the text.
        assert!(tail(&[0xff; 100], 10).len() <= 10);
    }
}
