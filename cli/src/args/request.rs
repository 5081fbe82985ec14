//! `gop request`: whom a method is for, how it goes over them, and what is looked at afterwards.

use std::time::Duration;

use clap::{ArgGroup, Args, Subcommand};

use super::Arguments;
use crate::parse::{self, Several};

const RUN: &str = "\
Without --watch and --detach it waits for the end and prints who failed and who is silent.
Ctrl-C leaves the request running, and says how to go on with it.
--timeout is how long an answer is awaited after an agent was sent to: 5s more than --finish when
not said, at least 3s more.

Examples:
  gop request run echo --namespace sample --endpoint sample --arg x=1
  gop request run upgrade_agent --on all --arg file=next.rpm --canary 1 --batch 10% --max-fail 2 \\
      --watch
  gop request run status_entity --namespace db --on 1-40 --entities all --jsonl

Exit code: 0 when every agent has succeeded, else 1.";

const WATCH: &str = "\
On a terminal it is a live view of the whole request, else a line for each thing that happens.
Ctrl-C ends the view, not the request.

Exit code: 0 when every agent has succeeded, else 1.";

const RESUME: &str = "\
Agents that were sent to are not sent to again; failures are counted anew.

Exit code: with --watch or --jsonl that of `gop request watch`.";

/// Names one request.
#[derive(Debug, Clone, Args)]
pub(crate) struct RequestId {
    /// Id of the request
    #[arg(value_name = "ID")]
    pub(crate) id: String,
}

/// Whom a request is for; what is not said is no bound.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Selection {
    /// Every agent, or these numbers
    #[arg(
        long,
        value_name = "all|RANGES",
        value_parser = parse::several,
        required_unless_present_any = ["endpoint", "filter", "includes", "entities"],
        help_heading = "Whom"
    )]
    pub(crate) on: Option<Several>,
    /// Of those, agents that have this endpoint
    #[arg(long, default_value = "", hide_default_value = true, help_heading = "Whom")]
    pub(crate) endpoint: String,
    /// Of those, agents of which this holds, as `host = "h1" AND online = true`
    #[arg(long, default_value = "", hide_default_value = true, help_heading = "Whom")]
    pub(crate) filter: String,
    /// Of those, agents that have it, as `cpu>=2`; may be repeated
    #[arg(long = "include", value_name = "CONDITION", help_heading = "Whom")]
    pub(crate) includes: Vec<String>,
    /// Entities of the method's endpoint; agents that have none of them are left out
    #[arg(
        long,
        value_name = "all|RANGES",
        value_parser = parse::several,
        help_heading = "Whom"
    )]
    pub(crate) entities: Option<Several>,
}

/// How a request goes over its agents.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub(crate) struct Rollout {
    /// Agents of a batch, as `20` or `10%`; all at once when not said
    #[arg(long, value_name = "N|N%", value_parser = parse::share, help_heading = "Roll-out")]
    pub(crate) batch: Option<String>,
    /// Agents of the first batch, which goes alone
    #[arg(long, value_name = "N", value_parser = parse::number, help_heading = "Roll-out")]
    pub(crate) canary: Option<i32>,
    /// Between two batches
    #[arg(long, value_name = "DURATION", value_parser = parse::duration, help_heading = "Roll-out")]
    pub(crate) pause: Option<Duration>,
    /// Stop when more agents than that have failed or are silent, as `2` or `5%`
    #[arg(
        long = "max-fail",
        value_name = "N|N%",
        value_parser = parse::share,
        help_heading = "Roll-out"
    )]
    pub(crate) max_failures: Option<String>,
    /// Agents that run at a time, at most
    #[arg(long, value_name = "N", value_parser = parse::number, help_heading = "Roll-out")]
    pub(crate) max_parallel: Option<i32>,
}

/// What is called at certain times of a request.
#[derive(Debug, Clone, Args)]
pub(crate) struct Hooks {
    /// Called before anything is sent, as `{"executer": "http", "ekwargs": {"url": …}}`
    #[arg(long, value_name = "JSON|@FILE", help_heading = "Hooks")]
    pub(crate) pre_run: Option<String>,
    /// Called when the first batch was sent
    #[arg(long, value_name = "JSON|@FILE", help_heading = "Hooks")]
    pub(crate) after_run: Option<String>,
    /// Called after the last answer
    #[arg(long, value_name = "JSON|@FILE", help_heading = "Hooks")]
    pub(crate) post_run: Option<String>,
}

