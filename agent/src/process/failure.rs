//! Why a start failed, as its caller is told.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::Path,
    sync::Arc,
};

use goperation::{Error, Reason, Result};
use tracing::{info, warn};

use super::{
    About, files,
    launch::{blocking, failed},
    row::LastExit,
    supervisor::Supervisor,
};
use crate::{
    lock::Operation,
    ports::{Probe, Reserved, probe},
    state::EntityKey,
};

/// How much of the end of the log a failure carries, in bytes: it crosses gRPC in a header.
const TAIL: u64 = 2048;
/// How often other ports are reserved in one start.
const REPICKS: usize = 5;

/// A reserved port that something else holds, and who does.
type Held = (Reserved, Option<String>);

/// That it ended before it was ready.
pub(super) fn ended_early(key: &EntityKey, exit: &LastExit) -> Error {
    let mut error = failed(match &exit.error {
        Some(_) => format!("start of {} {}: {}", key.endpoint, key.number, exit.text()),
        None => {
            format!("start of {} {}: {} before it was ready", key.endpoint, key.number, exit.text())
        }
    });
    if let Some(code) = exit.code {
        error = error.with("exit_code", code);
    }
    if let Some(signal) = exit.signal {
        error = error.with("signal", signal);
    }
    error
}

/// That a reserved port is held by somebody else.
fn taken(key: &EntityKey, (port, by): &Held) -> Error {
    let by = by.as_deref().unwrap_or("another process");
    let Reserved { port: number, protocol, name, .. } = port;
    let named = if name.is_empty() { String::new() } else { format!(" ({name})") };
    Error::new(
        Reason::PortTaken,
        format!(
            "start of {} {}: its port {number}/{protocol}{named} is held on the host by {by}",
            key.endpoint, key.number
        ),
    )
    .with("port", number)
    .with("protocol", protocol)
    .with("name", name)
    .with("holder", by)
}

fn held(ports: &[Reserved]) -> Vec<Held> {
    ports
        .iter()
        .filter_map(|port| match probe(port.protocol, port.port) {
            Probe::Free => None,
            Probe::Held { by } => Some((port.clone(), by)),
        })
        .collect()
}

impl Supervisor {
    /// The entity's ports.
    pub(super) async fn reserved(&self) -> Result<Vec<Reserved>> {
        let key = &self.key;
        self.processes.core.look(Operation::IsActive, |state| Ok(state.ports.of_entity(key))).await
    }

    async fn held(&self, ports: &[Reserved]) -> Result<Vec<Held>> {
        let ports = ports.to_vec();
        blocking(move || Ok(held(&ports)))
            .await
            .map_err(|e| Error::new(Reason::Internal, format!("ports were not tried: {e}")))
    }

    /// The entity's ports, all of which are free on the host: where it may, with others for those
    /// that are not. Its files name them.
    ///
    /// # Errors
    /// `PORT_TAKEN` naming port and holder; what a reservation refuses; `INTERNAL` naming a file.
    pub(super) async fn free_ports(&mut self) -> Result<Vec<Reserved>> {
        let mut repicks = 0;
        loop {
            let ports = self.reserved().await?;
            let held = self.held(&ports).await?;
            let Some(first) = held.first() else {
                self.write_due_files(&ports).await?;
                return Ok(ports);
            };
            if !self.config.repick || repicks == REPICKS {
                return Err(taken(&self.key, first));
            }
            repicks += 1;
            self.repick(&held).await?;
        }
    }

    /// Other ports for those that are held. That the files are due is durable before: they are
    /// written however far this agent comes.
    async fn repick(&mut self, held: &[Held]) -> Result<()> {
        let were_due = self.row.files_due;
        if !were_due {
            self.change(|row, _| row.files_due = true).await?;
        }
        let old: Vec<Reserved> = held.iter().map(|(port, _)| port.clone()).collect();
        if let Err(refused) = self.processes.core.repick(&self.key, &old).await {
            // Nothing was replaced; durable with the failure of the start.
            self.row.files_due = were_due;
            return Err(refused);
        }
        for (port, by) in held {
            info!(endpoint = %self.key.endpoint, entity = self.key.number, port = port.port,
                name = port.name, by, "another port is reserved for one that is held");
        }
        Ok(())
    }

    /// The files are written anew when they may name other ports. That they are is durable with
    /// the next step of the start, before the game can change them.
    async fn write_due_files(&mut self, ports: &[Reserved]) -> Result<()> {
        if !self.row.files_due {
            return Ok(());
        }
        let config = Arc::clone(&self.config);
        self.apart(ports.to_vec(), move |about| files::write(&config, about)).await?;
        self.row.files_due = false;
        Ok(())
    }

    /// The entity, as its process is told of it.
    pub(super) fn about<'a>(&'a self, ports: &'a [Reserved]) -> About<'a> {
        About {
            endpoint: self.key.endpoint.as_str(),
            number: self.key.number,
            home: &self.home,
            ports,
            address: &self.processes.address,
        }
    }

    /// Does what blocks and is about the entity apart from the runtime.
    pub(super) async fn apart<T: Send + 'static>(
        &self,
        ports: Vec<Reserved>,
        work: impl FnOnce(&About<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (key, home) = (self.key.clone(), self.home.clone());
        let processes = Arc::clone(&self.processes);
        let work = move || {
            let about = About {
                endpoint: key.endpoint.as_str(),
                number: key.number,
                home: &home,
                ports: &ports,
                address: &processes.address,
            };
            Ok(work(&about))
        };
        blocking(work).await.unwrap_or_else(|e| Err(Error::new(Reason::Internal, e.to_string())))
    }

    /// That a port of the entity is held by somebody else, if one is.
    pub(super) async fn first_held(&self) -> Result<Option<Error>> {
        let ports = self.reserved().await?;
        Ok(self.held(&ports).await?.first().map(|held| taken(&self.key, held)))
    }

    /// Adds the end of the log.
    pub(super) async fn with_log(&self, error: Error) -> Error {
        let log = self.dir.log(self.key.endpoint.as_str());
        let error = error.with("log", log.display());
        match blocking(move || tail(&log)).await {
            Ok(text) if !text.is_empty() => {
                let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
                let message = format!("{}: {}", error.message, last.trim());
                Error { message, ..error }.with("output", text)
            }
            Ok(_) => error,
            Err(why) => {
                warn!(error = %why, "a log cannot be read");
                error
            }
        }
    }
}

fn tail(log: &Path) -> io::Result<String> {
    let mut file = match File::open(log) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        file => file?,
    };
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    let text: String = String::from_utf8_lossy(&bytes).into_owned();
    Ok(text.chars().filter(|c| *c == '\n' || !c.is_control()).collect())
}
