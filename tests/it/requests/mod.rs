//! Requests over a whole system: a manager, a bridge and emulated agents as processes of their own,
//! over a real RabbitMQ.

mod fleet;
mod key;
mod kills;
mod rest;
mod rollout;
mod stage;
mod watch;
