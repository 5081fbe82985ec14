//! Entities as an operator sees and edits them.

use std::time::Duration;

use goperation::{
    EndpointName, Error, JsonObject, MessageId, Result, json_to_struct, now_millis,
    v1::{
        EditEntityRequest, EditEntityResponse, Entity, IndexEntitiesRequest, IndexEntitiesResponse,
        NewEntityResponse, StatusEntityResponse, UpdateEntityRequest,
    },
};

use super::{App, once::Seal, process_json};
use crate::{
    bridge_link::Call,
    check::{self, Violations},
    etag,
    filter::{Cell, Field, Filter, Kind, Row},
    keys,
    mask::{self, Change},
    page::Ask,
    record::EntityRecord,
};

const FIELDS: &[Field] = &[
    Field("endpoint", Kind::Text),
    Field("number", Kind::Number),
    Field("agent_id", Kind::Number),
    Field("state", Kind::Name(&["CREATING", "READY", "DELETING", "FAILED", "LOST"])),
    Field("labels", Kind::Labels),
];

impl Row for EntityRecord {
    fn cell(&self, field: &str) -> Cell<'_> {
        match field {
            "endpoint" => Cell::Text(&self.endpoint),
            "number" => Cell::Number(self.number.into()),
            "agent_id" => Cell::Number(self.agent.into()),
            "state" => Cell::Text(self.state().name()),
            _ => Cell::None,
        }
    }

    fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key).map(String::as_str)
    }
}

/// The name of an entity, checked.
pub(super) fn name(
    (endpoint_field, endpoint): (&str, &str),
    (number_field, number): (&str, i32),
) -> Result<(EndpointName, u32)> {
    let mut bad = Violations::default();
    let endpoint = bad.take(EndpointName::parse(endpoint_field, endpoint));
    let number = bad.take(check::number(number_field, number));
    match (endpoint, number) {
        (Some(endpoint), Some(number)) => Ok((endpoint, number)),
        _ => Err(bad.error()),
    }
}

impl App {
    pub(super) async fn entity_record(&self, endpoint: &str, number: u32) -> Result<EntityRecord> {
        self.db
            .get(keys::entity(endpoint, number))
            .await?
            .ok_or_else(|| check::no_entity(endpoint, number))
    }

    /// The entities on an agent.
    pub(super) async fn entities_on(&self, agent: u32) -> Result<Vec<EntityRecord>> {
        let mut records = Vec::new();
        for key in self.db.keys(keys::entities_on(agent)).await? {
            let Some((_, endpoint, number)) = keys::split_entity_on(&key) else { continue };
            // Deleted since the keys were read.
            let Some(record) = self.db.get(keys::entity(&endpoint, number)).await? else {
                continue;
            };
            records.push(record);
        }
        Ok(records)
    }

    pub(crate) async fn index_entities(
        &self,
        q: IndexEntitiesRequest,
    ) -> Result<IndexEntitiesResponse> {
        let agent = q.agent_id.to_string();
        let query = ["entities", q.endpoint.as_str(), agent.as_str(), q.filter.as_str()];
        let ask = Ask::new(q.page_size, &q.page_token, &query);
        let (ask, filter) = check::both(ask, Filter::parse(&q.filter, FIELDS))?;
        let endpoint = match q.endpoint.as_str() {
            "" => None,
            name => Some(EndpointName::parse("endpoint", name)?),
        };
        let records: Vec<EntityRecord> = match (&endpoint, q.agent_id) {
            (_, id) if id != 0 => {
                let id = self.agent_record(check::number("agent_id", id)?).await?.id;
                self.entities_on(id).await?
            }
            (endpoint, _) => {
                let prefix = endpoint
                    .as_ref()
                    .map_or(keys::ENTITIES.to_vec(), |name| keys::entities_of(name.as_str()));
                self.db.all(prefix).await?.into_iter().map(|(_, record)| record).collect()
            }
        };
        let rows = records
            .into_iter()
            .filter(|record| endpoint.as_ref().is_none_or(|e| e.as_str() == record.endpoint))
            .filter(|record| filter.passes(record))
            .map(|record| (keys::entity(&record.endpoint, record.number), record));
        let page = ask.cut(rows.collect(), false);
        Ok(IndexEntitiesResponse {
            entities: page.rows.iter().map(EntityRecord::to_api).collect(),
            next_page_token: page.next,
            total_size: page.total,
        })
    }

