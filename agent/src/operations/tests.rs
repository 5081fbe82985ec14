//! Rows of the table that no message can bring about: another number, and refusals that the gate
//! keeps messages from.

use goperation::EndpointName;
use goperation_store::{Options, Row, SledStore};
use tempfile::TempDir;

use super::*;
use crate::{
    ports::PortRanges,
    state::{EntityKey, EntityPhase, Upgrade, scan_all},
};

const HOUR: Duration = Duration::from_secs(3600);

struct Agent {
    core: Core,
    store: SledStore,
    _folder: TempDir,
}

impl Agent {
    /// Number 7, with that status.
    async fn of(status: AgentStatus) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SledStore::open(Options::new(folder.path())).unwrap();
        let core = Core::new(std::sync::Arc::new(store.clone()), State::new(PortRanges::default()));
        core.set_agent_id(7).await.unwrap();
        let agent = Self { core, store, _folder: folder };
        agent.force(status).await;
        agent
    }

    async fn force(&self, status: AgentStatus) {
        self.core
            .change(Operation::ForceStatus, |state, txn| {
                state.force_status(status, because("test", AGENT), txn);
                Ok(())
            })
            .await
            .unwrap();
        assert_eq!(self.core.status(), status);
    }

    async fn rows(&self) -> Vec<Row> {
        scan_all(&self.store).await.unwrap()
    }

    /// Asserts that an operation is refused and leaves memory and disk as they were.
    async fn refuses<T: std::fmt::Debug>(
        &self,
        reason: Reason,
        operation: impl Future<Output = Result<T>>,
    ) {
        let (rows, status) = (self.rows().await, self.core.status());
        let error = operation.await.unwrap_err();
        assert_eq!(error.reason, reason, "{error}");
        assert_eq!((self.rows().await, self.core.status()), (rows, status), "{error}");
    }
}

fn secret(text: &str) -> Secret {
    Secret::parse("secret", text).unwrap()
}

const ONE: &str = "a-secret-of-the-one-precommit-000";
const OTHER: &str = "a-secret-of-another-precommit-000";

#[tokio::test]
async fn the_number_is_set_once() {
    let agent = Agent::of(AgentStatus::Active).await;
    agent.core.set_agent_id(7).await.unwrap();
    agent.refuses(Reason::StateRefused, agent.core.set_agent_id(8)).await;
    let rows = agent.rows().await;
    assert_eq!(State::load(PortRanges::default(), &rows).unwrap().agent_id, Some(7));
}

#[tokio::test]
async fn what_sets_a_status_is_refused_below_softbusy() {
    let agent = Agent::of(AgentStatus::Active).await;
    for status in AgentStatus::ALL.into_iter().filter(|s| *s < AgentStatus::SoftBusy) {
        agent.force(status).await;
        let core = &agent.core;
        let refused = Reason::StateRefused;
        agent.refuses(refused, core.active_agent(AgentStatus::Active, 7)).await;
        agent.refuses(refused, core.active_agent(AgentStatus::Unactive, 7)).await;
        agent.refuses(refused, core.pause(Pause::Operator)).await;
        agent.refuses(refused, core.pause(Pause::Bound)).await;
        agent.refuses(refused, core.resume(Pause::Operator)).await;
        agent.refuses(refused, core.begin_upgrade(Upgrade::default())).await;
        agent.refuses(Reason::AgentNotActive, core.is_active()).await;
        agent
            .refuses(
                refused,
                core.change(Operation::SetStatus, |state, txn| {
                    state.set_status(AgentStatus::Active, because("test", AGENT), txn)
                }),
            )
            .await;
    }
    // `force_status` leaves every one of them.
    agent.force(AgentStatus::Active).await;
    agent.core.is_active().await.unwrap();
}

#[tokio::test]
async fn a_precommit_is_refused_at_and_below_softbusy_and_with_entities() {
    let agent = Agent::of(AgentStatus::Active).await;
    for status in AgentStatus::ALL.into_iter().filter(|s| *s <= AgentStatus::SoftBusy) {
        agent.force(status).await;
        agent.refuses(Reason::StateRefused, agent.core.precommit(7, secret(ONE), HOUR)).await;
    }
    agent.force(AgentStatus::Unactive).await;
    agent.refuses(Reason::StateRefused, agent.core.precommit(8, secret(ONE), HOUR)).await;
    // An entity whose create has only begun counts.
    let endpoint = EndpointName::parse("endpoint", "game").unwrap();
    let key = EntityKey { endpoint, number: 3 };
    let put = |state: &mut State, txn: &mut _| {
        state.put_entity(&key, EntityPhase::Creating, txn);
        Ok(())
    };
    agent.core.change(Operation::CreateEntity, put).await.unwrap();
    agent.refuses(Reason::EntitiesRemain, agent.core.precommit(7, secret(ONE), HOUR)).await;
    let delete = |state: &mut State, txn: &mut _| {
        state.delete_entity(&key, txn);
        Ok(())
    };
    agent.core.change(Operation::DeleteEntity, delete).await.unwrap();
    agent.core.precommit(7, secret(ONE), HOUR).await.unwrap();
    assert_eq!(agent.core.status(), AgentStatus::PerDelete);
}

#[tokio::test]
async fn a_postcommit_needs_perdelete_and_the_secret() {
    let agent = Agent::of(AgentStatus::Active).await;
    agent.refuses(Reason::StateRefused, agent.core.postcommit(7, &secret(ONE))).await;
    agent.core.precommit(7, secret(ONE), HOUR).await.unwrap();
    agent.core.precommit(7, secret(ONE), HOUR).await.unwrap();
    agent.refuses(Reason::StateRefused, agent.core.precommit(7, secret(OTHER), HOUR)).await;
    agent.refuses(Reason::StateRefused, agent.core.postcommit(7, &secret(OTHER))).await;
    agent.refuses(Reason::StateRefused, agent.core.postcommit(8, &secret(ONE))).await;
    // Forced out of PERDELETE, the secret alone is not enough.
    agent.force(AgentStatus::Active).await;
    agent.refuses(Reason::StateRefused, agent.core.postcommit(7, &secret(ONE))).await;
    agent.core.precommit(7, secret(ONE), HOUR).await.unwrap();
    assert_eq!(agent.core.status(), AgentStatus::PerDelete);
    agent.core.postcommit(7, &secret(ONE)).await.unwrap();
    assert_eq!(agent.core.status(), AgentStatus::Deleted);
    agent.core.postcommit(7, &secret(ONE)).await.unwrap();
}

#[tokio::test]
async fn a_precommit_lapses_to_the_status_from_before() {
    let agent = Agent::of(AgentStatus::Active).await;
    agent.core.precommit(7, secret(ONE), HOUR).await.unwrap();
    let due = agent.core.lapse().await.unwrap().unwrap();
    assert!(due > now_millis());
    assert_eq!(agent.core.status(), AgentStatus::PerDelete);
    agent.force(AgentStatus::Active).await;
    agent.core.precommit(7, secret(ONE), Duration::ZERO).await.unwrap();
    assert_eq!(agent.core.lapse().await.unwrap(), None);
    assert_eq!(agent.core.status(), AgentStatus::Active);
    agent.refuses(Reason::StateRefused, agent.core.postcommit(7, &secret(ONE))).await;
}
