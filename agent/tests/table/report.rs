//! Reports that the manager does not answer.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
};

use goperation_harness::poll_until;
use serde_json::json;
use tokio::net::TcpListener;
use tonic::{
    body::Body,
    codegen::{BoxFuture, Context, Poll, Service, http},
    server::NamedService,
    transport::{Channel, Server, server::TcpIncoming},
};

use super::*;
use crate::fleet::{On, connection};

/// What the manager sees.
#[derive(Debug, Default)]
struct Seen {
    /// The report that hangs now; the first is 1.
    hangs: Option<usize>,
    reports: usize,
    /// Renewals while that report hangs.
    renewals: usize,
    /// The most of them while one report hung.
    most: usize,
}

/// The way to the manager, in which reports get stuck.
#[derive(Debug, Clone)]
struct Sieve {
    manager: Channel,
    seen: Arc<Mutex<Seen>>,
}

/// A report that hangs. Given up, it is dropped.
struct Hanging(Arc<Mutex<Seen>>, usize);

fn lock(seen: &Mutex<Seen>) -> std::sync::MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hanging {
    fn new(seen: &Arc<Mutex<Seen>>) -> Self {
        let mut now = lock(seen);
        now.reports += 1;
        now.hangs = Some(now.reports);
        now.renewals = 0;
        Self(Arc::clone(seen), now.reports)
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        let mut seen = lock(&self.0);
        if seen.hangs == Some(self.1) {
            seen.hangs = None;
        }
    }
}

impl NamedService for Sieve {
    const NAME: &'static str = "goperation.v1.AgentService";
}

impl Service<http::Request<Body>> for Sieve {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let Self { mut manager, seen } = self.clone();
        Box::pin(async move {
            if request.uri().path().ends_with("/ReportAgent") {
                let _hanging = Hanging::new(&seen);
                std::future::pending::<()>().await;
            }
            if request.uri().path().ends_with("/RenewAgent") {
                let mut seen = lock(&seen);
                if seen.hangs.is_some() {
                    seen.renewals += 1;
                    seen.most = seen.most.max(seen.renewals);
                }
            }
            let answer = async {
                std::future::poll_fn(|cx| manager.poll_ready(cx)).await?;
                manager.call(request).await
            };
            Ok(answer
                .await
                .unwrap_or_else(|error| tonic::Status::unavailable(error.to_string()).into_http()))
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lease_is_renewed_while_a_report_hangs() {
    let fleet = Fleet::start(On::Embedded).await;
    let seen = Arc::<Mutex<Seen>>::default();
    let sieve = Sieve { manager: fleet.channel.clone(), seen: Arc::clone(&seen) };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let serving =
        tokio::spawn(Server::builder().add_service(sieve).serve_with_incoming_shutdown(
            TcpIncoming::from(listener),
            stop.clone().cancelled_owned(),
        ));
    let parts = fleet.parts(connection(address));
    let toml = "report_interval = \"1s\"\n[endpoints.game]\n";
    let agent = fleet.agent_on("h1", toml, parts, &tokio::runtime::Handle::current()).await;
    fleet.activate(&agent).await;
    // A change of the status is told at once: each is another renewal.
    poll_until(SOON, "two renewals while one report hangs", async || {
        call(&fleet, &agent, "pause_agent", json!({})).await.unwrap();
        call(&fleet, &agent, "resume_agent", json!({})).await.unwrap();
        lock(&seen).most >= 2
    })
    .await;
    // Nor does it keep the agent from ending.
    poll_until(SOON, "a report hangs", async || lock(&seen).hangs.is_some()).await;
    assert_eq!(agent.stop().await, Exit::Stopped);
    stop.cancel();
    serving.abort();
    fleet.stop().await;
}
