//! What every role does before it starts: checks, signals, and the parts that it is built from.
//!
//! Invariant: what cannot be used is refused before anything is opened or bound.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use goperation::ConfigError;
use goperation_bridge::{
    Local, LocalConfig, Transport,
    rabbit::{Rabbit, RabbitConfig},
};
use goperation_store::{Options, SledStore};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    task::{JoinHandle, spawn_blocking},
};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tracing::{info, warn};

use super::service;
use crate::{error::Error, output};

/// How long a connection to the manager may take.
const CONNECT: Duration = Duration::from_secs(5);
/// A manager that does not answer a ping for this long is connected to again.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Waits for SIGINT and SIGTERM for as long as it lives, and says to a watchdog that it does.
#[derive(Debug)]
pub(super) struct Signals {
    stop: CancellationToken,
    watcher: JoinHandle<()>,
    alive: Option<JoinHandle<()>>,
}

impl Signals {
    /// Starts to wait.
    pub(super) fn watch() -> Result<Self, Error> {
        let failed = |e| Error::Failed(format!("cannot wait for signals: {e}"));
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let stop = CancellationToken::new();
        let token = stop.clone();
        let watcher = tokio::spawn(async move {
            let name = tokio::select! {
                _ = interrupt.recv() => "SIGINT",
                _ = terminate.recv() => "SIGTERM",
            };
            info!(signal = name, "stopping");
            service::stopping();
            token.cancel();
        });
        Ok(Self { stop, watcher, alive: service::keep_alive() })
    }

    /// Cancelled by the first signal.
    pub(super) fn token(&self) -> &CancellationToken {
        &self.stop
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        self.watcher.abort();
        if let Some(alive) = &self.alive {
            alive.abort();
        }
    }
}

/// Does something that blocks, off the runtime.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    spawn_blocking(work).await.map_err(|e| Error::Failed(format!("a task ended badly: {e}")))?
}

/// Reads a configuration; what is wrong with it ends with code 2.
pub(super) async fn load<T: Send + 'static>(
    file: PathBuf,
    read: impl FnOnce(&Path) -> Result<T, ConfigError> + Send + 'static,
) -> Result<T, Error> {
    blocking(move || read(&file).map_err(|e| Error::Usage(e.to_string()))).await
}

/// Refuses an address that others can reach, unless they are meant to.
pub(super) fn check_listen(listen: SocketAddr, insecure: bool) -> Result<(), Error> {
    if insecure || listen.ip().is_loopback() {
        return Ok(());
    }
    Err(Error::Usage(format!(
        "{listen} is reachable from other hosts, and there are no users and no TLS yet: whoever \
         reaches it rules the fleet. Listen on 127.0.0.1, or say --insecure"
    )))
}

/// Listens.
pub(super) async fn bind(listen: SocketAddr) -> Result<(TcpListener, SocketAddr), Error> {
    let failed = |e| Error::Failed(format!("cannot listen on {listen}: {e}"));
    let listener = TcpListener::bind(listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

/// Opens a store.
pub(super) async fn open_store(options: Options) -> Result<SledStore, Error> {
    blocking(move || SledStore::open(options).map_err(|e| failed(&e))).await
}

/// The transport of this process, on its store.
pub(super) async fn embedded(store: &SledStore) -> Result<Arc<dyn Transport>, Error> {
    let local = Local::open(Arc::new(store.clone()), LocalConfig::default());
    Ok(local.await.map_err(|e| failed(&e))?)
}

/// RabbitMQ. A broker that is down is waited for, for ever.
pub(super) fn rabbit(config: RabbitConfig) -> Result<Arc<dyn Transport>, Error> {
    Ok(Rabbit::connect(config).map_err(|e| Error::Usage(format!("broker: {e}")))?)
}

/// Settings for a broker by its address alone.
pub(super) fn broker(uri: &str) -> Result<RabbitConfig, Error> {
    let config = RabbitConfig { uri: uri.to_owned(), ..RabbitConfig::default() };
    config.check().map_err(|e| Error::Usage(format!("broker: {e}")))?;
    Ok(config)
}

/// The way to a manager; it is connected to when it is first used, and again when it is lost.
pub(super) fn channel(uri: &str) -> Result<Channel, Error> {
    let endpoint = Endpoint::from_shared(uri.to_owned())
        .map_err(|e| Error::Usage(format!("manager: `{uri}` is not an address: {e}")))?;
    Ok(endpoint
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .connect_lazy())
}

/// Prints the line beginning with `ready` that a role says once, when it serves, and tells the
/// service manager.
pub(super) fn say_ready(line: &str) -> Result<(), Error> {
    service::ready(line);
    match output::print(line) {
        // When nobody reads it, the log has it.
        Err(Error::BrokenPipe) | Ok(()) => info!("{line}"),
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Serves to the end, and says `ready` once the server says SERVING.
pub(super) async fn with_ready(
    serving: impl Future<Output = Result<(), Error>>,
    address: SocketAddr,
) -> Result<(), Error> {
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        served = &mut serving => return served,
        said = ready_when_serving(address) => {
            if let Err(error) = said {
                warn!(%error, "the line `ready` was not printed");
            }
        }
    }
    serving.await
}

async fn ready_when_serving(address: SocketAddr) -> Result<(), Error> {
    let reached = reachable(address);
    let mut health = HealthClient::new(channel(&format!("http://{reached}"))?);
    loop {
        let asked = HealthCheckRequest { service: String::new() };
        let answer = health.check(asked).await.map(|answer| answer.into_inner().status());
        if matches!(answer, Ok(ServingStatus::Serving)) {
            return say_ready(&format!("ready http://{address}"));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Where this process reaches an address that it listens on.
pub(super) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// A failure with all its causes on one line.
pub(super) fn failed(error: &(dyn std::error::Error + 'static)) -> Error {
    Error::Failed(chain(error))
}

/// An error and its causes, each said once.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.ends_with(&said) {
            text = format!("{text}: {said}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_unless_insecure() {
        for (address, loopback) in [
            ("127.0.0.1:1", true),
            ("127.9.9.9:1", true),
            ("[::1]:1", true),
            ("0.0.0.0:1", false),
            ("10.0.0.1:1", false),
            ("[::]:1", false),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(check_listen(address, false).is_ok(), loopback, "{address}");
            assert!(check_listen(address, true).is_ok());
        }
    }

    #[test]
    fn an_unspecified_address_is_reached_on_loopback() {
        let of = |text: &str| reachable(text.parse().unwrap()).to_string();
        assert_eq!(of("0.0.0.0:7"), "127.0.0.1:7");
        assert_eq!(of("[::]:7"), "[::1]:7");
        assert_eq!(of("127.0.0.1:7"), "127.0.0.1:7");
    }
}
