//! Hooks through a whole request, with a real HTTP server on this host.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use goperation::{Reason, json_to_struct, v1::*};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use crate::{
    fake::object,
    harness::{Manager, until},
    request_fleet::*,
};

const GOOD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const BAD: &str = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n";
const MOVED: &str = "HTTP/1.1 302 Found\r\nLocation: /good\r\nContent-Length: 0\r\n\r\n";

/// Path and request of each call, in order.
type Asked = Arc<Mutex<Vec<(String, String)>>>;

/// What hooks call. It answers by the first letter of the path: good, bad, moved, never, later.
#[derive(Debug)]
struct Server {
    address: SocketAddr,
    asked: Asked,
    /// Lets go what is answered later.
    open: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

async fn serve(mut stream: TcpStream, asked: Asked, mut open: watch::Receiver<bool>) {
    let (mut head, mut part) = (String::new(), [0; 1024]);
    while !head.contains("\r\n\r\n") {
        match stream.read(&mut part).await {
            Ok(0) | Err(_) => return,
            Ok(read) => head.push_str(&String::from_utf8_lossy(&part[..read])),
        }
    }
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let line = head.lines().find(|line| line.to_lowercase().starts_with("goperation-request:"));
    let request = line.and_then(|line| line.split(": ").nth(1)).unwrap_or_default().to_owned();
    asked.lock().unwrap().push((path.clone(), request));
    let answer = match path.chars().nth(1) {
        Some('b') => BAD,
        Some('m') => MOVED,
        Some('n') => std::future::pending().await,
        Some('l') if open.wait_for(|open| *open).await.is_err() => return,
        _ => GOOD,
    };
    let _ = stream.write_all(answer.as_bytes()).await;
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (open, _) = watch::channel(false);
        let asked = Asked::default();
        let (calls, opens) = (asked.clone(), open.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut calling = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                calling.spawn(serve(stream, calls.clone(), opens.subscribe()));
            }
        });
        Self { address, asked, open, _tasks: tasks }
    }

    /// A hook that calls a path.
    fn hook(&self, path: &str) -> RequestHook {
        self.hook_with(json!({"url": format!("http://{}/{path}", self.address)}))
    }

    fn hook_with(&self, ekwargs: Value) -> RequestHook {
        RequestHook {
            executer: "http".to_owned(),
            ekwargs: Some(json_to_struct("ekwargs", &object(ekwargs)).unwrap()),
            ..RequestHook::default()
        }
    }

    /// A hook that is called on a condition.
    fn hook_if(&self, path: &str, condition: &str, ckwargs: Value) -> RequestHook {
        RequestHook {
            condition: condition.to_owned(),
            ckwargs: Some(json_to_struct("ckwargs", &object(ckwargs)).unwrap()),
            ..self.hook(path)
        }
    }

    /// The paths that were asked for a request, in order.
    fn paths(&self, id: &str) -> Vec<String> {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|(_, of)| of == id).map(|(path, _)| path.clone()).collect()
    }
}

/// A manager whose hooks may call this host.
async fn local() -> Manager {
    Manager::with(|config| config.requests.hooks.allow_local = true).await
}

fn casts(manager: &Manager) -> usize {
    manager.fake.look(|seen| seen.casts.len())
}

/// Nothing was sent, and everybody is told so.
async fn has_failed(manager: &Manager, id: &str) -> Request {
    let ended = until_state(manager, id, RequestState::Failed).await;
    assert_eq!(ended.resultcode, 5, "{}", ended.result);
    assert_eq!(rows(manager, id, "state = SKIPPED").await.unwrap().len(), 2);
    assert_eq!(casts(manager), 0);
    assert_eq!(summary(all_events(manager, id).await.last().unwrap()), Some(&ended));
    let error = cancel(manager, id).await.unwrap_err();
    assert_eq!(error.reason, Reason::StateRefused);
    ended
}

#[tokio::test]
async fn nothing_is_sent_when_the_first_hook_fails() {
    let (manager, server) = (local().await, Server::start().await);
    fleet(&manager, 2).await;
    for (path, says) in [("bad", "500"), ("moved", "redirects are not followed")] {
        let request = CreateRequestRequest {
            pre_run: Some(server.hook(path)),
            after_run: Some(server.hook("good/after")),
            post_run: Some(server.hook("good/post")),
            ..asked()
        };
        let id = create(&manager, request).await.unwrap().id;
        let ended = has_failed(&manager, &id).await;
        assert!(ended.result.contains(says), "{}", ended.result);
        assert_eq!(server.paths(&id), [format!("/{path}")]);
    }
}

#[tokio::test]
async fn a_hook_has_a_time_limit() {
    let (manager, server) = (local().await, Server::start().await);
    fleet(&manager, 2).await;
    let url = format!("http://{}/never", server.address);
    let hook = server.hook_with(json!({"url": url, "timeout": 3}));
    let request = CreateRequestRequest { pre_run: Some(hook), ..asked() };
    let id = create(&manager, request).await.unwrap().id;
    let ended = has_failed(&manager, &id).await;
    assert!(ended.result.contains("was not answered within 3 s"), "{}", ended.result);
}

