//! What the host is and does, for the manager's records and placement.
//!
//! Invariant: a fact that cannot be read is 0 or absent; a report never fails for it. One thread
//! reads at a time, and nobody waits for it longer than [`PATIENCE`]: a disk that hangs costs one
//! thread, not one a report.
//!
//! `procfs` and not `sysinfo`: the latter has no switches of context, interrupts, iowait or sockets.

mod host;
mod network;
mod rates;
mod shared;
mod snapshot;
mod sock_diag;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex as StdMutex, PoisonError},
    time::Duration,
};

use goperation::v1::{AgentFacts, AgentSnapshot};
use tokio::{
    sync::Mutex,
    task::spawn_blocking,
    time::{sleep, timeout},
};
use tracing::{debug, warn};

use self::rates::Meter;
use crate::Config;

pub use self::shared::SharedFacts;

/// How long a reading may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// What the rates of the first snapshot are measured over.
const FIRST: Duration = Duration::from_millis(500);
const MIB: u64 = 1 << 20;

/// What could not be read before: said aloud once, not with each report.
static TOLD: StdMutex<BTreeSet<&str>> = StdMutex::new(BTreeSet::new());

/// Reads what the host is and does.
#[derive(Debug)]
pub(crate) struct Facts {
    work_dir: PathBuf,
    /// What is said of the host beside what is read.
    said: BTreeMap<String, String>,
    patience: Duration,
    /// Held by the thread that reads.
    meter: Arc<Mutex<Meter>>,
    /// What reads in its place, for many agents of one process.
    shared: Option<Arc<SharedFacts>>,
}

impl Facts {
    /// Of the host that an agent with this configuration is on.
    pub(crate) fn new(config: &Config) -> Self {
        let mut said = BTreeMap::from([
            ("local_ip".to_owned(), config.address.clone()),
            ("zone".to_owned(), "all".to_owned()),
        ]);
        said.extend(config.metadata.clone());
        Self { said, ..Self::of_host(config.work_dir.clone()) }
    }

    /// The same, as read for all agents of the process.
    pub(crate) fn shared(config: &Config, shared: Arc<SharedFacts>) -> Self {
        Self { shared: Some(shared), ..Self::new(config) }
    }

    /// Of this host, of which nothing is said beside.
    fn of_host(work_dir: PathBuf) -> Self {
        let (said, meter) = (BTreeMap::new(), Arc::default());
        Self { work_dir, said, patience: PATIENCE, meter, shared: None }
    }

    /// What the host is; none when that took too long.
    pub(crate) async fn facts(&self) -> Option<AgentFacts> {
        if let Some(shared) = &self.shared {
            let mut facts = shared.facts().await?;
            facts.metadata.extend(self.said.clone());
            return Some(facts);
        }
        self.read_facts().await
    }

    async fn read_facts(&self) -> Option<AgentFacts> {
        let (work_dir, said) = (self.work_dir.clone(), self.said.clone());
        self.read(move |_| host::facts(&work_dir, said)).await
    }

    /// What the host does now; none when that took too long. Rates are since the snapshot before; of
    /// the first, since a reading just before it: a host must not look idle because its agent is new.
    pub(crate) async fn snapshot(&self) -> Option<AgentSnapshot> {
        if let Some(shared) = &self.shared {
            return shared.snapshot().await;
        }
        self.read_snapshot().await
    }

    async fn read_snapshot(&self) -> Option<AgentSnapshot> {
        if self.read(|meter| meter.is_new().then(|| snapshot::begin(meter))).await?.is_some() {
            sleep(FIRST).await;
        }
        let work_dir = self.work_dir.clone();
        self.read(move |meter| snapshot::snapshot(&work_dir, meter)).await
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&mut Meter) -> T + Send + 'static,
    ) -> Option<T> {
        let meter = Arc::clone(&self.meter);
        let reading = async {
            let mut meter = meter.lock_owned().await;
            spawn_blocking(move || read(&mut meter)).await.ok()
        };
        let read = timeout(self.patience, reading).await.ok().flatten();
        if read.is_none() {
            warn!(work_dir = %self.work_dir.display(), "the host's facts cannot be read in time");
        }
        read
    }
}

/// What was read, or a word in the log.
fn seen<T, E: std::fmt::Display>(what: &'static str, read: Result<T, E>) -> Option<T> {
    read.inspect_err(|error| {
        if TOLD.lock().unwrap_or_else(PoisonError::into_inner).insert(what) {
            warn!(what, %error, "a fact of the host cannot be read: it is reported as 0");
        } else {
            debug!(what, %error, "a fact of the host cannot be read");
        }
    })
    .ok()
}

fn to_i32(number: u64) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tempfile::TempDir;

    use super::*;

    fn reader(work_dir: &Path) -> Facts {
        let said = BTreeMap::from([("zone".to_owned(), "a".to_owned())]);
        let patience = Duration::from_secs(60);
        Facts { said, patience, ..Facts::of_host(work_dir.to_owned()) }
    }

    #[test]
    fn what_an_operator_says_wins() {
        let dir = TempDir::new().unwrap();
        let work = dir.path().join("work");
        let said = |more: &str| {
            let text = format!("work_dir = {work:?}\naddress = '10.0.0.7'\n{more}");
            Facts::new(&Config::from_toml(Path::new("a.toml"), &text).unwrap()).said
        };
        let plain = said("");
        assert_eq!((plain["local_ip"].as_str(), plain["zone"].as_str()), ("10.0.0.7", "all"));
        let said =
            said("[metadata]\nzone = 'b'\nssd = true\nexternal_ips = ['1.2.3.4', '5.6.7.8']");
        assert_eq!((said["zone"].as_str(), said["ssd"].as_str()), ("b", "true"));
        assert_eq!((said["external_ips"].as_str(), said.len()), ("1.2.3.4,5.6.7.8", 4));
    }

    #[tokio::test]
    async fn this_host_has_facts() {
        let facts = reader(Path::new("/tmp")).facts().await.unwrap();
        assert!(facts.cpu > 0 && facts.memory_mib > 0 && facts.disk_mib > 0, "{facts:?}");
        assert!(!facts.metadata["kernel"].is_empty());
        assert_eq!(facts.metadata["zone"], "a");
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_zero() {
        let reader = reader(Path::new("/nowhere"));
        assert_eq!(reader.facts().await.unwrap().disk_mib, 0);
        let snapshot = reader.snapshot().await.unwrap();
        assert_eq!(snapshot.disk_free_mib, 0);
        assert!(snapshot.processes > 0);
    }

    #[tokio::test]
    async fn a_reading_that_hangs_is_not_waited_for_and_not_joined_by_another() {
        let mut reader = reader(Path::new("/tmp"));
        reader.patience = Duration::from_millis(50);
        let (release, hold) = std::sync::mpsc::channel::<()>();
        assert_eq!(reader.read(move |_| hold.recv().is_err()).await, None);
        assert_eq!(reader.read(|_| ()).await, None);
        drop(release);
        reader.patience = Duration::from_secs(60);
        assert_eq!(reader.read(|_| 7).await, Some(7));
    }
}
