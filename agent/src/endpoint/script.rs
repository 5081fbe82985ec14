//! The `script` driver: a method is a program of the operator's. It gets a JSON object on stdin
//! and answers with one on stdout; its exit code says whether it did its work.
//!
//! Invariant: no shell stands between; the program ends within its time limit or is killed with
//! its whole process group, and so it is when its [`Running`] is dropped. Whatever it does, the
//! agent's memory is bounded and no zombie stays.
//!
//! What a method leaves running on purpose must let go of stdout and stderr, or it is killed when
//! the method's own process has ended; best it makes a session of its own.

use std::{
    convert::Infallible, future::pending, path::Path, pin::pin, process::Stdio, time::Duration,
};

use goperation::{Error, JsonObject, MessageId, Reason, Result};
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    process::{ChildStderr, ChildStdin, ChildStdout, Command},
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tracing::warn;

use super::{
    Endpoint, Group, base_environment,
    orphan::{AGENT, MESSAGE_ID, RunRecord},
};
use crate::{config::MethodSpec, ports::Reserved};

mod progress;
mod result;

use progress::{NOBODY, PROGRESS, Progress};
use result::{Failed, TAIL, Tail};

/// How long, after a program has ended, its output is waited for when another process holds it.
const GRACE: Duration = Duration::from_secs(1);

/// One run of a method.
#[derive(Debug, Clone)]
pub struct Invocation {
    /// Method, as the operator declares it.
    pub method: String,
    /// Message that asks for it.
    pub message_id: MessageId,
    /// Entity that it is about.
    pub subject: Option<Subject>,
    /// Its arguments.
    pub args: JsonObject,
    /// Gets the newest line that it says of its progress; none when nobody wants to know.
    pub progress: Option<watch::Sender<String>>,
}

/// The entity that a method is about.
#[derive(Debug, Clone)]
pub struct Subject {
    /// Number.
    pub entity: u32,
    /// Its ports.
    pub ports: Vec<Reserved>,
}

impl Endpoint {
    /// Runs a method. Dropped, it kills what it has started.
    ///
    /// # Errors
    /// As [`Endpoint::start`] and [`Running::wait`].
    pub async fn run(&self, invocation: Invocation) -> Result<JsonObject> {
        self.start(invocation).await?.wait().await
    }

    /// Starts the program of a method.
    ///
    /// # Errors
    /// `METHOD_NOT_FOUND`; `METHOD_FAILED` when it cannot be started: then nothing ran.
    pub async fn start(&self, invocation: Invocation) -> Result<Running> {
        let Some(spec) = self.spec(&invocation.method) else {
            return Err(self.not_found(&invocation.method, "nothing is declared for it"));
        };
        let home = match &invocation.subject {
            Some(subject) => self.home(subject.entity),
            None => {
                self.create_folder().await?;
                self.folder()
            }
        };
        let input = self.input(&invocation, &home.to_string_lossy());
        let progress = match invocation.progress.clone() {
            Some(told) => self.progress(told).await,
            None => None,
        };
        let (program, arguments) = spec.program.split_first().ok_or_else(|| {
            Error::new(Reason::Internal, format!("method {} has no program", invocation.method))
        })?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(&home)
            .env_clear()
            .envs(base_environment())
            .envs(self.env())
            .env("GOP_ENDPOINT", self.name())
            .env("GOP_METHOD", &invocation.method)
            .env("GOP_HOME", &home)
            .env(AGENT, self.data_folder())
            .env(MESSAGE_ID, invocation.message_id.as_str())
            .env(PROGRESS, progress.as_ref().map_or(Path::new(NOBODY), Progress::path))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(subject) = &invocation.subject {
            command.env("GOP_ENTITY", subject.entity.to_string());
            for (index, port) in subject.ports.iter().enumerate() {
                command.env(port_variable(index, &port.name), port.port.to_string());
            }
        }
        let about = Failed::about(self.name(), &invocation);
        // From here the limit counts, so that a slow start is part of it.
        let deadline = Instant::now() + spec.timeout;
        let mut group = Group::spawn(command).await.map_err(|error| {
            about.error(format!("{program} could not be started in {}: {error}", home.display()))
        })?;
        let (stdin, stdout, stderr) = group.pipes();
        let (Some(stdin), Some(stdout), Some(stderr)) = (stdin, stdout, stderr) else {
            return Err(about.error("the pipes of the program are not there".to_owned()));
        };
        let spec = spec.clone();
        Ok(Running { about, spec, deadline, input, group, stdin, stdout, stderr, progress })
    }

    /// Where a method says how far it is. Without one it runs all the same.
    async fn progress(&self, told: watch::Sender<String>) -> Option<Progress> {
        match Progress::open(&self.data_folder().join("progress"), told).await {
            Ok(progress) => Some(progress),
            Err(error) => {
                warn!(%error, "what the method says of its progress is not heard");
                None
            }
        }
    }

