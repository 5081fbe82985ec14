//! curl, and what JSON looks like.

use std::{collections::BTreeSet, path::PathBuf, process::Stdio};

use goperation_harness::find_program;
use serde_json::Value;
use tokio::process::Command;

/// curl, pointed at one manager.
pub(super) struct Curl {
    program: PathBuf,
    base: String,
}

/// What came back.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: Value,
}

impl Curl {
    /// The curl of this machine.
    pub(super) fn new(base: String) -> Self {
        let program = find_program("curl", &["/usr/bin"])
            .expect("curl is missing: apt-get install curl, or put it into PATH");
        Self { program, base }
    }

    /// Sends a request, with a body on whatever method.
    pub(super) async fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Reply {
        let mut args = vec!["-X".to_owned(), method.to_owned()];
        if let Some(body) = body {
            let body = ["-H", "Content-Type: application/json", "-d", &body.to_string()]
                .map(str::to_owned);
            args.extend(body);
        }
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        self.run(&args, path).await
    }

    /// Runs curl with those arguments for that path.
    pub(super) async fn run(&self, args: &[&str], path: &str) -> Reply {
        let out = Command::new(&self.program)
            .args(["-sS", "--noproxy", "*", "--globoff", "--max-time", "40"])
            .args(["-w", "\n%{http_code} %{num_redirects}"])
            .args(args)
            .arg(format!("{}{path}", self.base))
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        let error = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "curl {args:?} {path}: {error}");
        let text = String::from_utf8(out.stdout).unwrap();
        let (body, end) = text.rsplit_once('\n').unwrap();
        let (status, redirects) = end.split_once(' ').unwrap();
        assert_eq!(redirects, "0", "{path}");
        let body = match body {
            "" => Value::Null,
            body => serde_json::from_str(body).unwrap_or_else(|e| panic!("{path}: {e}: {body}")),
        };
        Reply { status: status.parse().unwrap(), body }
    }
}

/// The keys and types of a value: `{"a": int, "b": [{"c": str}]}` without the blanks and quotes.
/// An element of a list stands once if all are alike.
pub(super) fn shape(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "bool".to_owned(),
        Value::Number(number) if number.is_i64() => "int".to_owned(),
        Value::Number(_) => "float".to_owned(),
        Value::String(_) => "str".to_owned(),
        Value::Array(items) => {
            let kinds: BTreeSet<_> = items.iter().map(shape).collect();
            format!("[{}]", kinds.into_iter().collect::<Vec<_>>().join("|"))
        }
        Value::Object(object) => {
            let mut pairs: Vec<_> =
                object.iter().map(|(key, value)| format!("{key}:{}", shape(value))).collect();
            pairs.sort();
            format!("{{{}}}", pairs.join(","))
        }
    }
}

impl Reply {
    /// The rows of an answer: 200, in the envelope and nothing else, gone well.
    #[track_caller]
    pub(super) fn rows(&self) -> &[Value] {
        let rows = self.enveloped();
        assert_eq!(self.body["resultcode"], 0, "{self:?}");
        rows
    }

    /// The only row.
    #[track_caller]
    pub(super) fn row(&self) -> &Value {
        let [row] = self.rows() else { panic!("not one row: {self:?}") };
        row
    }

    /// That it went wrong within 200.
    #[track_caller]
    pub(super) fn refused(&self) {
        self.enveloped();
        assert_eq!(self.body["resultcode"], -1, "{self:?}");
    }

    #[track_caller]
    fn enveloped(&self) -> &[Value] {
        assert_eq!(self.status, 200, "{self:?}");
        let envelope = self.body.as_object().unwrap_or_else(|| panic!("{self:?}"));
        let keys: BTreeSet<_> = envelope.keys().map(String::as_str).collect();
        assert_eq!(keys, ["data", "pagenum", "result", "resultcode", "total"].into(), "{self:?}");
        let rows = self.body["data"].as_array().unwrap_or_else(|| panic!("{self:?}"));
        assert_eq!(self.body["total"], rows.len(), "{self:?}");
        assert!(self.body["pagenum"].is_u64(), "{self:?}");
        assert!(self.body["result"].as_str().is_some_and(|text| !text.is_empty()), "{self:?}");
        rows
    }

    /// That it failed with that status and a message that begins so.
    #[track_caller]
    pub(super) fn failed(&self, status: u16, begin: &str) {
        assert_eq!(self.status, status, "{self:?}");
        let msg = self.body["msg"].as_str().unwrap_or_default();
        assert!(msg.starts_with(begin), "not {begin:?}: {self:?}");
        let keys: Vec<_> = self.body.as_object().unwrap().keys().map(String::as_str).collect();
        if status == 501 {
            let all = ["data", "msg", "pagenum", "result", "resultcode", "total"];
            assert_eq!(keys, all, "{self:?}");
            assert_eq!(self.body["resultcode"], -1, "{self:?}");
        } else {
            assert_eq!(keys, ["msg"], "{self:?}");
        }
    }
}
