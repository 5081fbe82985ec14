//! `upgrade_agent`: the operator's package command under HARDBUSY, then a new start.
//!
//! Invariant: the outcome is told only after the restart that a success asks for; a crash in the
//! middle ends as INTERRUPTED and gives the status from before back.

use goperation::{Error, JsonObject, MessageId, Reason, Result};
use goperation_bridge::Message;
use goperation_store::Txn;
use serde_json::{Value, json};
use tracing::{info, warn};

use crate::{
    agent::Agent,
    job::{Ended, interrupted},
    journal::Outcome,
    package,
};

/// Where the outcome of a successful package command waits for the restart.
const KEY: &[u8] = b"upgrade";

impl Agent {
    /// Runs the package command.
    pub(crate) async fn upgrade(&self, id: &MessageId, file: &str) -> Ended {
        if let Err(error) = self.core.begin_upgrade().await {
            return Ended::Outcome(Err(error));
        }
        info!(file, "upgrade begins");
        let ran = package::run(&self.config, file).await;
        match ran {
            Ok(ran) if ran.ok => match self.keep_outcome(id, &ran).await {
                Ok(()) => {
                    info!("upgrade succeeded, starting anew");
                    self.restart.cancel();
                    Ended::AfterRestart
                }
                Err(error) => Ended::Outcome(Err(error)),
            },
            Ok(ran) => {
                let error = Error::new(
                    Reason::MethodFailed,
                    format!("the package command failed: {}; see {}", ran.exit, ran.log.display()),
                )
                .with("exit", &ran.exit)
                .with("log", ran.log.display())
                .with("output", &ran.tail);
                self.fail_upgrade(error).await
            }
            Err(error) => self.fail_upgrade(error).await,
        }
    }

    async fn fail_upgrade(&self, error: Error) -> Ended {
        warn!(%error, "upgrade failed");
        if let Err(stored) = self.core.end_upgrade("the upgrade failed").await {
            return Ended::Outcome(Err(stored));
        }
        Ended::Outcome(Err(error))
    }

    async fn keep_outcome(&self, id: &MessageId, ran: &package::Ran) -> Result<()> {
        let outcome = json!({
            "message_id": id.as_str(),
            "exit": ran.exit,
            "log": ran.log.display().to_string(),
            "version_before": env!("CARGO_PKG_VERSION"),
        });
        let txn = Txn::new().put(KEY, outcome.to_string().into_bytes());
        self.store.commit(txn).await.map_err(crate::error::store)?;
        Ok(())
    }

    /// After a start: the outcome of the upgrade that was running when the agent ended.
    pub(crate) async fn settle_upgrade(&self, message: &Message) -> Result<Outcome> {
        let kept = self.store.get(KEY.to_vec()).await.map_err(crate::error::store)?;
        let kept: Option<JsonObject> = kept
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .filter(|kept: &JsonObject| {
                kept.get("message_id").and_then(Value::as_str) == Some(message.id.as_str())
            });
        let outcome = match kept {
            Some(mut kept) => {
                kept.remove("message_id");
                kept.insert("version_after".to_owned(), env!("CARGO_PKG_VERSION").into());
                Ok(kept)
            }
            None => Err(interrupted(message)),
        };
        // The row stays until the next upgrade replaces it: this outcome is not journaled yet.
        Ok(outcome)
    }
}
