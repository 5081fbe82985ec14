//! `gop agent upgrade` and `gop agent status`.

use std::time::Duration;

use clap::Args;

use super::request::{Follow, Patience, Rollout};
use crate::parse::{self, Several};

const UPGRADE: &str = "\
One agent is called, and waited for. With --on it is a request, as `gop request run` makes them:
`gop request` shows, cancels and resumes it.

Examples:
  gop agent upgrade 7 /srv/packages/next.rpm
  gop agent upgrade --on all next.rpm --canary 1 --batch 10% --pause 1m --max-fail 2 --watch

Exit code: 0 when every agent was upgraded, else 1.";

#[derive(Debug, Args)]
#[command(
    override_usage = "gop agent upgrade [OPTIONS] AGENT [FILE]\n       \
                      gop agent upgrade [OPTIONS] --on all|RANGES [FILE]",
    after_help = UPGRADE
)]
pub(crate) struct Upgrade {
    /// The agent, unless --on says which; and the package, where its package command has {file}: a
    /// path on its host, or a URL
    #[arg(value_name = "AGENT] [FILE", num_args = 0..=2)]
    words: Vec<String>,
    /// How long to wait for its end instead of --timeout; it goes on when that is over
    #[arg(
        long,
        default_value = "10m",
        value_name = "DURATION",
        value_parser = parse::duration,
        conflicts_with = "on"
    )]
    pub(crate) wait: Duration,
    /// Id under which a repeat is safe: it is done once
    #[arg(long, default_value = "", hide_default_value = true, conflicts_with = "on")]
    pub(crate) message_id: String,
    /// From now, when it may be started at the latest, as `1h`; of --on: after an agent was sent to
    #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
    pub(crate) finish: Option<Duration>,
    /// Every agent, or these numbers
    #[arg(long, value_name = "all|RANGES", value_parser = parse::several, help_heading = "Whom")]
    pub(crate) on: Option<Several>,
    /// Of those, agents of which this holds, as `online = true`
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        requires = "on",
        help_heading = "Whom"
    )]
    pub(crate) filter: String,
    #[command(flatten)]
    pub(crate) rollout: Rollout,
    /// Only say whom it would touch, and who would refuse
    #[arg(
        long,
        requires = "on",
        conflicts_with_all = ["plan_hash", "watch", "detach", "jsonl", "key", "finish"]
    )]
    pub(crate) plan: bool,
    /// Refuse to run unless the plan is still this one
    #[arg(
        long,
        value_name = "HASH",
        default_value = "",
        hide_default_value = true,
        requires = "on"
    )]
    pub(crate) plan_hash: String,
    /// Key under which a repeat is safe: it begins nothing and gets the first answer
    #[arg(long, default_value = "", hide_default_value = true, requires = "on")]
    pub(crate) key: String,
    #[command(flatten)]
    pub(crate) follow: Follow,
}

/// What is upgraded.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Upgraded {
    /// An agent, and its package.
    One(i32, String),
    /// Several, and their package.
    Fleet(Several, String),
}

impl Upgrade {
    /// Whom the words mean, and which package.
    pub(crate) fn what(&self) -> Result<Upgraded, String> {
        if let Some(on) = &self.on {
            return match self.words.as_slice() {
                [] => Ok(Upgraded::Fleet(on.clone(), String::new())),
                [file] => Ok(Upgraded::Fleet(on.clone(), file.clone())),
                _ => Err("--on says which agents; only the package goes with it".to_owned()),
            };
        }
        if self.rollout != Rollout::default() || self.follow != Follow::default() {
            return Err("a roll-out, --watch, --detach and --jsonl need --on".to_owned());
        }
        let (agent, file) = match self.words.as_slice() {
            [] => return Err("which agent? Its number, or --on all|RANGES".to_owned()),
            [agent] => (agent, String::new()),
            [agent, file, ..] => (agent, file.clone()),
        };
        let number = parse::number(agent).map_err(|e| format!("AGENT: {e}"))?;
        Ok(Upgraded::One(number, file))
    }
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Every agent, or these numbers
    #[arg(long, value_name = "all|RANGES", value_parser = parse::several)]
    pub(crate) on: Several,
    /// Of those, agents of which this holds, as `online = true`
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) filter: String,
    /// How long after it was sent an agent may still start: 15s when not said
    #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
    pub(crate) finish: Option<Duration>,
    /// Key under which a repeat is safe: it begins nothing and gets the first answer
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) key: String,
    #[command(flatten)]
    pub(crate) follow: Follow,
    #[command(flatten)]
    pub(crate) patience: Patience,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        upgrade: Upgrade,
    }

    fn what(words: &[&str]) -> Result<Upgraded, String> {
        let line = Line::try_parse_from([&["upgrade"], words].concat());
        line.map_err(|e| e.to_string())?.upgrade.what()
    }

    #[test]
    fn one_agent_or_several() {
        let all = |file: &str| Ok(Upgraded::Fleet(Several::All, file.to_owned()));
        assert_eq!(what(&["7"]), Ok(Upgraded::One(7, String::new())));
        assert_eq!(what(&["7", "a.rpm", "--finish", "1h"]), Ok(Upgraded::One(7, "a.rpm".into())));
        assert_eq!(what(&["--on", "all"]), all(""));
        assert_eq!(what(&["--on", "all", "a.rpm", "--batch", "10%", "--watch"]), all("a.rpm"));
        assert_eq!(what(&["a.rpm", "--on", "all", "--plan"]), all("a.rpm"));
        for bad in [
            &[][..],
            &["0"],
            &["a.rpm"],
            &["7", "a.rpm", "b.rpm"],
            &["7", "--canary", "1"],
            &["7", "--watch"],
            &["7", "--plan"],
            &["7", "--key", "k"],
            &["--on", "all", "--plan", "--finish", "1h"],
            &["--on", "all", "7", "a.rpm"],
            &["--on", "all", "a.rpm", "--message-id", "m"],
            &["--on", "all", "a.rpm", "--wait", "1m"],
        ] {
            assert!(what(bad).is_err(), "{bad:?}");
        }
    }
}
