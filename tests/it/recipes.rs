//! Every block of the recipes, run in order against a fresh `gop dev`, one for each page. What a
//! page shows is what is printed; answers in JSON are shown by some of their fields.

use std::{collections::BTreeSet, time::Duration};

use goperation_harness::{gop, grpcurl};
use serde_json::{Deserializer, Value};
use tokio::process::Command;

use crate::{
    clients::{node, python, run, typescript},
    dev::{dev, end},
    shown::{Ids, blurred, commands, file},
};

/// The address in the texts.
const WRITTEN: &str = "127.0.0.1:7999";
/// What stands for anything: a value, the rest of a list, or any lines.
const ANY: &str = "…";
const WITHIN: Duration = Duration::from_secs(60);
const TOOLS: [&str; 4] = ["curl", "grpcurl", "python", "ts"];
/// A tool that a page may have beside them.
const GOP: &str = "gop";

macro_rules! pages {
    ($($page:ident)*) => {
        const PAGES: &[&str] = &[$(stringify!($page)),*];

        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $page() {
                page(stringify!($page)).await;
            }
        )*

        #[test]
        fn every_page_is_run() {
            let run = PAGES.iter().map(|page| format!("{page}.md"));
            let folder = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/recipes"));
            let pages = folder.unwrap().map(|page| page.unwrap().file_name().into_string().unwrap());
            let pages: BTreeSet<_> = pages.filter(|page| page != "README.md").collect();
            assert_eq!(pages, run.collect());
        }
    };
}

pages! { agents bridge caches endpoints entities ports processes queues requests rollout }

/// A fenced block.
struct Block {
    kind: String,
    line: usize,
    lines: Vec<String>,
}

fn blocks(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (i, line) in text.lines().enumerate() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(kind)) => {
                open = Some(Block { kind: kind.to_owned(), line: i + 1, lines: Vec::new() });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(block), None) => block.lines.push(line.to_owned()),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block does not end");
    blocks
}

/// Every program of that kind on all pages, each with the first of its page before it, and a name.
pub(crate) fn programs(kind: &str) -> Vec<(String, String)> {
    let mut programs = Vec::new();
    for page in PAGES {
        let blocks = blocks(&text(page));
        let mut texts = blocks.iter().filter(|block| block.kind == kind);
        let begun = texts.next().expect("a page begins with a connection").lines.join("\n");
        for block in texts {
            let program = format!("{begun}\n{}\n", block.lines.join("\n"));
            programs.push((format!("{page}_{}", block.line), program));
        }
    }
    programs
}

fn text(page: &str) -> String {
    file(&format!("docs/recipes/{page}.md"))
}

/// A page as it is run.
struct Page<'a> {
    name: &'a str,
    address: &'a str,
    /// The first block of Python and of TypeScript, which goes before the others.
    begun: [Option<String>; 2],
    tools: BTreeSet<&'static str>,
    ids: Ids,
}

async fn page(name: &str) {
    let blocks = blocks(&text(name));
    let (process, address) = dev(&["--agents", "2"]).await;
    let (begun, tools, ids) = ([None, None], BTreeSet::new(), Ids::default());
    let mut page = Page { name, address: &address, begun, tools, ids };
    for (i, block) in blocks.iter().enumerate() {
        let output = blocks.get(i + 1).filter(|next| next.kind == "text");
        match block.kind.as_str() {
            "console" => page.console(block).await,
            "python" | "ts" => page.program(block, output).await,
            "text" => {}
            kind => panic!("{name}.md:{}: a block of {kind:?} is not run", block.line),
        }
    }
    let run = blocks.iter().filter(|block| block.kind != "text").count();
    println!("{name}: {run} blocks");
    assert!(page.tools.iter().eq(&TOOLS), "{name} lacks a tool: {:?}", page.tools);
    end(process).await;
}

