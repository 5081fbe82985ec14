//! `gop queue`.

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum QueueCommand {
    /// List queues
    Ls {
        /// Conditions, as `depth > 0`
        #[arg(long)]
        filter: Option<String>,
    },
    /// Show one queue
    Show {
        /// `cast.<type>.<host>`, `call.<type>.<host>`, `any.<type>`, `notify.<name>` or `dead`
        name: String,
    },
    /// List messages that could not be delivered, with the reason of each
    Dead {
        /// Conditions, as `reason = OVER_FINISHTIME`
        #[arg(long)]
        filter: Option<String>,
    },
}
