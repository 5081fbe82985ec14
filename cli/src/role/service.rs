//! What a role tells the service manager that started it (`sd_notify`): ready, stopping, alive.
//!
//! Invariant: without a service manager nothing is sent, and a message that is not taken ends
//! nothing. The variables stay in the environment: a program that takes over this process after
//! an upgrade has the same service manager.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::{
    task::{JoinHandle, spawn_blocking},
    time::MissedTickBehavior,
};
use tracing::{debug, warn};

/// The role does what it is for.
pub(super) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// What it does now, for a person.
pub(super) fn status(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// It ends.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Says that this process is alive, for as long as its runtime is, where the service manager wants
/// to hear it (`WatchdogSec=`).
pub(super) fn keep_alive() -> Option<JoinHandle<()>> {
    let limit = sd_notify::watchdog_enabled()?;
    // Twice in its time, as the service manager's own documentation advises.
    let step = (limit / 2).max(Duration::from_millis(1));
    debug!(?limit, "the service manager has a watchdog");
    Some(tokio::spawn(async move {
        let mut ticks = tokio::time::interval(step);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // Aside, so that a socket that takes nothing holds up nothing but this.
            let _ = spawn_blocking(|| tell(&[NotifyState::Watchdog])).await;
        }
    }))
}

/// A datagram to a local socket: it is taken at once, or not at all.
fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!(%error, "the service manager was not told");
    }
}
