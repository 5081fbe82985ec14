//! `gop emulate` for a site: many agents in a process that is killed and started again.

use std::{path::PathBuf, time::Duration};

use goperation_emulator::{Effect, effects};
use goperation_harness::GopProcess;

use crate::procs::Site;

/// How long a thousand agents may take until each stands where it shall.
const READY: Duration = Duration::from_secs(400);

/// The command line of an emulation.
pub(crate) struct Emulation {
    folder: PathBuf,
    args: Vec<String>,
}

impl Emulation {
    /// In a folder of the site, which it keeps over its restarts.
    pub(crate) fn of(site: &Site, folder: &str, more: &[&str]) -> Self {
        let folder = site.path().join(folder);
        let mut args = vec!["emulate".to_owned()];
        let data_dir = folder.display().to_string();
        let (broker, manager) = (site.broker_uri(), site.url());
        let given = [("--broker", broker), ("--manager", &manager), ("--data-dir", &data_dir)];
        args.extend(given.iter().flat_map(|(flag, value)| [*flag, value].map(str::to_owned)));
        args.extend(more.iter().copied().map(str::to_owned));
        Self { folder, args }
    }

    /// Starts it and waits until every agent stands where it shall.
    pub(crate) async fn start(&self) -> GopProcess {
        GopProcess::spawn_within(READY, &self.args).await
    }

    /// All its effects, in their order.
    pub(crate) fn ledger(&self) -> Vec<Effect> {
        effects(&self.folder.join("ledger")).unwrap()
    }

    /// Its effects by message, which of a request is the request's id.
    pub(crate) fn effects(&self, message: &str) -> Vec<Effect> {
        let mut all = self.ledger();
        all.retain(|effect| effect.message_id == message);
        all
    }
}