impl Page<'_> {
    async fn console(&mut self, block: &Block) {
        let shown = commands(block.lines.iter().map(String::as_str));
        assert!(!shown.is_empty(), "{}.md:{}: no command", self.name, block.line);
        let mut path = [grpcurl(), gop()].map(|tool| tool.parent().unwrap().to_owned()).to_vec();
        path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
        for shown in shown {
            let first = shown.command.split_whitespace().next().unwrap_or_default();
            match TOOLS.into_iter().find(|tool| *tool == first) {
                Some(tool) => drop(self.tools.insert(tool)),
                None => assert_eq!(first, GOP, "{first} is not a tool"),
            }
            let mut sh = Command::new("sh");
            sh.args(["-c", &format!("exec 2>&1\n{}", self.here(&shown.command))])
                .env("PATH", std::env::join_paths(&path).unwrap())
                .env("GOP_SERVER", format!("http://{}", self.address))
                .kill_on_drop(true);
            let (status, printed) = run(sh, WITHIN).await;
            let fails = shown.output.first().is_some_and(|line| line == "ERROR:");
            assert_eq!(status.success(), !fails, "`{}`: {status}\n{printed}", shown.command);
            self.compared(block, &shown.output, &printed, &shown.command);
        }
    }

    async fn program(&mut self, block: &Block, output: Option<&Block>) {
        let is_python = block.kind == "python";
        let begun = &mut self.begun[usize::from(is_python)];
        let text = block.lines.join("\n");
        let program = match begun {
            Some(begun) => format!("{begun}\n{text}\n"),
            None => begun.insert(format!("{text}\n")).clone(),
        };
        let program = self.here(&program);
        let suffix = if is_python { ".py" } else { ".ts" };
        let source = tempfile::Builder::new().suffix(suffix).tempfile().unwrap().into_temp_path();
        std::fs::write(&source, &program).unwrap();
        let (mut command, bundle) = if is_python {
            (python(), source)
        } else {
            (node(), typescript(&source, "node").await)
        };
        command.arg(&*bundle).env("GOP_SERVER", format!("http://{}", self.address));
        let (status, printed) = run(command, WITHIN).await;
        assert!(status.success(), "{}.md:{}: {status}\n{printed}", self.name, block.line);
        self.tools.insert(if is_python { "python" } else { "ts" });
        let shown = output.map(|output| output.lines.clone()).unwrap_or_default();
        self.compared(block, &shown, &printed, &text);
    }

    fn here(&self, text: &str) -> String {
        self.ids.here(&text.replace(WRITTEN, self.address))
    }

    fn compared(&mut self, block: &Block, shown: &[String], printed: &str, ran: &str) {
        let shown = shown.join("\n");
        self.ids.learn(&shown, printed);
        if let Err(why) = matches(&self.here(&shown), printed) {
            panic!("{}.md:{}: {why}\n{ran}\n--- printed\n{printed}", self.name, block.line);
        }
    }
}

/// Whether the printed is what is shown: JSON by the fields that are shown, anything else by its
/// lines.
pub(crate) fn matches(shown: &str, printed: &str) -> Result<(), String> {
    let json = |text: &str| -> Option<Vec<Value>> {
        let values =
            Deserializer::from_str(text).into_iter().collect::<Result<Vec<_>, _>>().ok()?;
        values.iter().any(Value::is_object).then_some(values)
    };
    if let (Some(shown), Some(printed)) = (json(shown), json(printed)) {
        return within("$", &Value::Array(shown), &Value::Array(printed));
    }
    let shown: Vec<_> = shown.lines().map(blurred).collect();
    let printed: Vec<_> = printed.lines().map(blurred).collect();
    if lines_match(&shown, &printed) { Ok(()) } else { Err(format!("shown is {shown:#?}")) }
}

pub(crate) fn lines_match(shown: &[String], printed: &[String]) -> bool {
    match (shown.split_first(), printed.split_first()) {
        (None, None) => true,
        (Some((first, rest)), _) if first == ANY => {
            (0..=printed.len()).any(|skipped| lines_match(rest, &printed[skipped..]))
        }
        (Some((first, rest)), Some((line, others))) => first == line && lines_match(rest, others),
        _ => false,
    }
}

/// Whether everything that is shown is in the answer.
fn within(path: &str, shown: &Value, answer: &Value) -> Result<(), String> {
    match (shown, answer) {
        (Value::String(any), Value::String(text)) if any == ANY => {
            if text.is_empty() {
                Err(format!("{path} is empty"))
            } else {
                Ok(())
            }
        }
        (Value::String(any), Value::Number(_)) if any == ANY => Ok(()),
        (Value::Object(shown), Value::Object(answer)) => {
            shown.iter().try_for_each(|(key, shown)| {
                let path = format!("{path}.{key}");
                let value = answer.get(key).ok_or_else(|| format!("{path} is not there"))?;
                within(&path, shown, value)
            })
        }
        (Value::Array(shown), Value::Array(answer)) => {
            let (shown, answer) = match shown.split_last() {
                Some((Value::String(last), rest)) if last == ANY && answer.len() >= rest.len() => {
                    (rest, &answer[..rest.len()])
                }
                _ => (shown.as_slice(), answer.as_slice()),
            };
            if shown.len() != answer.len() {
                return Err(format!("{path}: {} are shown of {}", shown.len(), answer.len()));
            }
            let mut pairs = shown.iter().zip(answer).enumerate();
            pairs.try_for_each(|(i, (shown, value))| within(&format!("{path}[{i}]"), shown, value))
        }
        _ if shown == answer => Ok(()),
        _ => Err(format!("{path}: {shown} is shown, {answer} is printed")),
    }
}

#[test]
fn what_is_not_shown_right_is_seen() {
    let printed = "{\"a\": [1, {\"b\": \"x\", \"c\": 2}]}";
    for good in [
        "{\"a\": [1, {\"b\": \"x\"}]}",
        "{\"a\": [1, \"…\"]}",
        "{\"a\": [\"…\", {\"c\": 2}]}",
        "{}",
    ] {
        assert_eq!(matches(good, printed), Ok(()), "{good}");
    }
    for bad in ["{\"a\": [1]}", "{\"a\": [1, {\"b\": \"y\"}]}", "{\"d\": 1}", "", "x", "{} {}"] {
        assert!(matches(bad, printed).is_err(), "{bad}");
    }
    assert_eq!(matches("a\n…\nd", "a\nb\nc\nd"), Ok(()));
    assert_eq!(matches("a\n…", "a"), Ok(()));
    assert!(matches("a\n…\nd", "a\nb\nc").is_err());
    assert!(matches("a", "a\nb").is_err());
}
