//! Brings an agent to where it shall stand, by the ways of real life: the manager's RPCs, or
//! `force_status` for what only an agent's own trouble makes.
//!
//! Invariant: done when the manager's record says so; every step may be repeated.

use std::{fmt, time::Duration};

use goperation::{
    AgentStatus, Error, Reason, Result,
    v1::{self, AgentState, agent_service_client::AgentServiceClient},
};
use goperation_agent::Handle;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Request, Response, Status, transport::Channel};
use tracing::{debug, warn};

use crate::Standing;

/// How often it is looked.
const LOOK: Duration = Duration::from_millis(50);
/// How long the manager may take.
const DEADLINE: Duration = Duration::from_secs(15);
/// How often it is said aloud that an agent does not stand where it shall.
const ALOUD: Duration = Duration::from_secs(30);

/// Returns when the agent stands there.
pub(crate) async fn settle(agent: &Handle, standing: Standing, manager: &Channel) {
    let mut aloud = Instant::now() + ALOUD;
    let mut say = |why: &dyn fmt::Display| {
        if Instant::now() >= aloud {
            aloud = Instant::now() + ALOUD;
            let (agent, standing) = (agent.agent_id(), standing.name());
            warn!(agent, standing, %why, "not settled, trying on");
        }
    };
    let id = loop {
        let id = agent.agent_id().and_then(|id| i32::try_from(id).ok());
        match id.filter(|_| agent.is_connected()) {
            Some(id) => break id,
            None => say(&"it is not registered, or hears nothing of the broker"),
        }
        sleep(LOOK).await;
    };
    loop {
        match step(agent, standing, manager, id).await {
            Ok(true) => return,
            Ok(false) => say(&format_args!(
                "it is {}, and the manager's record does not say so",
                *agent.watch_status().borrow()
            )),
            Err(error) => {
                debug!(agent = id, %error, "not settled");
                say(&error);
            }
        }
        sleep(LOOK).await;
    }
}

/// Returns when the manager's record says that the agent is gone.
pub(crate) async fn gone(id: u32, manager: &Channel) {
    let id = i32::try_from(id).unwrap_or(i32::MAX);
    loop {
        match show(manager, id).await {
            Ok(agent) if !agent.online => return,
            Err(error) if error.reason == Reason::AgentNotFound => return,
            Ok(_) => {}
            Err(error) => debug!(agent = id, %error, "not shown"),
        }
        sleep(LOOK).await;
    }
}

/// Does what is missing. True when nothing is.
async fn step(agent: &Handle, standing: Standing, manager: &Channel, id: i32) -> Result<bool> {
    let record = show(manager, id).await?;
    let now = *agent.watch_status().borrow();
    let wanted = status(standing);
    if record.status == wanted.number() && now == wanted {
        return Ok(record.online || standing == Standing::Deleted);
    }
    // Told by its next renewal, which is due at once.
    if now == wanted {
        return Ok(false);
    }
    let mut agents = AgentServiceClient::new(manager.clone());
    match standing {
        Standing::Active | Standing::Offline => {
            let active = v1::ActivateAgentRequest { id, state: AgentState::Active.into() };
            ask(agents.activate_agent(request(active))).await?;
        }
        Standing::Unactive => {
            let unactive = v1::ActivateAgentRequest { id, state: AgentState::Unactive.into() };
            ask(agents.activate_agent(request(unactive))).await?;
        }
        Standing::Deleted => {
            let delete = v1::DeleteAgentRequest { id, ..v1::DeleteAgentRequest::default() };
            ask(agents.delete_agent(request(delete))).await?;
        }
        Standing::SoftBusy | Standing::HardBusy | Standing::PerDelete => {
            // Not before its own start has set its first status.
            if now != AgentStatus::Initializing {
                agent.force_status(wanted, "emulated").await?;
            }
        }
    }
    Ok(false)
}

fn status(standing: Standing) -> AgentStatus {
    match standing {
        Standing::Active | Standing::Offline => AgentStatus::Active,
        Standing::Unactive => AgentStatus::Unactive,
        Standing::SoftBusy => AgentStatus::SoftBusy,
        Standing::HardBusy => AgentStatus::HardBusy,
        Standing::PerDelete => AgentStatus::PerDelete,
        Standing::Deleted => AgentStatus::Deleted,
    }
}

async fn show(manager: &Channel, id: i32) -> Result<v1::Agent> {
    let mut agents = AgentServiceClient::new(manager.clone());
    let shown = ask(agents.show_agent(request(v1::ShowAgentRequest { id }))).await?;
    shown.agent.ok_or_else(|| Error::new(Reason::Internal, "an agent without a record"))
}

fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(DEADLINE);
    request
}

async fn ask<T>(call: impl Future<Output = std::result::Result<Response<T>, Status>>) -> Result<T> {
    match timeout(DEADLINE, call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(Error::from_status(&status)),
        Err(_) => Err(Error::new(Reason::Unavailable, "the manager does not answer")),
    }
}