    pub(crate) fn new_entity(endpoint: &str) -> Result<NewEntityResponse> {
        let endpoint = EndpointName::parse("endpoint", endpoint)?;
        let mut constraints = mask::constraints();
        for (field, text) in [
            ("agent_id", "number of an agent that has the endpoint; 0 for the best one".to_owned()),
            ("includes", "only for the best one: conditions, each KEY OP VALUE".to_owned()),
            ("weighters", "only for the best one: what comes first, each KEY or KEY/N".to_owned()),
            ("idempotency_key", "at most 128 printable characters".to_owned()),
            (
                "ports",
                format!(
                    "at most {} together; port 0 for any, count only with any, protocol TCP, UDP \
                     or BOTH (default), a name of at most {} characters",
                    check::PORT_COUNT,
                    check::PORT_NAME
                ),
            ),
            ("args", "arguments of the endpoint's create method".to_owned()),
        ] {
            constraints.insert(field.to_owned(), text);
        }
        let entity = Entity { endpoint: endpoint.to_string(), ..Entity::default() };
        Ok(NewEntityResponse { entity: Some(entity), constraints })
    }

    pub(crate) async fn show_entity(&self, endpoint: &str, number: i32) -> Result<Entity> {
        let (endpoint, number) = name(("endpoint", endpoint), ("number", number))?;
        Ok(self.entity_record(endpoint.as_str(), number).await?.to_api())
    }

    pub(crate) async fn update_entity(&self, q: UpdateEntityRequest, now: u64) -> Result<Entity> {
        let entity = q.entity.ok_or_else(|| Error::invalid("entity", "must be given"))?;
        let change = Change::whole("entity", &entity.description, &entity.labels)?;
        self.change_entity(&entity, &change, now, None).await
    }

    pub(crate) async fn edit_entity(
        &self,
        q: EditEntityRequest,
        now: u64,
        seal: Option<&Seal>,
    ) -> Result<Entity> {
        let entity = q.entity.ok_or_else(|| Error::invalid("entity", "must be given"))?;
        let mask = q.update_mask.as_ref();
        let change = Change::masked("entity", mask, &entity.description, &entity.labels, &[])?;
        self.change_entity(&entity, &change, now, seal).await
    }

    async fn change_entity(
        &self,
        entity: &Entity,
        change: &Change,
        now: u64,
        seal: Option<&Seal>,
    ) -> Result<Entity> {
        let (endpoint, number) =
            name(("entity.endpoint", &entity.endpoint), ("entity.number", entity.number))?;
        let key = keys::entity(endpoint.as_str(), number);
        let mut tx = self.db.begin();
        loop {
            let mut record: EntityRecord = tx
                .get(key.clone())
                .await?
                .ok_or_else(|| check::no_entity(endpoint.as_str(), number))?;
            let what = format!("entity {number} of {endpoint}");
            etag::check(&entity.etag, &record.etag(), &what)?;
            if change.apply(&mut record.description, &mut record.labels) {
                record.touch(now);
                tx.put(key.clone(), &record);
            }
            let view = record.to_api();
            if let Some(seal) = seal {
                seal.end(&mut tx, &EditEntityResponse { entity: Some(view.clone()) });
            }
            if tx.commit().await? {
                return Ok(view);
            }
        }
    }

    pub(crate) async fn status_entity(
        &self,
        endpoint: &str,
        number: i32,
        wait: Duration,
    ) -> Result<StatusEntityResponse> {
        let (endpoint, number) = name(("endpoint", endpoint), ("number", number))?;
        let record = self.entity_record(endpoint.as_str(), number).await?;
        let agent = self.agent_record(record.agent).await?;
        let mut args = JsonObject::new();
        args.insert("entity".to_owned(), number.into());
        let (to, id) = (agent.to(), MessageId::generate());
        let call = Call {
            to: &to,
            namespace: endpoint.as_str(),
            method: "status_entity",
            args,
            id: &id,
            finish: None,
        };
        let answer = self.link.call(call, now_millis(), wait).await.map_err(|error| {
            error.with("agent", record.agent).with("endpoint", &endpoint).with("entity", number)
        })?;
        let process = process_json::process(&answer);
        let record = match &process {
            Some(process) => self.record_process(record, process).await?,
            None => record,
        };
        Ok(StatusEntityResponse {
            entity: Some(record.to_api()),
            result: Some(json_to_struct("result", &result(&answer))?),
            process,
        })
    }
}

/// What a method of an endpoint answered, in the agent's answer.
pub(super) fn result(answer: &JsonObject) -> JsonObject {
    answer.get("result").and_then(|value| value.as_object()).cloned().unwrap_or_default()
}
