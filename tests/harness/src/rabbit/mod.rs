//! A RabbitMQ node of the tests' own, on loopback ports and in a folder of its own.
//!
//! Invariant: the system's RabbitMQ is never touched, and a node ends with the process that
//! started it. A node that was started elsewhere (the shared one) can be used, not stopped.

mod control;
mod node;
mod site;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OnceCell;
use uuid::Uuid;

use crate::Result;
use node::Node;

pub(crate) use site::tail;

/// Describes the node that `cargo xtask test` started for all test processes.
pub const SHARED_BROKER_ENV: &str = "GOPERATION_TEST_BROKER";

/// A RabbitMQ node. Dropping it kills the node and removes its folder.
#[derive(Debug)]
pub struct RabbitNode {
    node: Arc<Node>,
}

/// A virtual host on a node.
#[derive(Debug, Clone)]
pub struct Vhost {
    /// Its name; it needs no escaping in a URI.
    pub name: String,
    /// `amqp://guest:guest@127.0.0.1:PORT/NAME`
    pub uri: String,
}

/// What the node has counted since its start, over all virtual hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BrokerCounters {
    /// Messages received from publishers.
    pub received: u64,
    /// Messages confirmed to publishers.
    pub confirmed: u64,
    /// Messages delivered to consumers, repeated deliveries included.
    pub delivered: u64,
    /// Deliveries that were repeated.
    pub redelivered: u64,
    /// Deliveries that consumers acknowledged.
    pub acknowledged: u64,
    /// Mandatory messages that no queue took, returned to their publisher.
    pub returned: u64,
    /// Messages that no queue took, dropped.
    pub dropped: u64,
}

impl RabbitNode {
    /// Starts a node of one's own and waits until it takes connections.
    ///
    /// # Panics
    /// It does not start; the message holds the end of its log.
    pub async fn start() -> Self {
        Self::try_start().await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Starts a node of one's own and waits until it takes connections.
    ///
    /// # Errors
    /// RabbitMQ is missing, or does not start; the text holds the end of its log.
    pub async fn try_start() -> Result<Self> {
        let node = tokio::task::spawn_blocking(Node::start).await??;
        Ok(Self { node: Arc::new(node) })
    }

    /// The node for tests that only want a virtual host: the one that `cargo xtask test` started
    /// for the whole run, or else one for this process.
    ///
    /// # Panics
    /// It does not start, or is started elsewhere and does not answer.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<RabbitNode> = OnceCell::const_new();
        SHARED
            .get_or_init(async || match std::env::var(SHARED_BROKER_ENV) {
                Ok(text) => {
                    let node = Node::borrow(&text)
                        .unwrap_or_else(|error| panic!("{SHARED_BROKER_ENV}: {error}"));
                    Self { node: Arc::new(node) }
                }
                Err(_) => Self::start().await,
            })
            .await
    }

    /// The value for [`SHARED_BROKER_ENV`] with which another process uses this node.
    pub fn describe(&self) -> String {
        self.node.describe()
    }

    /// The AMQP address, on 127.0.0.1.
    pub fn addr(&self) -> std::net::SocketAddr {
        self.node.addr()
    }

    /// The AMQP URI of a virtual host, as the all-mighty user `guest`.
    pub fn uri(&self, vhost: &str) -> String {
        self.uri_as("guest", "guest", vhost)
    }

    /// The AMQP URI of a virtual host, as the user given.
    pub fn uri_as(&self, user: &str, password: &str, vhost: &str) -> String {
        let vhost = if vhost == "/" { "%2f" } else { vhost };
        format!("amqp://{user}:{password}@{}/{vhost}", self.addr())
    }

    /// Makes a new virtual host, empty, in which `guest` may do everything.
    ///
    /// # Panics
    /// The node refuses.
    pub async fn new_vhost(&self) -> Vhost {
        let name = format!("test-{}", Uuid::new_v4().simple());
        let vhost = control::binary(&name);
        let made = self.eval(&format!("rabbit_vhost:add({vhost}, <<\"test\">>)")).await;
        made.unwrap_or_else(|error| panic!("a new virtual host: {error}"));
        self.permit("guest", &name, ".*", ".*", ".*").await;
        Vhost { uri: self.uri(&name), name }
    }

    /// Makes a user whose rights in `vhost` are these regular expressions, and gives its URI.
    ///
    /// # Panics
    /// The node refuses.
    pub async fn add_user(
        &self,
        name: &str,
        password: &str,
        vhost: &str,
        configure: &str,
        write: &str,
        read: &str,
    ) -> String {
        let (user, secret) = (control::binary(name), control::binary(password));
        let made = self
            .eval(&format!("rabbit_auth_backend_internal:add_user({user}, {secret}, <<\"test\">>)"))
            .await;
        made.unwrap_or_else(|error| panic!("user {name}: {error}"));
        self.permit(name, vhost, configure, write, read).await;
        self.uri_as(name, password, vhost)
    }

    async fn permit(&self, user: &str, vhost: &str, configure: &str, write: &str, read: &str) {
        let args = [user, vhost, configure, write, read].map(control::binary).join(", ");
        let done = self
            .eval(&format!("rabbit_auth_backend_internal:set_permissions({args}, <<\"test\">>)"))
            .await;
        done.unwrap_or_else(|error| panic!("rights of {user} in {vhost}: {error}"));
        self.flush_definitions().await;
    }

