//! oslo.messaging, which does the same in Python, on the same node: `bench/peer/peer.py`.
//!
//! Invariant: its figures stand beside ours and are judged by nobody; without it all else is
//! measured as well.

use std::{path::PathBuf, process::Stdio, time::Duration};

use goperation_harness::GopProcess;
use serde::Deserialize;
use tokio::process::Command;

use crate::{
    Result,
    bench::Bench,
    measure::{Load, Sample},
};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peer/peer.py");
const READY_WITHIN: Duration = Duration::from_secs(30);
/// At least: its server makes its connections with the first calls.
const WARM: Duration = Duration::from_secs(1);

/// A server of oslo.messaging. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Peer {
    python: PathBuf,
    uri: String,
    _server: GopProcess,
}

/// What a client prints.
#[derive(Debug, Deserialize)]
struct Said {
    rate: f64,
    p50: f64,
    p99: f64,
}

impl Peer {
    /// Starts its server in a virtual host of its own; none, if it is not installed.
    pub(crate) async fn start(bench: &Bench) -> Result<Option<Self>> {
        let Some(python) = bench.peer() else { return Ok(None) };
        let uri = bench.vhost().await.uri;
        let args = [SCRIPT, "server", &uri];
        let server = GopProcess::try_spawn_program_within(READY_WITHIN, python, args, &[]).await?;
        Ok(Some(Self { python: python.to_owned(), uri, _server: server }))
    }

    /// CALLs, `at_once` of them; answers a second and how long they took.
    pub(crate) async fn call(&self, at_once: usize, load: Load) -> Result<Sample> {
        self.ask("call", at_once, load).await
    }

    /// CASTs, `at_once` of them; how many were run a second, and how long they took until the
    /// broker had confirmed them.
    pub(crate) async fn cast(&self, at_once: usize, load: Load) -> Result<Sample> {
        self.ask("cast", at_once, load).await
    }

    async fn ask(&self, mode: &str, at_once: usize, load: Load) -> Result<Sample> {
        let output = Command::new(&self.python)
            .args([SCRIPT, mode, &self.uri])
            .args(["--threads", &at_once.to_string()])
            .args(["--warm", &load.warm.max(WARM).as_secs_f64().to_string()])
            .args(["--span", &load.span.as_secs_f64().to_string()])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            return Err(format!("oslo.messaging {mode}: {}\n{why}", output.status).into());
        }
        let said: Said = serde_json::from_slice(&output.stdout)?;
        Ok(Sample { rate: said.rate, p50: said.p50, p99: said.p99 })
    }
}
