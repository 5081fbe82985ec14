//! The stream of a request, which is watched on from its last event whenever the manager is back.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use goperation::{Reason, v1};
use tokio::{sync::watch, task::JoinHandle, time::sleep};

use crate::{procs::Clients, requests::stage::summary};

/// While nobody answers.
const AGAIN: Duration = Duration::from_millis(20);

type Events = Arc<Mutex<Vec<v1::WatchRequestResponse>>>;

/// What the stream of a request has said so far.
pub(super) struct Watched {
    events: Events,
    task: JoinHandle<()>,
}

impl Watched {
    /// Watches a request from its first event on; `told` counts the events of all.
    pub(super) fn start(clients: Clients, id: String, told: Arc<watch::Sender<usize>>) -> Self {
        let events = Events::default();
        let task = tokio::spawn(follow(clients, id, Arc::clone(&events), told));
        Self { events, task }
    }

    pub(super) fn events(&self) -> MutexGuard<'_, Vec<v1::WatchRequestResponse>> {
        assert!(!self.task.is_finished(), "the stream was refused");
        self.events.lock().unwrap()
    }

    /// Whether the summary was told.
    pub(super) fn has_ended(&self) -> bool {
        self.events().iter().any(|event| summary(event).is_some())
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(clients: Clients, id: String, events: Events, told: Arc<watch::Sender<usize>>) {
    loop {
        let cursor = events.lock().unwrap().last().map_or(String::new(), |e| e.cursor.clone());
        match clients.watch(&id, &cursor, true).await {
            Ok(mut stream) => {
                while let Ok(Some(event)) = stream.message().await {
                    events.lock().unwrap().push(event);
                    told.send_modify(|count| *count += 1);
                }
            }
            // What was told was durable, so it is there after every kill.
            Err(error) => assert!(
                !matches!(error.reason, Reason::InvalidArgument | Reason::RequestNotFound),
                "{cursor:?} of {id}: {error:?}"
            ),
        }
        // It is asked again, not waited for.
        sleep(AGAIN).await;
    }
}

/// All events of a request from its first up to that one, in one stream.
pub(super) async fn up_to(
    clients: &Clients,
    id: &str,
    cursor: &str,
) -> Vec<v1::WatchRequestResponse> {
    let mut stream = clients.watch(id, "", true).await.unwrap();
    let mut events = Vec::new();
    while let Some(event) = stream.message().await.unwrap() {
        let last = event.cursor == cursor;
        events.push(event);
        if last {
            return events;
        }
    }
    panic!("the stream of {id} ended before {cursor}");
}
