//! Stands before a fleet's manager and takes what agents say of requests itself; everything else
//! goes on to the manager.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::future::BoxFuture;
use goperation::v1::{RespondRequest, RespondResponse, ResponseState};
use goperation_agent::Parts;
use goperation_harness::poll_until;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{body::Body, server::UnaryService, transport::Server};
use tower::{ServiceExt as _, service_fn};

use super::*;
use crate::fleet::connection;

/// What agents are answered.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// It is taken, unless it was before.
    Taken,
    /// That.
    Error(Reason),
}

#[derive(Debug)]
struct Book {
    answer: Mutex<Answer>,
    /// All that was said and not answered with an error.
    said: Mutex<Vec<RespondRequest>>,
    refused: AtomicBool,
}

/// The clerk.
pub(crate) struct Clerk {
    book: Arc<Book>,
    channel: tonic::transport::Channel,
    serving: JoinHandle<()>,
}

#[derive(Clone)]
struct Respond(Arc<Book>);

impl UnaryService<RespondRequest> for Respond {
    type Response = RespondResponse;
    type Future = BoxFuture<'static, Result<tonic::Response<RespondResponse>, tonic::Status>>;

    fn call(&mut self, request: tonic::Request<RespondRequest>) -> Self::Future {
        let book = Arc::clone(&self.0);
        Box::pin(async move {
            if let Answer::Error(reason) = book.answer.lock().unwrap().clone() {
                book.refused.store(true, Ordering::SeqCst);
                return Err(tonic::Status::from(Error::new(reason, "as the test says")));
            }
            let request = request.into_inner();
            assert!(request.secret.len() >= 16, "it says who it is");
            let mut said = book.said.lock().unwrap();
            let known = said.iter().any(|s| s.id == request.id && is_answer(s));
            said.push(RespondRequest { secret: String::new(), ..request });
            Ok(tonic::Response::new(RespondResponse { taken: !known }))
        })
    }
}

fn is_answer(said: &RespondRequest) -> bool {
    use ResponseState::{Failed, Silent, Succeeded};
    matches!(said.state(), Succeeded | Failed | Silent)
}

impl Clerk {
    /// Before that fleet's manager.
    pub(crate) async fn start(fleet: &Fleet) -> Self {
        let book = Arc::new(Book {
            answer: Mutex::new(Answer::Taken),
            said: Mutex::default(),
            refused: false.into(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let channel = connection(listener.local_addr().unwrap());
        let (manager, respond) = (fleet.channel.clone(), Respond(Arc::clone(&book)));
        let service = service_fn(move |request: http::Request<Body>| {
            let (manager, respond) = (manager.clone(), respond.clone());
            async move {
                if request.uri().path() == "/goperation.v1.RequestService/Respond" {
                    let codec =
                        tonic_prost::ProstCodec::<RespondResponse, RespondRequest>::default();
                    let answer = tonic::server::Grpc::new(codec).unary(respond, request).await;
                    return Ok::<_, Infallible>(answer);
                }
                let answer = manager.oneshot(request).await;
                Ok(answer.unwrap_or_else(|e| tonic::Status::unavailable(e.to_string()).into_http()))
            }
        });
        let incoming = TcpListenerStream::new(listener);
        let serving = tokio::spawn(async move {
            Server::builder().serve_with_incoming(service, incoming).await.unwrap();
        });
        Self { book, channel, serving }
    }

    /// An agent that knows no other manager.
    pub(crate) async fn agent(&self, fleet: &Fleet, host: &str, toml: &str) -> TestAgent {
        let parts: Parts = fleet.parts(self.channel.clone());
        fleet.agent_on(host, toml, parts, &tokio::runtime::Handle::current()).await
    }

    /// Answers so from now on.
    pub(crate) fn set(&self, answer: Answer) {
        *self.book.answer.lock().unwrap() = answer;
        self.book.refused.store(false, Ordering::SeqCst);
    }

    /// Waits until something was answered with an error.
    pub(crate) async fn has_refused(&self) {
        poll_until(SOON, "an agent asks", async || self.book.refused.load(Ordering::SeqCst)).await;
    }

    /// What was said of a request, in order.
    pub(crate) fn said(&self, id: &str) -> Vec<RespondRequest> {
        let said = self.book.said.lock().unwrap();
        said.iter().filter(|said| said.id == id).cloned().collect()
    }

    /// Waits for so many answers to a request.
    pub(crate) async fn answers(&self, id: &str, count: usize) -> Vec<RespondRequest> {
        let what = format!("{count} answers to {id}");
        let answers = || self.said(id).into_iter().filter(is_answer).collect::<Vec<_>>();
        poll_until(SOON, &what, async || answers().len() >= count).await;
        answers()
    }

    /// Waits for the answer to a request.
    pub(crate) async fn answer(&self, id: &str) -> RespondRequest {
        self.answers(id, 1).await.remove(0)
    }

    pub(crate) async fn stop(self) {
        self.serving.abort();
        assert!(self.serving.await.unwrap_err().is_cancelled());
    }
}
