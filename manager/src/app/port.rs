//! Ports: asked from the agent, which has the say, and mirrored in the record of their entity.

use std::{collections::HashMap, time::Duration};

use goperation::{
    EndpointName, Error, JsonObject, MANAGER_NAMESPACE, MessageId, Reason, Result, now_millis,
    to_timestamp,
    v1::{
        CreatePortRequest, CreatePortResponse, DeletePortRequest, DeletePortResponse,
        FreePortsRequest, FreePortsResponse, IndexPortsRequest, IndexPortsResponse,
        NewPortResponse, Port, PortWish, Protocol, ShowPortRequest,
    },
};

use super::{
    App,
    entity::name,
    once::{Seal, message_id},
    ports_json,
};
use crate::{
    bridge_link::{Call, To, had_no_effect},
    check::{self, Violations},
    filter::{Cell, Field, Filter, Kind, Row},
    keys,
    page::Ask,
    record::{EntityRecord, PortRecord, State},
};

const FIELDS: &[Field] = &[
    Field("port", Kind::Number),
    Field("protocol", Kind::Name(&["TCP", "UDP", "BOTH"])),
    Field("endpoint", Kind::Text),
    Field("entity", Kind::Number),
    Field("name", Kind::Text),
];

impl Row for Port {
    fn cell(&self, field: &str) -> Cell<'_> {
        match field {
            "port" => Cell::Number(self.port.into()),
            "protocol" => Cell::Text(match self.protocol() {
                Protocol::Tcp => "TCP",
                Protocol::Udp => "UDP",
                Protocol::Unspecified | Protocol::Both => "BOTH",
            }),
            "endpoint" => Cell::Text(&self.endpoint),
            "entity" => Cell::Number(self.entity.into()),
            "name" => Cell::Text(&self.name),
            _ => Cell::None,
        }
    }
}

/// In order of number, then protocol.
fn sort_key(port: &Port) -> Vec<u8> {
    [port.agent_id.to_be_bytes(), port.port.to_be_bytes(), port.protocol.to_be_bytes()].concat()
}

fn port_number(field: &str, port: i32) -> Result<u16> {
    u16::try_from(port)
        .ok()
        .filter(|&port| port > 0)
        .ok_or_else(|| Error::invalid(field, "must be a port from 1 to 65535"))
}

fn protocol(field: &str, number: i32) -> Result<Protocol> {
    Protocol::try_from(number).map_err(|_| Error::invalid(field, "must be TCP, UDP or BOTH"))
}

impl App {
    async fn ports_on(&self, agent: u32) -> Result<Vec<Port>> {
        let entities = self.entities_on(agent).await?;
        Ok(entities.iter().flat_map(|entity| entity.api_ports().collect::<Vec<_>>()).collect())
    }

    pub(crate) async fn index_ports(&self, q: IndexPortsRequest) -> Result<IndexPortsResponse> {
        let (agent, entity) = (q.agent_id.to_string(), q.entity.to_string());
        let query = ["ports", agent.as_str(), &q.endpoint, entity.as_str(), &q.filter];
        let ask = Ask::new(q.page_size, &q.page_token, &query);
        let (ask, filter) = check::both(ask, Filter::parse(&q.filter, FIELDS))?;
        let endpoint = match q.endpoint.as_str() {
            "" => None,
            name => Some(EndpointName::parse("endpoint", name)?),
        };
        let ports = match (q.agent_id, &endpoint, q.entity) {
            (0, Some(endpoint), entity) if entity != 0 => {
                let number = check::number("entity", entity)?;
                let record = self.entity_record(endpoint.as_str(), number).await?;
                record.api_ports().collect()
            }
            (0, ..) => {
                return Err(Error::invalid("agent_id", "must be given, or endpoint and entity"));
            }
            (agent, ..) => {
                let agent = self.agent_record(check::number("agent_id", agent)?).await?;
                self.ports_on(agent.id).await?
            }
        };
        let rows = ports
            .into_iter()
            .filter(|port| endpoint.as_ref().is_none_or(|e| e.as_str() == port.endpoint))
            .filter(|port| q.entity == 0 || port.entity == q.entity)
            .filter(|port| filter.passes(port))
            .map(|port| (sort_key(&port), port));
        let page = ask.cut(rows.collect(), false);
        Ok(IndexPortsResponse {
            ports: page.rows,
            next_page_token: page.next,
            total_size: page.total,
        })
    }

