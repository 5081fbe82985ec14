//! Queues: those of agents made and removed, and what can be seen of all.

use goperation::{
    AgentType, EndpointName, Error, HostName, Reason, json_to_struct, to_timestamp, v1,
};
use prost::Message as _;

use crate::{
    Address, Bridge, DeadLetter, QueueInfo, QueueName,
    conditions::Conditions,
    error::{self, Fields},
};

/// Rows when none are said.
const DEFAULT_PAGE: usize = 100;
/// Rows at most.
const MAX_PAGE: usize = 1000;
/// Dead letters that a filter looks through.
const MAX_SCAN: usize = 10_000;
/// A page of dead letters ends before it has more bytes than that.
const MAX_PAGE_BYTES: usize = 2 << 20;

/// Reads the size of a page.
fn page_size(fields: &mut Fields, size: i32) -> usize {
    match usize::try_from(size) {
        Ok(0) => DEFAULT_PAGE,
        Ok(size) => size.min(MAX_PAGE),
        Err(_) => {
            fields.bad("page_size", "must not be negative");
            0
        }
    }
}

fn address(fields: &mut Fields, agent_type: &str, host: &str) -> Option<Address> {
    let agent_type = fields.take(AgentType::parse("type", agent_type));
    let host = fields.take(HostName::parse("host", host));
    Some(Address { agent_type: agent_type?, host: host? })
}