/// How the end of a request is waited for; without any of it only the end is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Args)]
pub(crate) struct Follow {
    /// Show what happens as it happens
    #[arg(long, conflicts_with = "detach")]
    pub(crate) watch: bool,
    /// Do not wait for its end
    #[arg(long, conflicts_with = "wait")]
    pub(crate) detach: bool,
    /// Print what happens as lines of JSON
    #[arg(long, conflicts_with = "detach")]
    pub(crate) jsonl: bool,
}

/// How long a broken stream is tried again.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Patience {
    /// How long to try again when the manager is away
    #[arg(long, default_value = "1m", value_name = "DURATION", value_parser = parse::duration)]
    pub(crate) wait: Duration,
}

/// As [`Patience`], of what is shown only when that is asked for.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct WatchPatience {
    /// How long to try again when the manager is away
    #[arg(
        long,
        default_value = "1m",
        value_name = "DURATION",
        value_parser = parse::duration,
        requires = "shown"
    )]
    pub(crate) wait: Duration,
}

#[derive(Debug, Args)]
#[command(after_help = RUN)]
pub(crate) struct RunRequest {
    /// Name of the method
    pub(crate) method: String,
    /// The endpoint whose method it is; the agents' own when not said
    #[arg(long, value_name = "ENDPOINT", default_value = "", hide_default_value = true)]
    pub(crate) namespace: String,
    #[command(flatten)]
    pub(crate) args: Arguments,
    #[command(flatten)]
    pub(crate) on: Selection,
    #[command(flatten)]
    pub(crate) rollout: Rollout,
    #[command(flatten)]
    pub(crate) hooks: Hooks,
    /// How long after it was sent an agent may still start: 15s when not said
    #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
    pub(crate) finish: Option<Duration>,
    /// How long the answers are kept after the end; as long as the request when not said
    #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
    pub(crate) expire: Option<Duration>,
    /// Only say whom it would touch, and who would refuse
    #[arg(long, conflicts_with_all = [
        "plan_hash", "watch", "detach", "jsonl", "key", "wait",
        "finish", "expire", "pre_run", "after_run", "post_run",
    ])]
    pub(crate) plan: bool,
    /// Refuse to run unless the plan is still this one
    #[arg(long, value_name = "HASH", default_value = "", hide_default_value = true)]
    pub(crate) plan_hash: String,
    /// Key under which a repeat is safe: it begins nothing and gets the first answer
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) key: String,
    #[command(flatten)]
    pub(crate) follow: Follow,
    #[command(flatten)]
    pub(crate) patience: Patience,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RequestCommand {
    /// Run a method on many agents
    Run(Box<RunRequest>),
    /// List requests, newest first
    Ls {
        /// Conditions, as `state = RUNNING AND failed > 0`
        #[arg(long, default_value = "", hide_default_value = true)]
        filter: String,
        /// At most so many
        #[arg(short = 'n', long, default_value_t = 100, value_parser = clap::value_parser!(i32).range(1..=1000))]
        limit: i32,
    },
    /// Show one request
    Show(RequestId),
    /// List what became of each agent
    Responses {
        #[command(flatten)]
        request: RequestId,
        /// Conditions, as `state = SILENT` or `reason = AGENT_OFFLINE`
        #[arg(long, default_value = "", hide_default_value = true)]
        filter: String,
    },
    /// Show what happens, until it has ended
    #[command(after_help = WATCH)]
    Watch {
        #[command(flatten)]
        request: RequestId,
        /// Of the lines: only those after this one
        #[arg(long, default_value = "", hide_default_value = true)]
        cursor: String,
        /// Go on after the end, with late answers, until interrupted
        #[arg(long)]
        follow: bool,
        /// Print what happens as lines of JSON
        #[arg(long)]
        jsonl: bool,
        #[command(flatten)]
        patience: Patience,
    },
    /// Send to no further agent; what was sent may still run
    Cancel(RequestId),
    /// Go on with a roll-out that has stopped
    #[command(after_help = RESUME, group = ArgGroup::new("shown").multiple(true))]
    Resume {
        #[command(flatten)]
        request: RequestId,
        /// The limit from here on, as `2` or `5%`; as before when not said
        #[arg(long = "max-fail", value_name = "N|N%", value_parser = parse::share)]
        max_failures: Option<String>,
        /// Show what happens from its beginning to its end, as `gop request watch` does
        #[arg(long, group = "shown")]
        watch: bool,
        /// The same as lines of JSON
        #[arg(long, group = "shown")]
        jsonl: bool,
        #[command(flatten)]
        patience: WatchPatience,
    },
    /// Give up agents that have not answered
    Overtime {
        #[command(flatten)]
        request: RequestId,
        /// Only these
        #[arg(long, value_name = "RANGES", value_parser = parse::agents, default_value = "", hide_default_value = true)]
        agents: String,
    },
    /// Remove the record of a request that has ended
    Rm(RequestId),
}