    pub(crate) async fn new_port(&self, agent: i32) -> Result<NewPortResponse> {
        let record = self.agent_record(check::number("agent_id", agent)?).await?;
        let constraints = HashMap::from([
            ("port".to_owned(), format!("0 for any, or one of {}", record.ports_ranges.join(","))),
            ("protocol".to_owned(), "TCP, UDP or BOTH".to_owned()),
            ("count".to_owned(), format!("1 to {}; 1 with a given port", check::PORT_COUNT)),
            ("name".to_owned(), format!("at most {} characters", check::PORT_NAME)),
        ]);
        let wish = PortWish { protocol: Protocol::Both.into(), count: 1, ..PortWish::default() };
        Ok(NewPortResponse { wish: Some(wish), constraints })
    }

    pub(crate) async fn show_port(&self, q: ShowPortRequest) -> Result<Port> {
        let agent = self.agent_record(check::number("agent_id", q.agent_id)?).await?;
        let number = port_number("port", q.port)?;
        let wanted = protocol("protocol", q.protocol)?;
        let fits = |port: &Port| {
            port.port == i32::from(number)
                && (wanted == Protocol::Unspecified
                    || port.protocol() == wanted
                    || port.protocol() == Protocol::Both)
        };
        self.ports_on(agent.id).await?.into_iter().find(fits).ok_or_else(|| {
            Error::new(
                Reason::PortNotFound,
                format!("port {number} is not reserved on agent {} on {}", agent.id, agent.host),
            )
            .with("agent", agent.id)
            .with("port", number)
        })
    }

    pub(crate) async fn create_port(
        &self,
        q: CreatePortRequest,
        now: u64,
        wait: Duration,
        seal: Option<&Seal>,
    ) -> Result<CreatePortResponse> {
        let mut bad = Violations::default();
        let entity = bad.take(name(("endpoint", &q.endpoint), ("entity", q.entity)));
        let id = bad.take(match q.message_id.as_str() {
            "" => Ok(message_id(seal)),
            given => MessageId::parse("message_id", given),
        });
        if q.wishes.is_empty() {
            bad.add("wishes", "must not be empty");
        }
        check::wishes(&mut bad, "wishes", &q.wishes);
        let (Some((endpoint, number)), Some(id)) = (entity, id) else { return Err(bad.error()) };
        bad.finish()?;
        let endpoint = endpoint.as_str();

        let record = self.entity_record(endpoint, number).await?;
        if record.state() != State::Ready {
            let state = record.state().name();
            return Err(Error::new(
                Reason::StateRefused,
                format!("entity {number} of {endpoint} is {state}; only a READY one gets ports"),
            )
            .with("endpoint", endpoint)
            .with("entity", number)
            .with("state", state));
        }
        let agent = self.agent_record(record.agent).await?;
        super::not_deleted(&agent)?;
        let mut args = JsonObject::new();
        args.insert("endpoint".to_owned(), endpoint.into());
        args.insert("entity".to_owned(), number.into());
        args.insert("ports".to_owned(), ports_json::wishes(&q.wishes));
        let answer = self.ask(agent.id, &agent.to(), "frozen_port", args, &id, now, wait).await?;

        let ports = ports_json::ports(&answer, "ports", now_millis());
        self.change_ports(endpoint, number, |mirror| {
            for port in &ports {
                let same = |p: &PortRecord| (p.port, p.protocol) == (port.port, port.protocol);
                if !mirror.iter().any(same) {
                    mirror.push(port.clone());
                }
            }
            mirror.sort_by_key(|port| (port.port, port.protocol));
        })
        .await?;
        let granted = EntityRecord { ports, ..record };
        Ok(CreatePortResponse { ports: granted.api_ports().collect() })
    }

    pub(crate) async fn delete_port(
        &self,
        q: DeletePortRequest,
        now: u64,
        wait: Duration,
        seal: Option<&Seal>,
    ) -> Result<DeletePortResponse> {
        port_number("port", q.port)?;
        let request = FreePortsRequest {
            agent_id: q.agent_id,
            ports: vec![q.port],
            protocol: q.protocol,
            ..FreePortsRequest::default()
        };
        let freed = self.free_ports(request, now, wait, seal).await?.freed;
        Ok(DeletePortResponse { freed })
    }

