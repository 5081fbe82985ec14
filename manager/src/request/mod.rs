//! Requests: one method for many agents, each of which is tracked until it is known what became of
//! it.
//!
//! A request is begun by `create`, from agents that `select` chooses, `expect` judges and
//! `rollout` puts into batches. From then on it has one owner, its `run` (which `registry` finds
//! or makes, and `keep` takes up again when it broke off): whatever happens to the request is an ask
//! to it, and it alone writes the record, the rows and the events. `rows` is what it knows, `deliver` sends, `hook` calls, `silence` says
//! why somebody has not answered. `feed` tells watchers (`watch`) how far the events are.
//!
//! Invariant: what an asker is told, and what a watcher sees, is durable.

mod cap;
mod create;
mod deliver;
mod expect;
mod feed;
mod hook;
mod index;
mod keep;
mod plan;
mod purge;
mod registry;
mod rollout;
mod rows;
mod run;
mod select;
mod silence;
mod stand;
mod tally;
mod verbs;
mod watch;

use goperation::{Ranges, Result, v1::RespondRequest};
use tokio::sync::oneshot;

pub(crate) use registry::Requests;

use crate::{db::Tx, record::RequestRecord};

/// What the run of a request is asked.
#[derive(Debug)]
pub(crate) enum Ask {
    /// An agent says how far it is. Its secret was checked.
    Respond(Box<RespondRequest>),
    /// Send to nobody any more.
    Cancel,
    /// Go on after a stop.
    Resume {
        /// Another limit of failures; as before without it.
        max_failures: Option<u32>,
    },
    /// Give up those that have not answered; only these.
    Overtime(Option<Ranges>),
}

/// What it answers, once that is durable.
#[derive(Debug)]
pub(crate) enum Told {
    /// Whether an answer has changed its row.
    Taken(bool),
    /// The request as it is then.
    Request(Box<RequestRecord>),
}

/// Writes, in the transaction of the effect, what a repeat of the ask is answered.
pub(crate) type Closing = Box<dyn Fn(&mut Tx, &RequestRecord) + Send + Sync>;

/// An ask, and where its answer goes.
struct Question {
    ask: Ask,
    closing: Option<Closing>,
    answer: oneshot::Sender<Result<Told>>,
}
