//! Reserving and freeing ports (contract §7).
//!
//! Invariant: a port is claimed in memory before it is tried on the host and reserved after, so
//! two reservations never try or take the same one; granted means on disk.

use std::collections::BTreeSet;

use goperation::{EndpointName, Error, Reason, Result};

use crate::{
    core::Core,
    lock::Operation,
    ports::{Claim, Claimed, Freed, Probe, Protocol, Reserved, Wish, is_bindable, probe},
    state::EntityKey,
};

/// So few ports are tried where they are: more would keep others from their turn.
const FEW: usize = 8;

impl Core {
    /// Reserves ports for an entity, all or nothing.
    ///
    /// # Errors
    /// `PORT_TAKEN` naming port and holder, `PORTS_EXHAUSTED`, `PORT_OUT_OF_RANGE`,
    /// `INVALID_ARGUMENT`, `ENTITY_NOT_FOUND`.
    pub(crate) async fn reserve(&self, key: &EntityKey, wishes: &[Wish]) -> Result<Vec<Reserved>> {
        let claim = self.claim_free(key, wishes).await?;
        self.change(Operation::FrozenPort, |state, txn| {
            if !state.entities.contains_key(key) {
                state.ports.release_claim(claim);
                return Err(not_found(key));
            }
            let reserved = state.ports.commit(claim, key, goperation::now_millis());
            state.put_reserved(&reserved, txn);
            Ok(reserved)
        })
        .await
    }

    /// Gives an entity other ports for some of its own, in the same protocols and under the same
    /// names, all or nothing. Answers all of its ports.
    ///
    /// # Errors
    /// `PORTS_EXHAUSTED`, `ENTITY_NOT_FOUND`; nothing is freed then.
    pub(crate) async fn repick(&self, key: &EntityKey, old: &[Reserved]) -> Result<Vec<Reserved>> {
        let wish = |port: &Reserved| Wish {
            port: None,
            protocol: port.protocol,
            count: 1,
            name: port.name.clone(),
        };
        let wishes: Vec<Wish> = old.iter().map(wish).collect();
        let claim = self.claim_free(key, &wishes).await?;
        self.change(Operation::FrozenPort, |state, txn| {
            if !state.entities.contains_key(key) {
                state.ports.release_claim(claim);
                return Err(not_found(key));
            }
            for port in old {
                let (endpoint, number) = (Some(&key.endpoint), Some(key.number));
                let protocol = Some(port.protocol);
                let freed = state.ports.free(&[port.port], protocol, endpoint, number);
                state.put_freed(&freed.freed, txn);
            }
            let reserved = state.ports.commit(claim, key, goperation::now_millis());
            state.put_reserved(&reserved, txn);
            Ok(state.ports.of_entity(key))
        })
        .await
    }

    /// Claims ports that nothing else on the host holds.
    async fn claim_free(&self, key: &EntityKey, wishes: &[Wish]) -> Result<Claim> {
        let mut skip = BTreeSet::new();
        loop {
            let claim = self
                .look(Operation::FrozenPort, |state| {
                    if !state.entities.contains_key(key) {
                        return Err(not_found(key));
                    }
                    state.ports.claim(wishes, &skip)
                })
                .await?;
            let ports = claim.ports().to_vec();
            // Most are free, and it takes longer to get to a thread that may block.
            if ports.len() <= FEW && ports.iter().all(|port| is_bindable(port.protocol, port.port))
            {
                return Ok(claim);
            }
            let tried = tokio::task::spawn_blocking(move || held_by_others(&ports)).await;
            let held = match tried {
                Ok(held) if held.is_empty() => return Ok(claim),
                Ok(held) => held,
                Err(e) => {
                    self.release(claim, &[]).await;
                    return Err(Error::new(Reason::Internal, format!("ports were not tried: {e}")));
                }
            };
            self.release(claim, &held).await;
            for (port, by) in held {
                if port.given {
                    return Err(taken(&port, by.as_deref()));
                }
                skip.insert((port.protocol, port.port));
            }
        }
    }

    async fn release(&self, claim: Claim, held: &[(Claimed, Option<String>)]) {
        // `look` fails only on re-entry, and nothing is held here.
        drop(
            self.look(Operation::FreePorts, |state| {
                state.ports.release_claim(claim);
                // Or each reservation from now on would try them first, and look for who has them.
                for (port, _) in held {
                    state.ports.seen_in_use(port.protocol, port.port);
                }
                Ok(())
            })
            .await,
        );
    }

    /// Frees ports; what was not reserved is told, or with `strict` refused, and then nothing is
    /// freed.
    ///
    /// # Errors
    /// `PORT_NOT_FOUND` naming the ports; `UNAVAILABLE` when the store has failed.
    pub(crate) async fn free(
        &self,
        ports: &[u16],
        protocol: Option<Protocol>,
        endpoint: Option<&EndpointName>,
        entity: Option<u32>,
        strict: bool,
    ) -> Result<Freed> {
        self.change(Operation::FreePorts, |state, txn| {
            let unknown = state.ports.unknown(ports, protocol, endpoint, entity);
            if strict && !unknown.is_empty() {
                return Err(not_reserved(&unknown));
            }
            let freed = state.ports.free(ports, protocol, endpoint, entity);
            state.put_freed(&freed.freed, txn);
            Ok(freed)
        })
        .await
    }
}

/// Of these ports, the ones that something else on the host holds, and who does.
fn held_by_others(ports: &[Claimed]) -> Vec<(Claimed, Option<String>)> {
    ports
        .iter()
        .filter_map(|port| match probe(port.protocol, port.port) {
            Probe::Free => None,
            Probe::Held { by } => Some((port.clone(), by)),
        })
        .collect()
}

fn taken(port: &Claimed, by: Option<&str>) -> Error {
    let by = by.unwrap_or("another process");
    Error::new(
        Reason::PortTaken,
        format!(
            "port {}/{} is held on the host by {by}; give another one, or any",
            port.port, port.protocol
        ),
    )
    .with("port", port.port)
    .with("protocol", port.protocol)
    .with("holder", by)
}

fn not_reserved(ports: &[u16]) -> Error {
    let ports = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(",");
    Error::new(
        Reason::PortNotFound,
        format!("nothing was freed: these ports are not reserved as the request says: {ports}"),
    )
    .with("ports", ports)
}

pub(crate) fn not_found(key: &EntityKey) -> Error {
    Error::new(
        Reason::EntityNotFound,
        format!("this agent has no entity {} {}", key.endpoint, key.number),
    )
    .with("endpoint", &key.endpoint)
    .with("entity", key.number)
}
