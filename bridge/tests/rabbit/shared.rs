//! One connection for all agents of a process: what becomes of it when it says that it lives.

use std::{
    collections::HashSet,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use goperation_bridge::{
    Address, Kind, Route, Subscription, Transport as _,
    rabbit::{Rabbit, RabbitConfig},
};
use goperation_harness::{RabbitNode, poll_for};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, tcp},
    task::{JoinHandle, JoinSet},
    time::timeout,
};

use crate::support::{SOON, config, connected, message, number, registered, subscribed};

const METHOD: u8 = 1;
const HEARTBEAT: [u8; 8] = [8, 0, 0, 0, 0, 0, 0, 0xCE];

/// One connection through the relay.
#[derive(Debug, Default)]
struct Way {
    /// Whether agents consume over it.
    agents: AtomicBool,
    /// What the client no longer hears: every method in which this is, and its content.
    unheard: Mutex<Option<Vec<u8>>>,
}

/// A relay that can keep back some of what the broker says, and goes on to say that it lives.
#[derive(Debug)]
struct Relay {
    addr: SocketAddr,
    ways: Arc<Mutex<Vec<Arc<Way>>>>,
    task: JoinHandle<()>,
}

impl Relay {
    async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (addr, ways) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<_>>>::default());
        let known = Arc::clone(&ways);
        let task = tokio::spawn(async move {
            let mut passing = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let Ok(broker) = TcpStream::connect(target).await else { continue };
                let way = Arc::new(Way::default());
                known.lock().unwrap().push(Arc::clone(&way));
                let (from_client, to_client) = client.into_split();
                let (from_broker, to_broker) = broker.into_split();
                let to = Arc::clone(&way);
                passing.spawn(async move { drop(up(&to, from_client, to_broker).await) });
                passing.spawn(async move { drop(down(&way, from_broker, to_client).await) });
            }
        });
        Self { addr, ways, task }
    }

    /// From now on nobody hears that of the agents' connections that are there. Answers how many.
    fn keep_back(&self, what: &[u8]) -> usize {
        let ways = self.ways.lock().unwrap();
        let agents = ways.iter().filter(|way| way.agents.load(Ordering::SeqCst));
        agents.map(|way| *way.unheard.lock().unwrap() = Some(what.to_vec())).count()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn contains(bytes: &[u8], what: &[u8]) -> bool {
    what.is_empty() || bytes.windows(what.len()).any(|window| window == what)
}

async fn up(
    way: &Way,
    mut client: tcp::OwnedReadHalf,
    mut broker: tcp::OwnedWriteHalf,
) -> std::io::Result<()> {
    let (mut buffer, mut first) = ([0; 4096], Vec::new());
    loop {
        let read = client.read(&mut buffer).await?;
        if read == 0 {
            return broker.shutdown().await;
        }
        // A client begins with its name.
        if first.len() < buffer.len() {
            first.extend_from_slice(&buffer[..read]);
            way.agents.fetch_or(contains(&first, b"gop agents"), Ordering::SeqCst);
        }
        broker.write_all(&buffer[..read]).await?;
    }
}

async fn down(
    way: &Way,
    mut broker: tcp::OwnedReadHalf,
    mut client: tcp::OwnedWriteHalf,
) -> std::io::Result<()> {
    let mut kept_back = HashSet::new();
    loop {
        let mut head = [0; 7];
        broker.read_exact(&mut head).await?;
        let [kind, c1, c2, size @ ..] = head;
        let channel = u16::from_be_bytes([c1, c2]);
        let mut rest = vec![0; usize::try_from(u32::from_be_bytes(size)).unwrap() + 1];
        broker.read_exact(&mut rest).await?;
        if kind == METHOD {
            let unheard = way.unheard.lock().unwrap();
            if unheard.as_ref().is_some_and(|what| contains(&rest, what)) {
                kept_back.insert(channel);
            } else {
                kept_back.remove(&channel);
            }
        }
        if kept_back.contains(&channel) {
            client.write_all(&HEARTBEAT).await?;
        } else {
            client.write_all(&[&head[..], &rest].concat()).await?;
        }
    }
}

async fn call_works(bridge: &Rabbit, known: &Address, subscription: &mut Subscription) {
    let n = poll_for(SOON * 4, "CALL works again", async || {
        bridge.publish(&Route::Call(known.clone()), &message(Kind::Call, 1)).await.ok()?;
        let arrived = timeout(Duration::from_millis(200), subscription.deliveries.recv()).await;
        Some(number(&arrived.ok()??.message))
    })
    .await;
    assert_eq!(n, 1);
    connected(subscription, SOON).await;
}

/// Two agents over one connection, of which something is then kept back.
async fn is_replaced(unheard: &[u8]) {
    let node = RabbitNode::shared().await;
    let vhost = node.new_vhost().await;
    let relay = Relay::start(node.addr()).await;
    let direct = RabbitConfig { heartbeat: Duration::from_secs(1), ..config(&vhost.uri) };
    let bridge = Rabbit::connect(direct.clone()).unwrap();
    let uri = format!("amqp://guest:guest@{}/{}", relay.addr, vhost.name);
    let process = Rabbit::connect(RabbitConfig { uri, one_connection: true, ..direct }).unwrap();
    let (first, second) = (registered(&bridge, "h1").await, registered(&bridge, "h2").await);
    let mut one = subscribed(&process, &first).await;
    let mut two = subscribed(&process, &second).await;
    assert_eq!(relay.keep_back(unheard), 1, "they share one");
    call_works(&bridge, &first, &mut one).await;
    call_works(&bridge, &second, &mut two).await;
    process.close().await;
    bridge.close().await;
}

/// It has its heartbeats, and its channels are dead.
#[tokio::test]
async fn a_shared_connection_that_only_says_that_it_lives_is_replaced() {
    is_replaced(b"").await;
}

/// The others hear all, and one hears nothing, also when it has begun anew.
#[tokio::test]
async fn a_shared_connection_over_which_one_agent_hears_nothing_is_replaced() {
    is_replaced(b"gop.agent.application.h1").await;
}
