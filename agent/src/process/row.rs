//! What the store remembers of an entity's process, and how the manager is told of it.
//!
//! Invariant: the row of a start, with its token and what is wished, is durable before anything is
//! spawned; a row without a token means that nothing of this entity runs.

use goperation::{
    to_timestamp,
    v1::{self, ProcessState},
};
use goperation_launcher::Exit;

/// What is wished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum Wished {
    /// That it does not run.
    Stopped = 0,
    /// That it runs.
    Running = 1,
}

/// Why a process ends or ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum Cause {
    /// By itself.
    Itself = 0,
    /// It was told to stop, or to start anew.
    Stop = 1,
    /// It was killed by hand.
    Kill = 2,
    /// It was not ready in time.
    NotReady = 3,
    /// Nobody knows: its launcher was lost.
    Unknown = 4,
}

impl Cause {
    /// Its name, as callers see it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Itself => "itself",
            Self::Stop => "stop",
            Self::Kill => "kill",
            Self::NotReady => "not ready",
            Self::Unknown => "unknown",
        }
    }
}

/// How a process ended.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct LastExit {
    #[prost(int32, optional, tag = "1")]
    pub(crate) code: Option<i32>,
    #[prost(int32, optional, tag = "2")]
    pub(crate) signal: Option<i32>,
    /// Why it could not be started.
    #[prost(string, optional, tag = "3")]
    pub(crate) error: Option<String>,
    /// In milliseconds since 1970.
    #[prost(uint64, tag = "4")]
    pub(crate) time: u64,
    #[prost(enumeration = "Cause", tag = "5")]
    pub(crate) cause: i32,
}

impl LastExit {
    /// What the launcher wrote down.
    pub(crate) fn of(exit: Exit, cause: Cause) -> Self {
        Self {
            code: exit.code,
            signal: exit.signal,
            error: exit.error,
            time: exit.time,
            cause: cause.into(),
        }
    }

    /// Nobody saw it end.
    pub(crate) fn unseen(time: u64) -> Self {
        Self { time, cause: Cause::Unknown.into(), ..Self::default() }
    }

    /// Whether it ended well.
    pub(crate) fn is_good(&self) -> bool {
        self.code == Some(0) && self.error.is_none()
    }

    /// For people: `it ended with exit code 3`.
    pub(crate) fn text(&self) -> String {
        match (&self.error, self.code, self.signal) {
            (Some(error), _, _) => format!("it could not be run: {error}"),
            (None, Some(code), _) => format!("it ended with exit code {code}"),
            (None, None, Some(signal)) => format!("it was ended by signal {signal}"),
            (None, None, None) => "it ended, and nobody saw how".to_owned(),
        }
    }
}

/// The process of one entity.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ProcessRow {
    #[prost(uint32, tag = "1")]
    pub(crate) version: u32,
    #[prost(string, tag = "2")]
    pub(crate) endpoint: String,
    #[prost(uint32, tag = "3")]
    pub(crate) number: u32,
    #[prost(enumeration = "Wished", tag = "4")]
    pub(crate) wished: i32,
    #[prost(enumeration = "ProcessState", tag = "5")]
    pub(crate) state: i32,
    /// Since when the state is what it is, in milliseconds since 1970.
    #[prost(uint64, tag = "6")]
    pub(crate) since: u64,
    /// Of the last start, until its end is recorded.
    #[prost(string, optional, tag = "7")]
    pub(crate) token: Option<String>,
    /// 0 when it does not run.
    #[prost(uint32, tag = "8")]
    pub(crate) pid: u32,
    /// Pid of its launcher: a zombie child of ours when it ended during an upgrade.
    #[prost(uint32, tag = "9")]
    pub(crate) launcher: u32,
    /// When it was started; 0 when it does not run.
    #[prost(uint64, tag = "10")]
    pub(crate) started: u64,
    /// Restarts since the last start by hand.
    #[prost(uint32, tag = "11")]
    pub(crate) restarts: u32,
    /// When the last restarts were: what makes a crash loop.
    #[prost(uint64, repeated, tag = "12")]
    pub(crate) history: Vec<u64>,
    /// When it is started again, in BACKOFF.
    #[prost(uint64, tag = "13")]
    pub(crate) due: u64,
    /// Why it is STOPPING.
    #[prost(enumeration = "Cause", tag = "14")]
    pub(crate) ending: i32,
    /// Whether the start that is under way was asked for by hand.
    #[prost(bool, tag = "15")]
    pub(crate) by_hand: bool,
    #[prost(message, optional, tag = "16")]
    pub(crate) last_exit: Option<LastExit>,
    /// Why its state is what it is, for people.
    #[prost(string, tag = "17")]
    pub(crate) message: String,
    /// Whether its files may name ports that it has no more: they are written before it is started.
    #[prost(bool, tag = "18")]
    pub(crate) files_due: bool,
}

impl ProcessRow {
    /// Sets the state, and since when it is that.
    pub(crate) fn enter(&mut self, state: ProcessState, now: u64) {
        if self.state != i32::from(state) {
            self.since = now;
        }
        self.state = state.into();
    }

    /// Says that, unless it says already why it is killed.
    pub(crate) fn noted(&mut self, message: String) {
        if self.ending() != Cause::NotReady {
            self.message = message;
        }
    }

    /// It does not run any more.
    pub(crate) fn ended(&mut self, exit: Option<LastExit>) {
        self.token = None;
        self.pid = 0;
        self.launcher = 0;
        self.started = 0;
        self.ending = Cause::Itself.into();
        if exit.is_some() {
            self.last_exit = exit;
        }
    }

    /// Its state; STOPPED when there was none yet.
    pub(crate) fn shown(&self) -> ProcessState {
        match self.state() {
            ProcessState::Unspecified => ProcessState::Stopped,
            state => state,
        }
    }

    /// As the manager is told of it.
    pub(crate) fn to_wire(&self) -> v1::EntityProcess {
        let time = |millis: u64| (millis > 0).then(|| to_timestamp(millis));
        v1::EntityProcess {
            state: self.shown().into(),
            pid: i32::try_from(self.pid).unwrap_or(0),
            since: time(self.since),
            restarts: i32::try_from(self.restarts).unwrap_or(i32::MAX),
            last_exit: self.last_exit.as_ref().map(|exit| v1::ProcessExit {
                code: exit.code,
                signal: exit.signal,
                time: time(exit.time),
                cause: exit.cause().name().to_owned(),
            }),
            message: self.message.clone(),
            start_time: time(self.started),
            ..v1::EntityProcess::default()
        }
    }
}
