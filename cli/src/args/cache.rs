//! `gop cache`.

use std::time::Duration;

use clap::Subcommand;

use super::Arguments;
use crate::parse;

#[derive(Debug, Subcommand)]
pub(crate) enum CacheCommand {
    /// List caches
    Ls {
        /// Conditions, as `key >= "job-" AND key < "job."`
        #[arg(long)]
        filter: Option<String>,
    },
    /// Show one cache
    Show {
        /// Its key
        key: String,
    },
    /// Store a value, whether or not there is one
    Set {
        /// Its key; made and printed when not said
        key: Option<String>,
        #[command(flatten)]
        value: Arguments,
        /// How long it is kept, as `1h`: 30 s when not said, at most 7 days
        #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
        ttl: Option<Duration>,
        /// Only in the place of this version
        #[arg(long, default_value = "", hide_default_value = true, requires = "key")]
        etag: String,
    },
    /// Remove one cache
    Rm {
        /// Its key
        key: String,
    },
    /// Remove every cache whose key begins so
    Flush {
        /// Beginning of the keys
        #[arg(required_unless_present = "all")]
        prefix: Option<String>,
        /// All of them
        #[arg(long, conflicts_with = "prefix")]
        all: bool,
    },
}
