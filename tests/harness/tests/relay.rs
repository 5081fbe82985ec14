//! The TCP relay fails in the ways that it promises.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

use std::time::Duration;

use goperation_harness::{TcpRelay, poll_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const WITHIN: Duration = Duration::from_secs(30);

/// A server that answers each byte with `answer`.
async fn server(answer: u8) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                while stream.read_u8().await.is_ok() {
                    stream.write_u8(answer).await.unwrap();
                }
            });
        }
    });
    addr
}

async fn ask(stream: &mut TcpStream) -> std::io::Result<u8> {
    stream.write_u8(0).await?;
    timeout(WITHIN, stream.read_u8()).await.expect("an answer or an end in time")
}

/// True if nothing comes for a while. Silence can only be shown by waiting.
async fn silent(stream: &mut TcpStream) -> bool {
    timeout(Duration::from_millis(300), stream.read_u8()).await.is_err()
}

#[tokio::test]
async fn forwards_cuts_and_retargets() {
    let relay = TcpRelay::start(server(1).await).await;
    let mut old = TcpStream::connect(relay.addr()).await.unwrap();
    assert_eq!(ask(&mut old).await.unwrap(), 1);
    assert_eq!(relay.connections(), 1);

    relay.retarget(server(2).await);
    assert_eq!(ask(&mut old).await.unwrap(), 1);
    relay.cut();
    assert!(ask(&mut old).await.is_err(), "the old connection is closed");
    poll_until(WITHIN, "no connection", async || relay.connections() == 0).await;
    let mut new = TcpStream::connect(relay.addr()).await.unwrap();
    assert_eq!(ask(&mut new).await.unwrap(), 2);

    relay.refuse();
    assert!(ask(&mut new).await.is_err());
    let mut refused = TcpStream::connect(relay.addr()).await.unwrap();
    assert!(ask(&mut refused).await.is_err());
    relay.resume();
    let mut again = TcpStream::connect(relay.addr()).await.unwrap();
    assert_eq!(ask(&mut again).await.unwrap(), 2);
}

#[tokio::test]
async fn silence_holds_old_and_new_connections_until_it_ends() {
    let relay = TcpRelay::start(server(1).await).await;
    let mut old = TcpStream::connect(relay.addr()).await.unwrap();
    assert_eq!(ask(&mut old).await.unwrap(), 1);
    relay.silence();
    let mut new = TcpStream::connect(relay.addr()).await.unwrap();
    for stream in [&mut old, &mut new] {
        stream.write_u8(0).await.unwrap();
        assert!(silent(stream).await);
    }
    relay.resume();
    for stream in [&mut old, &mut new] {
        assert_eq!(timeout(WITHIN, stream.read_u8()).await.unwrap().unwrap(), 1);
    }
}

#[tokio::test]
async fn an_abandoned_connection_stays_silent_and_a_new_one_works() {
    let relay = TcpRelay::start(server(1).await).await;
    let mut old = TcpStream::connect(relay.addr()).await.unwrap();
    assert_eq!(ask(&mut old).await.unwrap(), 1);
    relay.abandon();
    old.write_u8(0).await.unwrap();
    let mut new = TcpStream::connect(relay.addr()).await.unwrap();
    assert_eq!(ask(&mut new).await.unwrap(), 1);
    assert!(silent(&mut old).await);
    relay.cut();
    assert!(timeout(WITHIN, old.read_u8()).await.unwrap().is_err(), "closed, at last");
}