    pub(crate) async fn free_ports(
        &self,
        q: FreePortsRequest,
        now: u64,
        wait: Duration,
        seal: Option<&Seal>,
    ) -> Result<FreePortsResponse> {
        let mut bad = Violations::default();
        let agent = bad.take(check::number("agent_id", q.agent_id));
        if q.ports.is_empty() {
            bad.add("ports", "must not be empty");
        }
        for (i, &port) in q.ports.iter().enumerate() {
            bad.take(port_number(&format!("ports[{i}]"), port));
        }
        let wanted = bad.take(protocol("protocol", q.protocol));
        let endpoint = match q.endpoint.as_str() {
            "" => None,
            name => bad.take(EndpointName::parse("endpoint", name)),
        };
        if q.entity != 0 {
            bad.take(check::number("entity", q.entity));
        }
        let (Some(agent), Some(wanted)) = (agent, wanted) else { return Err(bad.error()) };
        bad.finish()?;

        let record = self.agent_record(agent).await?;
        super::callable(&record)?;
        let mut args = JsonObject::new();
        args.insert("ports".to_owned(), q.ports.clone().into());
        args.insert("protocol".to_owned(), ports_json::protocol(wanted).into());
        if let Some(endpoint) = &endpoint {
            args.insert("endpoint".to_owned(), endpoint.as_str().into());
        }
        if q.entity != 0 {
            args.insert("entity".to_owned(), q.entity.into());
        }
        if q.strict {
            args.insert("strict".to_owned(), true.into());
        }
        let before = self.ports_on(agent).await?;
        let id = message_id(seal);
        let answer = self.ask(agent, &record.to(), "free_ports", args, &id, now, wait).await?;
        let freed = ports_json::ports(&answer, "freed", now_millis());
        let mut answered = Vec::with_capacity(freed.len());
        for port in &freed {
            let holder = before.iter().find(|known| {
                known.port == i32::from(u16::try_from(port.port).unwrap_or_default())
                    && ports_json::without(&to_record(known), port.protocol())
                        .is_none_or(|left| left.protocol != known.protocol)
            });
            answered.push(Port {
                agent_id: q.agent_id,
                port: i32::try_from(port.port).unwrap_or_default(),
                protocol: port.protocol,
                endpoint: holder.map(|h| h.endpoint.clone()).unwrap_or_default(),
                entity: holder.map(|h| h.entity).unwrap_or_default(),
                name: holder.map(|h| h.name.clone()).unwrap_or_default(),
                create_time: holder.and_then(|h| h.create_time).or(Some(to_timestamp(0))),
            });
            if let Some(holder) = holder {
                let number = u32::try_from(holder.entity).unwrap_or_default();
                self.change_ports(&holder.endpoint, number, |mirror| {
                    *mirror = mirror
                        .iter()
                        .filter_map(|known| {
                            if known.port == port.port {
                                ports_json::without(known, port.protocol())
                            } else {
                                Some(known.clone())
                            }
                        })
                        .collect();
                })
                .await?;
            }
        }
        Ok(FreePortsResponse { freed: answered, unknown: ports_json::numbers(&answer, "unknown") })
    }

    /// Calls a method about ports; when its outcome is not known a sync will show it.
    #[expect(clippy::too_many_arguments, reason = "one call, spelled out")]
    async fn ask(
        &self,
        agent: u32,
        to: &To,
        method: &str,
        args: JsonObject,
        id: &MessageId,
        now: u64,
        wait: Duration,
    ) -> Result<JsonObject> {
        let call = Call { to, namespace: MANAGER_NAMESPACE, method, args, id, finish: None };
        match self.link.call(call, now, wait).await {
            Ok(answer) => Ok(answer),
            Err(error) => {
                if !had_no_effect(error.reason) {
                    super::raise_generation(self, agent).await;
                }
                Err(error.with("agent", agent))
            }
        }
    }

    /// Changes the mirror of an entity's ports, if the entity is still there.
    async fn change_ports(
        &self,
        endpoint: &str,
        number: u32,
        change: impl Fn(&mut Vec<PortRecord>),
    ) -> Result<()> {
        let key = keys::entity(endpoint, number);
        let mut tx = self.db.begin();
        loop {
            let Some(mut record) = tx.get::<EntityRecord>(key.clone()).await? else {
                return Ok(());
            };
            let now = now_millis();
            change(&mut record.ports);
            record.answer_time = now;
            record.touch(now);
            tx.put(key.clone(), &record);
            if tx.commit().await? {
                return Ok(());
            }
        }
    }
}

fn to_record(port: &Port) -> PortRecord {
    PortRecord {
        port: u32::try_from(port.port).unwrap_or_default(),
        protocol: port.protocol,
        ..PortRecord::default()
    }
}