    fn input(&self, invocation: &Invocation, home: &str) -> Vec<u8> {
        let mut input = json!({
            "method": invocation.method,
            "endpoint": self.name(),
            "home": home,
            "args": invocation.args,
            "message_id": invocation.message_id.as_str(),
        });
        if let Some(subject) = &invocation.subject {
            input["entity"] = subject.entity.into();
            let port = |port: &Reserved| json!({"name": port.name, "port": port.port, "protocol": port.protocol.name()});
            input["ports"] = subject.ports.iter().map(port).collect();
        }
        let mut input = input.to_string().into_bytes();
        // So that `read` of a shell takes it as a line.
        input.push(b'\n');
        input
    }
}

/// `GOP_PORT_<NAME>` in capitals; a port without a name goes by its place, counted from 1.
pub(crate) fn port_variable(index: usize, name: &str) -> String {
    let capital = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    if name.is_empty() {
        format!("GOP_PORT_{}", index + 1)
    } else {
        format!("GOP_PORT_{}", name.chars().map(capital).collect::<String>())
    }
}

/// A program that was started. Dropped, it is killed with its whole process group.
#[derive(Debug)]
pub struct Running {
    about: Failed,
    spec: MethodSpec,
    deadline: Instant,
    input: Vec<u8>,
    group: Group,
    stdin: ChildStdin,
    stdout: ChildStdout,
    stderr: ChildStderr,
    progress: Option<Progress>,
}

/// How a run ended.
enum End {
    Itself,
    TimedOut,
    /// It wrote more than it may.
    Flooded,
}

/// It wrote more than it may.
struct Flood;

impl Running {
    /// What names the process after a crash of the agent; none when /proc cannot be read.
    #[must_use]
    pub fn record(&self) -> Option<RunRecord> {
        self.group.record().cloned()
    }

    /// Waits for its end, and takes its result.
    ///
    /// # Errors
    /// `METHOD_FAILED` when it ended with another exit code than 0, by a signal, too late, with
    /// too much output or with what is no JSON object that can cross (contract §3). Exit code or
    /// signal and the ends of stderr and stdout are in the metadata.
    pub async fn wait(self) -> Result<JsonObject> {
        let Self { about, spec, deadline, input, mut group, stdin, stdout, stderr, progress } =
            self;
        let mut output = Vec::new();
        let mut errors = Tail::new(TAIL);
        let end = {
            let pipes = async {
                tokio::try_join!(
                    feed(stdin, &input),
                    collect(stdout, &mut output, spec.max_output),
                    follow(stderr, &mut errors),
                )
                .map(drop)
            };
            tokio::select! {
                biased;
                end = drive(&mut group, deadline, pipes) => end,
                never = follow_progress(progress) => match never {},
            }
        };
        if !matches!(end, End::Itself) {
            group.kill();
        }
        let status = group.reap().await;
        let failed = about.with_output(&output, &errors);
        match (end, status) {
            (End::TimedOut, _) => Err(failed.timed_out(spec.timeout)),
            (End::Flooded, _) => Err(failed.flooded(spec.max_output)),
            (End::Itself, Ok(status)) if status.success() => failed.parse(&output),
            (End::Itself, Ok(status)) => Err(failed.exit(status)),
            (End::Itself, Err(error)) => {
                Err(failed.error(format!("its exit code is not known: {error}")))
            }
        }
    }
}

/// Waits for the leader and for its output, whichever ends the run.
async fn drive(
    group: &mut Group,
    deadline: Instant,
    pipes: impl Future<Output = Result<(), Flood>>,
) -> End {
    let mut pipes = pin!(pipes);
    let mut open = true;
    let mut late = pin!(sleep_until(deadline));
    loop {
        tokio::select! {
            biased;
            () = group.ended() => break,
            all = &mut pipes, if open => match all {
                Ok(()) => open = false,
                Err(Flood) => return End::Flooded,
            },
            () = &mut late => return End::TimedOut,
        }
    }
    if open {
        match timeout(GRACE, &mut pipes).await {
            Ok(Ok(())) => {}
            Ok(Err(Flood)) => return End::Flooded,
            Err(_) => {
                warn!("the method has ended, but what it left running holds its output: killed");
                group.kill();
                // Now the rest of the output can be had, unless the holder left the group.
                if let Ok(Err(Flood)) = timeout(GRACE, &mut pipes).await {
                    return End::Flooded;
                }
            }
        }
    }
    End::Itself
}

async fn follow_progress(progress: Option<Progress>) -> Infallible {
    match progress {
        Some(mut progress) => progress.follow().await,
        None => pending().await,
    }
}

/// Writes all input. A program may close its stdin unread: that is no failure.
async fn feed(mut stdin: ChildStdin, input: &[u8]) -> Result<(), Flood> {
    let _ = stdin.write_all(input).await;
    Ok(())
}

/// Reads all output, up to a bound. A pipe that cannot be read is at its end.
async fn collect(
    mut from: impl AsyncRead + Unpin,
    output: &mut Vec<u8>,
    max: usize,
) -> Result<(), Flood> {
    let mut buffer = [0; 8192];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        output.extend_from_slice(&buffer[..read]);
        if output.len() > max {
            return Err(Flood);
        }
    }
    Ok(())
}

/// Reads all that is written on stderr and keeps its end.
async fn follow(mut from: impl AsyncRead + Unpin, tail: &mut Tail) -> Result<(), Flood> {
    let mut buffer = [0; 8192];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        tail.push(&buffer[..read]);
    }
    Ok(())
}
