//! Our real programs over a virtual host of the bench's node: manager, bridge, agents.
//!
//! Invariant: each is a process of its own; dropping the site kills them and removes their folders.

use std::{fs, path::Path};

use goperation::v1::{ActivateAgentRequest, AgentState, agent_service_client::AgentServiceClient};
use goperation_harness::{GopProcess, Vhost, free_port};
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::{Result, bench::Bench};

/// A manager on a virtual host of its own.
#[derive(Debug)]
pub(crate) struct Site {
    /// Its process.
    pub(crate) manager: GopProcess,
    /// Where it keeps the messages.
    pub(crate) vhost: Vhost,
    /// Where it listens.
    pub(crate) url: String,
    /// The way to it.
    pub(crate) channel: Channel,
    _bridge: Option<GopProcess>,
    dir: TempDir,
}

impl Site {
    /// The bridge inside the manager, as it is by default.
    pub(crate) async fn start(bench: &Bench) -> Result<Self> {
        Self::start_with(bench, false, "").await
    }

    /// As [`Self::start`]; the bridge may be a process of its own, and `toml` stands first in the
    /// manager's file.
    pub(crate) async fn start_with(bench: &Bench, apart: bool, toml: &str) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let vhost = bench.vhost().await;
        let broker = format!("[broker]\nuri = {:?}\n", vhost.uri);
        let url = format!("http://127.0.0.1:{}", free_port());
        let (bridge, way) = if apart {
            let address = format!("127.0.0.1:{}", free_port());
            let file = dir.path().join("bridge.toml");
            fs::write(&file, format!("listen = {address:?}\n{broker}"))?;
            let bridge = bench.gop(["bridge".as_ref(), "--config".as_ref(), file.as_os_str()]);
            (Some(bridge.await?), format!("bridge = \"http://{address}\"\n"))
        } else {
            (None, broker)
        };
        let file = dir.path().join("manager.toml");
        let (listen, data) = (url.trim_start_matches("http://"), dir.path().join("manager"));
        fs::write(&file, format!("{toml}listen = {listen:?}\ndata_dir = {data:?}\n{way}"))?;
        let manager =
            bench.gop(["manager".as_ref(), "--config".as_ref(), file.as_os_str()]).await?;
        let channel = Channel::from_shared(url.clone())?.connect_lazy();
        Ok(Self { manager, vhost, url, channel, _bridge: bridge, dir })
    }

    /// A folder that goes with the site.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A real agent, `gop agent`, of which `toml` is a part of the file; not yet ACTIVE.
    pub(crate) async fn agent(&self, bench: &Bench, host: &str, toml: &str) -> Result<GopProcess> {
        let file = self.agent_file(host, toml)?;
        bench.gop(["agent".as_ref(), "--config".as_ref(), file.as_os_str()]).await
    }

    /// The file of an agent that is not started yet.
    pub(crate) fn agent_file(&self, host: &str, toml: &str) -> Result<std::path::PathBuf> {
        let file = self.path().join(format!("{host}.toml"));
        let (work, uri) = (self.path().join(host), &self.vhost.uri);
        let text = format!(
            "work_dir = {work:?}\nhost = {host:?}\naddress = \"127.0.0.1\"\nmanager = {:?}\n\
             {toml}\n[broker]\nuri = {uri:?}\n",
            self.url
        );
        fs::write(&file, text)?;
        Ok(file)
    }

    /// Emulated agents, `gop emulate`: ACTIVE ones, whose methods take no time, unless `more` says
    /// otherwise. They are there when this returns.
    pub(crate) async fn emulate(
        &self,
        bench: &Bench,
        agents: usize,
        more: &[&str],
    ) -> Result<GopProcess> {
        let data = self.path().join(format!("emulated-{agents}{}", more.concat()));
        let mut args = vec!["emulate".to_owned(), "--agents".to_owned(), agents.to_string()];
        let data = data.display().to_string();
        let given =
            [("--broker", &self.vhost.uri), ("--manager", &self.url), ("--data-dir", &data)];
        args.extend(given.iter().flat_map(|(flag, value)| [(*flag).to_owned(), (*value).clone()]));
        if !more.contains(&"--latency") {
            args.extend(["--latency", "0ms"].map(str::to_owned));
        }
        args.extend(more.iter().map(|&arg| arg.to_owned()));
        bench.gop(args).await
    }

    /// Makes an agent ACTIVE.
    pub(crate) async fn activate(&self, id: i32) -> Result<()> {
        let request = ActivateAgentRequest { id, state: AgentState::Active.into() };
        AgentServiceClient::new(self.channel.clone()).activate_agent(request).await?;
        Ok(())
    }
}
