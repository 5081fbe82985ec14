//! Talking to a node from outside: `rabbitmqctl`, and Erlang expressions run inside it.

use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use super::site::{Site, program, tail};
use crate::guard::Guarded;
use crate::{Result, guard};

/// How long one question to a node may take; it answers in milliseconds unless it is down.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Runs `rabbitmqctl` with `args` and gives what it printed on stdout.
pub(crate) fn ctl(site: &Site, args: &[String]) -> Result<String> {
    let mut command = site.command(&program("rabbitmqctl")?);
    command.args(["--quiet", "--node", &site.name]).args(args);
    let output = run(&mut command, "")?;
    let stdout = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(format!("rabbitmqctl {}: {} {stdout} {stderr}", args.join(" "), output.status).into())
}

/// Runs an Erlang expression (without its final full stop) inside the node.
///
/// With `erl_call` that takes 15 ms; where it is missing, half a second through `rabbitmqctl`.
/// Both print atoms, integers and tuples of these alike; make the expression give no more.
pub(crate) fn eval(site: &Site, expression: &str) -> Result<String> {
    let Ok(erl_call) = program("erl_call") else {
        return ctl(site, &["eval".to_owned(), format!("{expression}.")]);
    };
    let mut command = site.command(&erl_call);
    // A name of its own, or two callers at once would throw each other out. The random name of -r
    // is drawn from the clock's seconds: callers of the same second would share it.
    let own = format!("c{}", uuid::Uuid::new_v4().simple());
    command.args(["-h", &own, "-sname", &site.name, "-c", &site.cookie()?, "-e"]);
    let output = run(&mut command, &format!("{expression}.\n"))?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    match stdout.trim().strip_prefix("{ok, ").and_then(|rest| rest.strip_suffix('}')) {
        Some(value) if output.status.success() => Ok(value.to_owned()),
        _ => {
            let stderr = String::from_utf8_lossy(&output.stderr);
            Err(format!("{expression}: {} {stdout} {stderr}", output.status).into())
        }
    }
}

/// An Erlang binary with the bytes of `text`.
pub(crate) fn binary(text: &str) -> String {
    let bytes: Vec<String> = text.bytes().map(|byte| byte.to_string()).collect();
    format!("<<{}>>", bytes.join(","))
}

/// Runs `command` to its end, within a deadline. Its output goes through files: a pipe that
/// fills up, or that a grandchild keeps open, cannot hold the caller.
fn run(command: &mut Command, input: &str) -> Result<Output> {
    let temporary = || tempfile::NamedTempFile::new_in(guard::scratch());
    let (mut stdin, stdout, stderr) = (temporary()?, temporary()?, temporary()?);
    stdin.write_all(input.as_bytes())?;
    command.stdin(Stdio::from(stdin.reopen()?));
    command.stdout(Stdio::from(stdout.reopen()?)).stderr(Stdio::from(stderr.reopen()?));
    let mut child = Guarded::spawn(command)?;
    let status = child
        .wait(ANSWER_WITHIN)
        .map_err(|error| format!("{error}: {command:?} {}", tail(stderr.path(), 20)))?;
    Ok(Output {
        status,
        stdout: std::fs::read(stdout.path())?,
        stderr: std::fs::read(stderr.path())?,
    })
}
