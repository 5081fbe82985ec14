//! Renewals of leases.

use goperation::{
    AgentStatus, Error, Result, from_timestamp, to_timestamp,
    v1::{RenewAgentRequest, RenewAgentResponse},
};

use super::{
    App,
    register::{authorise, hash},
};
use crate::{check, keys, lease::Renewed, record::AgentRecord, roster::Said};

/// The status that a renewal carries, with what made it.
#[derive(Debug)]
struct Told {
    status: AgentStatus,
    cause: Option<String>,
    time: u64,
}

impl Told {
    /// Takes it into the record, and says whether that changed anything.
    fn apply(&self, record: &mut AgentRecord) -> bool {
        match &self.cause {
            Some(cause) => record.set_status(self.status, cause, self.time),
            None if record.status == self.status.number() => false,
            None => record.set_status(self.status, "reported by the agent", self.time),
        }
    }
}

impl App {
    pub(crate) async fn renew_agent(
        &self,
        q: RenewAgentRequest,
        now: u64,
    ) -> Result<RenewAgentResponse> {
        let id = check::number("id", q.id)?;
        let mut answer = RenewAgentResponse {
            time: Some(to_timestamp(now)),
            lease: prost_types::Duration::try_from(self.leases.term()).ok(),
            sync: false,
            deleted: false,
        };
        let said = Said {
            status: q.status,
            generation: q.generation,
            manager_generation: q.manager_generation,
        };
        // Nearly all renewals bring nothing new, and of all agents there are very many: their records
        // are not read for that.
        if q.transitions.is_empty() && self.db.roster.says(id, &hash(&q.secret), said) {
            answer.sync = self.renew_lease(id, &q, now).sync;
            return Ok(answer);
        }
        let record = self.agent_record(id).await?;
        authorise(&record, &q.secret)?;
        if record.deleted {
            if q.stopping {
                self.leases.end(id);
                self.deletes.notify_one();
            }
            answer.deleted = true;
            return Ok(answer);
        }
        let status = AgentStatus::from_number(q.status)
            .ok_or_else(|| Error::invalid("status", "must be 1, 0, -10, -20, -30, -127 or -128"))?;
        let renewed = self.renew_lease(id, &q, now);

        let last = q.transitions.last();
        let told = Told {
            status,
            cause: last.map(|last| last.cause.clone()),
            time: last.and_then(|last| last.time.as_ref()).map_or(now, from_timestamp),
        };
        let mut record = record;
        if !renewed.stale && told.apply(&mut record.clone()) {
            let mut tx = self.db.begin();
            record = loop {
                let mut record = super::live_agent(&mut tx, id).await?;
                if told.apply(&mut record) {
                    record.touch(now);
                    tx.put(keys::agent(id), &record);
                }
                if tx.commit().await? {
                    break record;
                }
            };
        }
        answer.sync = renewed.sync
            || q.generation != record.agent_generation
            || q.manager_generation != record.manager_generation;
        Ok(answer)
    }

    /// Notes the agent's clock with it. The lease of one that stops is over.
    fn renew_lease(&self, id: u32, q: &RenewAgentRequest, now: u64) -> Renewed {
        let offset = match (q.clock_offset, q.time) {
            (Some(offset), _) => {
                offset.seconds.saturating_mul(1000) + i64::from(offset.nanos) / 1_000_000
            }
            (None, Some(time)) => {
                let (theirs, ours) = (from_timestamp(&time), now);
                i64::try_from(theirs).unwrap_or(i64::MAX) - i64::try_from(ours).unwrap_or(i64::MAX)
            }
            (None, None) => self.leases.seen(id).map_or(0, |seen| seen.clock_offset),
        };
        let renewed = self.leases.renew(id, offset, now);
        if q.stopping {
            self.leases.end(id);
        }
        renewed
    }
}
