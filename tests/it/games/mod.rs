//! Games as processes of their own: real servers, and `hold-game`, which misbehaves on demand.
//! The manager, the agents and the launchers are the real `gop`, over a real RabbitMQ.
//!
//! What a test says about a process it knows from the kernel and from what the game itself wrote
//! down; what the agent and the manager say is compared with that.

mod agent_dies;
mod bad;
mod ping;
mod port_taken;
mod random_kills;
mod real;
mod stage;

pub(crate) use stage::{Hold, Stage, exit_of, ports_of, process_of};
