//! The manager: the control plane, its store of record, and the way to the bridge.
//!
//! Invariant: every answer is about what is durable; what is in memory is only what renewals tell
//! anew. [`run`] returns when nothing of it goes on.

mod app;
mod bridge_link;
mod check;
mod config;
mod connection;
mod db;
mod error;
mod etag;
mod filter;
mod keys;
mod lease;
mod listen;
mod mask;
mod numbers;
mod page;
mod placement;
mod reconcile;
mod record;
mod request;
mod roster;
mod rpc;
mod server;
mod service;
mod turns;

use std::sync::Arc;

use goperation_store::Store;
use tokio::{
    net::TcpListener,
    sync::{Notify, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use bridge_link::BridgeLink;
pub use config::{BridgeAt, Config, Durability, HooksConfig, RequestsConfig};
pub use error::Error;
pub use goperation_rest::{Config as HttpConfig, NotAnOrigin, Origin};

use crate::{app::App, db::Db, lease::Leases, service::Services};

/// What a manager is put together from. Whoever made them closes them after [`run`].
#[derive(Debug)]
pub struct Parts {
    /// The store of record. The manager's keys are below `m/`.
    pub store: Arc<dyn Store>,
    /// The way to the bridge.
    pub bridge: BridgeLink,
}

/// Runs a manager on a listener until `shutdown`, then drains for at most `config.drain`.
/// `listen`, `data_dir`, `durability`, `bridge`, `broker` and `limits` of the configuration are for whoever
/// makes the listener and the parts.
///
/// # Errors
/// When the record cannot be read at the start, when the store fails, or when the server does.
pub async fn run(
    config: Config,
    listener: TcpListener,
    parts: Parts,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let app = Arc::new(App {
        db: Db::new(parts.store),
        link: parts.bridge,
        leases: Leases::new(config.lease),
        call_timeout: config.call_timeout,
        reports_kept: config.reports_kept.into(),
        requests: request::Requests::new(&config.requests),
        watches: Arc::new(Semaphore::new(
            usize::try_from(config.requests.max_watches).unwrap_or(usize::MAX >> 3),
        )),
        request_rules: config.requests,
        tasks: TaskTracker::new(),
        stop: shutdown.child_token(),
        abort: CancellationToken::new(),
        deletes: Notify::new(),
        queues: Notify::new(),
        queue_places: Semaphore::new(app::agent_queues::AT_A_TIME),
        numbers: numbers::Numbers::default(),
        turns: turns::Turns::default(),
        upgrades: app::Upgrades::default(),
    });
    app.db.read_roster().await.map_err(Error::Record)?;
    app.drop_broken_deletes().await.map_err(Error::Record)?;
    app.resume_requests().await.map_err(Error::Record)?;
    let watch = async {
        tokio::select! {
            () = app.db.broke() => app.stop.cancel(),
            () = app.stop.cancelled() => {}
        }
    };
    let serve = server::serve(Services(app.clone()), listener, config.http, config.drain);
    let (served, (), ()) = tokio::join!(serve, app.chores(), watch);
    // Connections are gone, so nobody asks for another run.
    app.requests.close().await;
    match app.db.broken() {
        Some(error) => Err(Error::Store(error)),
        None => served,
    }
}
