//! Which agents suit a new entity, as they are on record.

use goperation::{
    EndpointName, Result,
    v1::{ChooseRequest, ChooseResponse},
};

use super::App;
use crate::{
    check::{Violations, no_endpoint},
    keys,
    placement::{Choice, Host, Wish},
    record::AgentRecord,
};

impl App {
    pub(crate) async fn choose(&self, q: ChooseRequest, now: u64) -> Result<ChooseResponse> {
        let mut bad = Violations::default();
        let name = bad.take(EndpointName::parse("name", &q.name));
        let wish = Wish::read(&mut bad, &q.includes, &q.weighters);
        let limit = usize::try_from(q.limit);
        if limit.is_err() {
            bad.add("limit", "must be 0 for all, or how many");
        }
        let (Some(name), Ok(limit)) = (name, limit) else { return Err(bad.error()) };
        bad.finish()?;
        let Choice { mut candidates, left_out } = self.choice(name.as_str(), &wish, now).await?;
        if limit > 0 {
            candidates.truncate(limit);
        }
        Ok(ChooseResponse { candidates, left_out })
    }

    /// Chooses among all agents that have the endpoint. It changes nothing and holds nothing: what
    /// it says may be over when somebody acts on it.
    ///
    /// # Errors
    /// `ENDPOINT_NOT_FOUND` when no agent has it.
    pub(super) async fn choice(&self, endpoint: &str, wish: &Wish, now: u64) -> Result<Choice> {
        let mut hosts = Vec::new();
        for key in self.db.keys(keys::agents_of(endpoint)).await? {
            let Some(id) = keys::last_number(&key) else { continue };
            let Some(agent) = self.db.get::<AgentRecord>(keys::agent(id)).await? else { continue };
            // It may have lost the endpoint since the scan.
            if agent.deleted || agent.endpoints.iter().all(|has| has.name != endpoint) {
                continue;
            }
            let entities = self.db.keys(keys::entities_on(id)).await?.len();
            hosts.push(Host {
                online: self.leases.seen(id).is_some_and(|seen| seen.online),
                entities: u32::try_from(entities).unwrap_or(u32::MAX),
                agent,
            });
        }
        if hosts.is_empty() {
            return Err(no_endpoint(endpoint));
        }
        Ok(wish.choose(&hosts, now))
    }
}
