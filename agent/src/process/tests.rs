//! An entity that is deleted while somebody asks for its process.

use std::{path::Path, time::Duration};

use goperation::{AgentStatus, EndpointName};
use goperation_harness::poll_until;
use goperation_store::{Options, SledStore};
use tempfile::TempDir;

use super::*;
use crate::{ports::PortRanges, state::EntityPhase};

const LONG: Duration = Duration::from_secs(60);

/// The processes of an agent whose entity `game` 1 is READY.
async fn with_entity() -> (Arc<Processes>, EntityKey, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "work_dir = {:?}\n[endpoints.game]\ndriver = \"process\"\n\
         [endpoints.game.process]\ncommand = [\"/bin/true\"]\n",
        folder.path().join("work")
    );
    let config = Config::from_toml(Path::new("a.toml"), &text).unwrap();
    let store = SledStore::open(Options::new(folder.path().join("store"))).unwrap();
    let core = Arc::new(Core::new(Arc::new(store), State::new(PortRanges::default())));
    let endpoints = Arc::new(Endpoints::new(&config));
    let processes = Arc::new(Processes::new(core, endpoints, Vec::new(), &config));
    let key = EntityKey { endpoint: EndpointName::parse("endpoint", "game").unwrap(), number: 1 };
    processes
        .core
        .change(Operation::CreateEntity, |state, txn| {
            assert_eq!(state.status, AgentStatus::Initializing);
            state.put_entity(&key, EntityPhase::Ready, txn);
            Ok(())
        })
        .await
        .unwrap();
    (processes, key, folder)
}

async fn delete(processes: &Processes, key: &EntityKey) {
    processes
        .core
        .change(Operation::DeleteEntity, |state, txn| {
            state.delete_entity(key, txn);
            processes.forget(key);
            Ok(())
        })
        .await
        .unwrap();
}

#[tokio::test]
async fn a_deletion_leaves_no_supervisor_behind() {
    let (processes, key, _folder) = with_entity().await;
    // As one that asks between the removal of the run folder and the end of the deletion.
    processes.leave(&key, false).await.unwrap();
    processes.remove(&key).await.unwrap();
    let shown = processes.status(&key).await.unwrap();
    assert_eq!(shown["state"], "STOPPED");
    assert_eq!(processes.slots().len(), 1);
    delete(&processes, &key).await;
    poll_until(LONG, "its supervisor ends", async || processes.tasks.is_empty()).await;
    assert_eq!(processes.slots().len(), 0);

    // As one that was let through before the deletion and comes after it.
    for error in [
        processes.status(&key).await.unwrap_err(),
        processes.ask(&key, Verb::Kill).await.unwrap_err(),
        processes.ask(&key, Verb::Start).await.unwrap_err(),
    ] {
        assert_eq!(error.reason, Reason::EntityNotFound, "{error}");
    }
    assert_eq!((processes.slots().len(), processes.tasks.len()), (0, 0));
    processes.close().await;
}

#[tokio::test]
async fn a_verb_that_its_supervisor_did_not_come_to_is_asked_for_again() {
    let (processes, key, _folder) = with_entity().await;
    for _ in 0..50 {
        // Whichever is first: the other one finds a supervisor that ends, or a new one.
        let (left, killed) =
            tokio::join!(processes.leave(&key, true), processes.ask(&key, Verb::Kill));
        left.unwrap();
        killed.unwrap();
    }
    processes.close().await;
    assert!(processes.tasks.is_empty());
}