#[tokio::test]
async fn a_hook_does_not_call_this_host_unless_it_may() {
    let (manager, server) = (Manager::start().await, Server::start().await);
    fleet(&manager, 2).await;
    let request = CreateRequestRequest { pre_run: Some(server.hook("good")), ..asked() };
    let id = create(&manager, request).await.unwrap().id;
    let ended = has_failed(&manager, &id).await;
    assert!(ended.result.contains("allow_local"), "{}", ended.result);
    assert!(server.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn hooks_are_called_when_it_is_their_time_and_once() {
    let (manager, server) = (local().await, Server::start().await);
    fleet(&manager, 3).await;
    manager.fake.take_casts(|_| Err(goperation::Error::new(Reason::BrokerUnavailable, "scripted")));
    let request = CreateRequestRequest {
        rollout: Some(Rollout { batch: "1".to_owned(), ..Rollout::default() }),
        pre_run: Some(server.hook("later/pre")),
        after_run: Some(server.hook("good/after")),
        post_run: Some(server.hook("bad/post")),
        ..asked()
    };
    let id = create(&manager, request).await.unwrap().id;
    until("it is called first", || async { server.paths(&id) == ["/later/pre"] }).await;
    assert_eq!(casts(&manager), 0);
    assert_eq!(rows(&manager, &id, "state = PENDING").await.unwrap().len(), 3);
    server.open.send_replace(true);
    until("it is tried to send", || async { casts(&manager) > 1 }).await;
    assert_eq!(server.paths(&id), ["/later/pre"]);
    manager.fake.take_casts(|_| Ok(()));
    until("it is called then", || async { server.paths(&id).len() == 2 }).await;
    for agent in 1..=3 {
        until_rows(&manager, &id, &format!("state = SENT AND agent_id = {agent}"), 1).await;
        assert_eq!(server.paths(&id), ["/later/pre", "/good/after"]);
        succeed(&manager, &id, agent).await;
    }
    // What was done is not undone by the last one.
    let ended = until_state(&manager, &id, RequestState::Finished).await;
    assert_eq!((ended.resultcode, ended.counts.unwrap().succeeded), (0, 3));
    assert!(ended.result.contains("post_run failed"), "{}", ended.result);
    assert_eq!(server.paths(&id), ["/later/pre", "/good/after", "/bad/post"]);
}

#[tokio::test]
async fn conditions_look_at_what_became_of_the_agents() {
    let (manager, server) = (local().await, Server::start().await);
    fleet(&manager, 3).await;
    let detail = |resultcode| ResponseDetail { id: 1, resultcode, result: None };
    let counted = |operator: &str, value: i32, counter: &str, count: i32| {
        json!({"operator": operator, "value": value, "counter": counter, "count": count,
               "all": false})
    };
    let zero = json!({"operator": "=", "value": 0});
    let any = json!({"operator": "!=", "value": 99});
    for (last, condition, ckwargs, called) in [
        // One agent has failed, and two details of three are 0; the last agent is silent.
        (false, "agents", zero.clone(), false),
        (false, "agents", any.clone(), false),
        (false, "agents", counted("=", 0, "=", 1), true),
        (false, "agents", counted("=", -124, ">", 0), true),
        (false, "agents", counted("!=", 0, ">", 2), false),
        (false, "entitys", counted("=", 0, "=", 2), true),
        (false, "entitys", counted("=", -1, ">", 1), false),
        (false, "entitys", zero.clone(), false),
        // Or it answers, so nobody is missing.
        (true, "agents", any, true),
        (true, "agents", zero, false),
    ] {
        let hook = server.hook_if("good", condition, ckwargs.clone());
        let after = json!({"operator": "=", "value": 0, "counter": ">", "count": 2});
        let request = CreateRequestRequest {
            after_run: Some(server.hook_if("good/after", "agents", after)),
            post_run: Some(hook),
            ..asked()
        };
        let id = create(&manager, request).await.unwrap().id;
        until_rows(&manager, &id, "state = SENT", 3).await;
        until("all are counted", || async { server.paths(&id).len() == 1 }).await;
        let first = word(&id, 1, ResponseState::Succeeded);
        let first = RespondRequest { details: vec![detail(0), detail(0)], ..first };
        let second = word(&id, 2, ResponseState::Failed);
        let second = RespondRequest { details: vec![detail(-1)], ..second };
        for answer in [first, second] {
            assert!(respond(&manager, answer).await.unwrap());
        }
        if last {
            succeed(&manager, &id, 3).await;
        } else {
            overtime(&manager, &id, "").await.unwrap();
        }
        until_state(&manager, &id, RequestState::Finished).await;
        let all = ["/good/after", "/good"];
        let expected = if called { &all[..] } else { &all[..1] };
        assert_eq!(server.paths(&id), expected, "{condition} {ckwargs}");
    }
}

#[tokio::test]
async fn a_hook_that_a_dead_manager_was_calling_is_called_again() {
    let (mut manager, server) = (local().await, Server::start().await);
    fleet(&manager, 2).await;
    let request = CreateRequestRequest { post_run: Some(server.hook("later")), ..asked() };
    let id = create(&manager, request).await.unwrap().id;
    until_rows(&manager, &id, "state = SENT", 2).await;
    for agent in [1, 2] {
        succeed(&manager, &id, agent).await;
    }
    until("it is called", || async { server.paths(&id).len() == 1 }).await;
    assert_eq!(show(&manager, &id).await.unwrap().state(), RequestState::Running);
    manager = manager.crash().await;
    until("it is called again", || async { server.paths(&id).len() == 2 }).await;
    // A cancel has nobody left to spare, and waits for the hook all the same.
    let cancelled = cancel(&manager, &id).await.unwrap();
    assert_eq!((cancelled.end_time, cancelled.counts.unwrap().skipped), (None, 0));
    server.open.send_replace(true);
    let ended = until_state(&manager, &id, RequestState::Cancelled).await;
    assert_eq!((ended.resultcode, ended.counts.unwrap().succeeded), (0, 2));
    assert_eq!(server.paths(&id), ["/later", "/later"]);
}
