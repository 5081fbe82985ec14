//! The `[requests]` table of the manager's configuration.

use std::{collections::BTreeMap, time::Duration};

use goperation::MethodName;
use serde::Deserialize;

use super::duration;

/// How requests are run and kept.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RequestsConfig {
    /// How long a request is kept after its end: `30d`, from a minute to ten years.
    #[serde(deserialize_with = "duration")]
    pub keep: Duration,
    /// Most requests that are kept: 100000. Of more, the oldest that have ended go; and when so
    /// many have not ended, a further one is refused.
    pub most: u32,
    /// How many agents run a method at a time, over all requests: `{ upgrade_agent = 10 }`. Methods
    /// that are not named have no such bound.
    pub max_running: BTreeMap<String, u32>,
    /// Streams of WatchRequest at a time, from 1 to 100000; a further one is refused.
    pub max_watches: u32,
    /// `[requests.hooks]`: what hooks of requests may do.
    pub hooks: HooksConfig,
}

/// What hooks of requests may do.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HooksConfig {
    /// Whether a hook may call loopback and link-local addresses.
    pub allow_local: bool,
}

impl Default for RequestsConfig {
    fn default() -> Self {
        Self {
            keep: Duration::from_secs(30 * 24 * 3600),
            most: 100_000,
            max_running: BTreeMap::new(),
            max_watches: 1024,
            hooks: HooksConfig::default(),
        }
    }
}

impl RequestsConfig {
    /// Shortest time that a request is kept.
    pub const SHORTEST_KEEP: Duration = Duration::from_secs(60);
    /// Longest time that a request is kept.
    pub const LONGEST_KEEP: Duration = Duration::from_secs(3650 * 24 * 3600);
    /// Most requests that can be kept.
    pub const MOST: u32 = 100_000;

    /// The first field, below `requests`, that cannot be used, and why.
    pub(super) fn check(&self) -> Result<(), (String, &'static str)> {
        if !(Self::SHORTEST_KEEP..=Self::LONGEST_KEEP).contains(&self.keep) {
            return Err(("keep".to_owned(), "must be from 1m to 3650d"));
        }
        if !(1..=Self::MOST).contains(&self.most) {
            return Err(("most".to_owned(), "must be from 1 to 100000"));
        }
        if !(1..=Self::MOST).contains(&self.max_watches) {
            return Err(("max_watches".to_owned(), "must be from 1 to 100000"));
        }
        for (method, &most) in &self.max_running {
            let field = || format!("max_running.{method}");
            if MethodName::parse("method", method).is_err() {
                return Err((field(), "is not the name of a method"));
            }
            if most == 0 {
                return Err((field(), "must be at least 1"));
            }
        }
        Ok(())
    }
}