    /// Waits until the queues, exchanges, bindings, virtual hosts and users that are there now
    /// survive [`Self::kill`]. RabbitMQ 3 answers a declaration before it is on disk: without
    /// this, a durable queue declared just before the kill may be gone, with its messages.
    ///
    /// # Panics
    /// The node is down.
    pub async fn flush_definitions(&self) {
        // A node that does not keep its definitions in Mnesia has nothing to wait for.
        let done = self.eval("begin catch mnesia:sync_log(), ok end").await;
        done.unwrap_or_else(|error| panic!("flushing definitions: {error}"));
    }

    /// Sets a policy for the queues of `vhost` whose names match `pattern`. `definition` is JSON.
    ///
    /// # Panics
    /// The node refuses.
    pub async fn set_policy(&self, vhost: &str, name: &str, pattern: &str, definition: &str) {
        let args = ["set_policy", "-p", vhost, "--apply-to", "queues", name, pattern, definition];
        self.ctl(args).await.unwrap_or_else(|error| panic!("policy {name}: {error}"));
    }

    /// Runs `rabbitmqctl --quiet` on this node (half a second) and gives its output, trimmed.
    ///
    /// # Errors
    /// It exits with anything but 0; the text holds its output.
    pub async fn ctl<S: Into<String>>(&self, args: impl IntoIterator<Item = S>) -> Result<String> {
        let args: Vec<String> = args.into_iter().map(Into::into).collect();
        let node = Arc::clone(&self.node);
        tokio::task::spawn_blocking(move || control::ctl(&node.site, &args)).await?
    }

    /// Runs an Erlang expression, without its final full stop, inside the node (15 ms).
    /// Let it give atoms, integers or tuples of these: other terms are printed in several ways.
    ///
    /// # Errors
    /// The node is down, or the expression fails.
    pub async fn eval(&self, expression: &str) -> Result<String> {
        let expression = expression.to_owned();
        let node = Arc::clone(&self.node);
        tokio::task::spawn_blocking(move || control::eval(&node.site, &expression)).await?
    }

    /// The node's own counters. They start at 0 with each start of the node.
    ///
    /// # Errors
    /// The node is down.
    pub async fn counters(&self) -> Result<BrokerCounters> {
        let names = [
            "received",
            "confirmed",
            "delivered",
            "redelivered",
            "acknowledged",
            "unroutable_returned",
            "unroutable_dropped",
        ];
        let sums = names.map(|name| format!("S(messages_{name}_total)")).join(", ");
        let text = self
            .eval(&format!(
                "All = maps:values(rabbit_global_counters:overview()), \
                 S = fun(Name) -> lists:sum([maps:get(Name, One, 0) || One <- All]) end, \
                 {{{sums}}}"
            ))
            .await?;
        let numbers = text.trim_matches(['{', '}']).split(',').map(|number| number.trim().parse());
        let numbers: Vec<u64> = numbers.collect::<Result<_, _>>()?;
        let [received, confirmed, delivered, redelivered, acknowledged, returned, dropped] =
            numbers[..]
        else {
            return Err(format!("7 counters expected: {text}").into());
        };
        Ok(BrokerCounters {
            received,
            confirmed,
            delivered,
            redelivered,
            acknowledged,
            returned,
            dropped,
        })
    }

    /// Kills the node with SIGKILL, as a crash would. Its data stays; what was declared just
    /// before may be lost, see [`Self::flush_definitions`].
    ///
    /// # Panics
    /// The node is not ours.
    pub async fn kill(&self) {
        self.own("kill", Node::kill).await;
    }

    /// Stops the node in an orderly way. Its data stays.
    ///
    /// # Panics
    /// The node is not ours, or does not stop within a minute.
    pub async fn stop(&self) {
        self.own("stop", Node::stop).await;
    }

    /// Starts a killed or stopped node again, on the same ports and data, and waits for it.
    ///
    /// # Panics
    /// The node is not ours, runs, or does not start.
    pub async fn start_again(&self) {
        self.own("start again", Node::launch).await;
    }

    async fn own(&self, what: &str, act: impl FnOnce(&Node) -> Result<()> + Send + 'static) {
        let node = Arc::clone(&self.node);
        let done = tokio::task::spawn_blocking(move || act(&node)).await.map_err(Into::into);
        done.flatten().unwrap_or_else(|error| panic!("{what} a RabbitMQ node: {error}"));
    }

    /// The processor time that the node's Erlang machine has used since its start.
    ///
    /// # Panics
    /// The node is down.
    pub fn cpu_time(&self) -> Duration {
        self.node.cpu_time().unwrap_or_else(|error| panic!("processor time of a node: {error}"))
    }

    /// The memory that the node's Erlang machine holds now, in bytes.
    ///
    /// # Panics
    /// The node is down.
    pub fn resident_bytes(&self) -> u64 {
        self.node.resident_bytes().unwrap_or_else(|error| panic!("memory of a node: {error}"))
    }
}
