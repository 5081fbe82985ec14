//! Starts the real parts that the tests need, and makes sure that none of them outlives its test.
//!
//! Invariant: every process started here and every folder made here is gone when the process that
//! asked for it is, however that one ended (see [`guard`]). Two test processes never meet: ports
//! are held by lock files, names and folders are unique.
//!
//! The helpers panic with a message that says what failed: they are for tests. Those that return
//! a [`Result`] are for a caller that has something to do after the failure.
#![expect(
    clippy::expect_used,
    reason = "a test helper: a broken test environment must stop the test, loudly"
)]

mod failure;
mod gop;
pub mod guard;
mod ledger;
mod poll;
mod ports;
mod process;
mod processors;
mod rabbit;
mod relay;
mod tools;

pub use gop::{GopOutput, GopProcess, gop, gop_output};
pub use ledger::Ledger;
pub use poll::{poll_for, poll_until};
pub use ports::{free_port, free_ports};
pub use process::{arguments, environment, holders, is_alive, with_arguments};
pub use processors::Processors;
pub use rabbit::{BrokerCounters, RabbitNode, SHARED_BROKER_ENV, Vhost};
pub use relay::TcpRelay;
pub use tools::{
    CHROMIUM_ENV, CHROMIUM_NAMES, GOP_ENV, GRPCURL_ENV, NODE_MODULES, NODE_MODULES_ENV, VENV,
    VENV_ENV, chromium, find_grpcurl, find_program, grpcurl, node_modules, node_program,
    profile_folder, program, target_folder, venv_program,
};

/// What went wrong with a real part, as text for a person.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// The result of a helper whose failure its caller may handle.
pub type Result<T, E = Error> = std::result::Result<T, E>;
