//! Why `gop` ends with a code other than 0, and which code that is.
//!
//! Invariant: code 2 means that nothing was started, code 3 that the agent is deleted, code 4 that
//! it wants to be started again.

use std::{fmt, io, process::ExitCode};

use goperation::Reason;

use crate::hint::{Subject, hint};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A role answered with a typed failure.
    #[error("{error} ({})", error.reason)]
    Api {
        /// What it answered.
        error: Box<goperation::Error>,
        /// What was asked about, for the hint.
        subject: Subject,
    },
    /// No manager or bridge answers there.
    #[error("cannot reach {server}: {cause} (UNAVAILABLE)")]
    Unreachable {
        /// Its address.
        server: String,
        /// What went wrong.
        cause: String,
    },
    /// The command line or a configuration is wrong.
    #[error("{0}")]
    Usage(String),
    /// The agent is deleted.
    #[error("{0}")]
    Deleted(String),
    /// The agent ends so that its service manager starts the new program.
    #[error("{0} ends, to be started anew")]
    Restart(String),
    /// A role failed.
    #[error("{0}")]
    Failed(String),
    /// Some of several things failed; each was said on its own.
    #[error("{failed} of {all} failed")]
    Some {
        /// How many failed.
        failed: usize,
        /// How many there were.
        all: usize,
    },
    /// Nobody reads what is printed any more.
    #[error("stdout is closed")]
    BrokenPipe,
    /// Printing failed.
    #[error("cannot write to stdout: {0}")]
    Stdout(#[source] io::Error),
}

impl Error {
    /// Adds what was asked about, unless it is known already.
    pub(crate) fn about(mut self, asked: &Subject) -> Self {
        if let Self::Api { subject, .. } = &mut self {
            subject.fill(asked);
        }
        self
    }

    /// Prints the error and what to do next, and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        self.say("error");
        ExitCode::from(self.code())
    }

    /// Prints the error of one of several things, and what to do next.
    pub(crate) fn report_of(&self, name: &impl fmt::Display) {
        self.say(&format!("error: {name}"));
    }

    fn say(&self, begin: &str) {
        if matches!(self, Self::BrokenPipe) {
            return;
        }
        let mut lines = vec![format!("{begin}: {self}")];
        match self {
            Self::Api { error, subject } => {
                if error.reason == Reason::MethodFailed {
                    lines.extend(words(error));
                }
                lines.push(format!("hint: {}", hint(error, subject)));
            }
            Self::Unreachable { .. } => lines.push(
                "hint: `gop dev` starts a manager here; --server or GOP_SERVER names another one"
                    .to_owned(),
            ),
            Self::Deleted(_) => {
                lines.push("hint: `gop agent adopt --config FILE` makes it a new agent".to_owned());
            }
            _ => {}
        }
        let text: String = (lines.join("\n") + "\n").chars().map(printable).collect();
        // Nothing is left to tell it to when stderr is closed.
        let _ = io::Write::write_all(&mut io::stderr(), text.as_bytes());
    }

    fn code(&self) -> u8 {
        match self {
            Self::BrokenPipe => 0,
            Self::Usage(_) => 2,
            Self::Deleted(_) => 3,
            Self::Restart(_) => 4,
            _ => 1,
        }
    }
}

/// What a failed program wrote, or a game that did not start, below its error.
fn words(error: &goperation::Error) -> impl Iterator<Item = String> {
    let written = ["stdout", "stderr", "output"].into_iter();
    written.filter_map(|key| error.metadata.get(key).map(|text| (key, text))).flat_map(
        |(key, text)| text.lines().map(move |line| format!("  {key}: {line}")).collect::<Vec<_>>(),
    )
}

/// What a program writes must not steer the terminal.
fn printable(c: char) -> char {
    if c.is_control() && c != '\n' { char::REPLACEMENT_CHARACTER } else { c }
}

impl From<goperation::Error> for Error {
    fn from(error: goperation::Error) -> Self {
        Self::Api { error: Box::new(error), subject: Subject::default() }
    }
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        goperation::Error::from_status(&status).into()
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::BrokenPipe
        } else {
            Self::Stdout(error)
        }
    }
}
