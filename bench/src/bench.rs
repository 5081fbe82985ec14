//! What all rows share: the node, how long and how often is measured, and where our programs are.
//!
//! Invariant: every process of a row ends with the row; the node ends with the bench.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use goperation_harness::{GopProcess, RabbitNode, Vhost, gop};

use crate::{Result, measure::Load};

/// How many ask at once where a row does not say otherwise.
pub(crate) const AT_ONCE: usize = 64;

/// One run of the bench.
#[derive(Debug)]
pub(crate) struct Bench {
    node: RabbitNode,
    /// Fewer rounds and shorter ones: for CI, where only much worse is wrong.
    pub(crate) short: bool,
    gop: PathBuf,
    me: PathBuf,
    peer: Option<PathBuf>,
}

impl Bench {
    /// Starts the node. `peer` is the Python that has oslo.messaging.
    pub(crate) async fn start(short: bool, peer: Option<PathBuf>) -> Result<Self> {
        let node = RabbitNode::try_start().await?;
        Ok(Self { node, short, gop: gop(), me: std::env::current_exe()?, peer })
    }

    /// Rounds of a row: ours and the limit, alternating.
    pub(crate) fn rounds(&self) -> usize {
        if self.short { 3 } else { 7 }
    }

    /// How long each loop of a round runs.
    pub(crate) fn load(&self) -> Load {
        let (warm, span) = if self.short { (200, 700) } else { (500, 2500) };
        Load { warm: Duration::from_millis(warm), span: Duration::from_millis(span) }
    }

    /// Of `full` things, as many as are measured in this run.
    pub(crate) fn sized<T>(&self, full: T, short: T) -> T {
        if self.short { short } else { full }
    }

    /// The node.
    pub(crate) fn node(&self) -> &RabbitNode {
        &self.node
    }

    /// A new virtual host of the node.
    pub(crate) async fn vhost(&self) -> Vhost {
        self.node.new_vhost().await
    }

    /// The Python of the peer, if it is installed.
    pub(crate) fn peer(&self) -> Option<&Path> {
        self.peer.as_deref()
    }

    /// Starts `gop` and waits for its line `ready`.
    pub(crate) async fn gop<S: AsRef<std::ffi::OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
    ) -> Result<GopProcess> {
        let gop = GopProcess::try_spawn_program_within(READY_WITHIN, &self.gop, args, &[]).await?;
        Ok(gop.unshown())
    }

    /// Starts a process of the limit: this program in one of its roles, until its line `ready`.
    pub(crate) async fn role<S: AsRef<std::ffi::OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
    ) -> Result<GopProcess> {
        let args = args.into_iter().map(|arg| arg.as_ref().to_owned());
        let args = std::iter::once("role".into()).chain(args);
        let role = GopProcess::try_spawn_program_within(READY_WITHIN, &self.me, args, &[]).await?;
        Ok(role.unshown())
    }
}

/// Ten thousand emulated agents are ready only after a while.
const READY_WITHIN: Duration = Duration::from_secs(600);