fn endpoints(fields: &mut Fields, field: &str, names: &[String]) -> Vec<EndpointName> {
    let parse = |(i, name): (usize, &String)| {
        fields.take(EndpointName::parse(&format!("{field}[{i}]"), name))
    };
    names.iter().enumerate().filter_map(parse).collect()
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn to_queue(name: &QueueName, info: Option<&QueueInfo>) -> v1::Queue {
    let number = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
    v1::Queue {
        name: name.to_string(),
        exists: info.is_some(),
        depth: info.map_or(0, |info| number(info.depth)),
        consumers: info.map_or(0, |info| number(info.consumers)),
    }
}

impl Bridge {
    /// Makes the queues of an agent and the shared one of its type, and binds them to exactly
    /// these endpoints.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming every bad field, `BROKER_UNAVAILABLE`, `INTERNAL`.
    pub async fn create_agent_queues(
        &self,
        request: &v1::CreateAgentQueuesRequest,
    ) -> Result<(), Error> {
        let mut fields = Fields::default();
        let agent = address(&mut fields, &request.r#type, &request.host);
        let bound = endpoints(&mut fields, "endpoints", &request.endpoints);
        let former = endpoints(&mut fields, "former_endpoints", &request.former_endpoints);
        if let Some(error) = fields.error() {
            return Err(error);
        }
        let agent = agent.ok_or_else(unnamed)?;
        let former: Vec<_> = former.into_iter().filter(|name| !bound.contains(name)).collect();
        self.inner.transport.ensure_type(&agent.agent_type).await?;
        self.inner.transport.ensure_agent(&agent, &bound, &former).await?;
        self.inner.remember([
            QueueName::Any(agent.agent_type.clone()),
            QueueName::AnyCall(agent.agent_type.clone()),
            QueueName::Cast(agent.clone()),
            QueueName::Call(agent),
        ]);
        Ok(())
    }

    /// Removes the queues of an agent; answers how many messages became dead letters.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming every bad field, `BROKER_UNAVAILABLE`, `INTERNAL`.
    pub async fn delete_agent_queues(
        &self,
        request: &v1::DeleteAgentQueuesRequest,
    ) -> Result<v1::DeleteAgentQueuesResponse, Error> {
        let mut fields = Fields::default();
        let agent = address(&mut fields, &request.r#type, &request.host);
        if let Some(error) = fields.error() {
            return Err(error);
        }
        let agent = agent.ok_or_else(unnamed)?;
        let drained = self.inner.transport.remove_agent(&agent).await?;
        self.inner.forget(&[QueueName::Cast(agent.clone()), QueueName::Call(agent)]);
        Ok(v1::DeleteAgentQueuesResponse { drained: i32::try_from(drained).unwrap_or(i32::MAX) })
    }

    /// Lists the queues that this bridge has made or used since it started, by name.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming every bad field, `BROKER_UNAVAILABLE`.
    pub async fn index_queues(
        &self,
        request: &v1::IndexQueuesRequest,
    ) -> Result<v1::IndexQueuesResponse, Error> {
        let mut fields = Fields::default();
        let size = page_size(&mut fields, request.page_size);
        let read = Conditions::parse(&request.filter, &["name", "depth", "consumers"]);
        let conditions = fields.take(read).unwrap_or_default();
        if let Some(error) = fields.error() {
            return Err(error);
        }
        let seen = self.inner.seen();
        let mut names: Vec<_> = seen.iter().map(|name| (name.to_string(), name)).collect();
        names.retain(|(text, _)| conditions.hold("name", text));
        names.sort_unstable();
        let by_state = conditions.uses("depth") || conditions.uses("consumers");
        let mut total = names.len();
        let mut queues = Vec::new();
        let mut more = false;
        if by_state {
            total = 0;
        }
        for (text, name) in names {
            let after = text > request.page_token;
            if !after && !by_state {
                continue;
            }
            if queues.len() == size && !by_state {
                more = true;
                break;
            }
            let queue = to_queue(name, self.inner.transport.queue(name).await?.as_ref());
            let holds = conditions.hold("depth", &queue.depth.to_string())
                && conditions.hold("consumers", &queue.consumers.to_string());
            if !holds {
                continue;
            }
            total += usize::from(by_state);
            match (after, queues.len() < size) {
                (true, true) => queues.push(queue),
                (true, false) => more = true,
                (false, _) => {}
            }
        }
        let last = queues.last().filter(|_| more).map(|queue| queue.name.clone());
        Ok(v1::IndexQueuesResponse {
            queues,
            next_page_token: last.unwrap_or_default(),
            total_size: count(total),
        })
    }

    /// One queue.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a bad name, `QUEUE_NOT_FOUND`, `BROKER_UNAVAILABLE`.
    pub async fn show_queue(&self, request: &v1::ShowQueueRequest) -> Result<v1::Queue, Error> {
        let name = QueueName::parse("name", &request.name)?;
        match self.inner.transport.queue(&name).await? {
            Some(info) => Ok(to_queue(&name, Some(&info))),
            None => Err(error::queue_not_found(&format!("queue {name}"))),
        }
    }

    /// Lists dead letters, oldest first. The page token counts letters from the oldest one: when
    /// the oldest give way to new ones meanwhile, the next page may leave some out.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming every bad field, `BROKER_UNAVAILABLE`.
    pub async fn index_dead_letters(
        &self,
        request: &v1::IndexDeadLettersRequest,
    ) -> Result<v1::IndexDeadLettersResponse, Error> {
        const FIELDS: [&str; 5] = ["queue", "reason", "namespace", "method", "message_id"];
        let mut fields = Fields::default();
        let size = page_size(&mut fields, request.page_size);
        let conditions =
            fields.take(Conditions::parse(&request.filter, &FIELDS)).unwrap_or_default();
        let start = match request.page_token.as_str() {
            "" => 0,
            token => token.parse::<usize>().unwrap_or_else(|_| {
                fields.bad("page_token", "is not the next_page_token of a page");
                0
            }),
        };
        if let Some(error) = fields.error() {
            return Err(error);
        }
        let transport = &self.inner.transport;
        let limit = if conditions.is_empty() { start.saturating_add(size) } else { MAX_SCAN };
        let letters = transport.dead_letters(limit.min(MAX_SCAN)).await?;
        let depth = transport.queue(&QueueName::Dead).await?.map_or(0, |info| info.depth);
        let total = letters.len().max(usize::try_from(depth).unwrap_or(usize::MAX));
        let (mut page, mut bytes, mut next) = (Vec::new(), 0, start);
        for letter in letters.into_iter().skip(start) {
            if page.len() >= size {
                break;
            }
            if matches(&letter, &conditions) {
                let letter = to_letter(letter);
                bytes += letter.encoded_len();
                if bytes > MAX_PAGE_BYTES && !page.is_empty() {
                    break;
                }
                page.push(letter);
            }
            next += 1;
        }
        let more = next < total.min(MAX_SCAN) && !page.is_empty();
        Ok(v1::IndexDeadLettersResponse {
            dead_letters: page,
            next_page_token: if more { next.to_string() } else { String::new() },
            total_size: count(total),
        })
    }
}

fn unnamed() -> Error {
    Error::new(Reason::Internal, "a bad field was not named")
}

fn matches(letter: &DeadLetter, conditions: &Conditions) -> bool {
    conditions.hold("queue", &letter.queue)
        && conditions.hold("reason", &letter.reason)
        && conditions.hold("namespace", &letter.namespace)
        && conditions.hold("method", &letter.method)
        && conditions.hold("message_id", &letter.message_id)
}

fn to_letter(letter: DeadLetter) -> v1::DeadLetter {
    v1::DeadLetter {
        message_id: letter.message_id,
        queue: letter.queue,
        reason: letter.reason,
        namespace: letter.namespace,
        method: letter.method,
        // One that cannot be shown without rounding is listed without its body.
        body: json_to_struct("body", &letter.body).ok(),
        time: Some(to_timestamp(letter.time)),
    }
}
