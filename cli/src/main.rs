//! `gop`: every role of Goperation, and the commands a person types.
//!
//! Invariant: stdout has answers (and the one `ready` line), stderr has logs and errors.

mod args;
mod client;
mod command;
mod error;
mod hint;
mod logging;
mod output;
mod parse;
mod role;

use std::{future::Future, process::ExitCode};

use clap::{CommandFactory as _, Parser as _};
use tokio::runtime::Builder;

use crate::{
    args::{AgentArgs, AgentCommand, Cli, Command, Global},
    client::Client,
    error::Error,
    output::Output,
};

fn main() -> ExitCode {
    // The small parent of a game: it has no runtime, and its arguments are no user's.
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|command| command == "launch") {
        return goperation_launcher::run(args);
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // Help on a closed stdout is nobody's loss.
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { 2 } else { 0 });
        }
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => e.report(),
    }
}

fn run(Cli { global, command }: Cli) -> Result<(), Error> {
    let output = Output::new(global.json);
    match command {
        Command::Dev(args) => serve(&global, Threads::Many, role::dev::run(args)),
        Command::Emulate(args) => {
            let threads = if args.agents == 1 { Threads::One } else { Threads::Many };
            serve(&global, threads, role::emulate::run(args))
        }
        Command::Manager(args) => serve(&global, Threads::Many, role::manager::run(args)),
        Command::Bridge(args) => serve(&global, Threads::Many, role::bridge::run(args)),
        Command::Agent(AgentArgs { config: Some(_), command: Some(_) }) => Err(Error::Usage(
            "`gop agent --config FILE` runs an agent; leave --config out for a command".to_owned(),
        )),
        Command::Agent(AgentArgs { config: Some(config), command: None }) => {
            serve(&global, Threads::One, role::agent::run(config))
        }
        Command::Agent(AgentArgs { command: Some(AgentCommand::Adopt(args)), .. }) => {
            serve(&global, Threads::One, role::agent::adopt(args.config, output))
        }
        Command::Agent(AgentArgs { command: Some(command), .. }) => {
            command.check().map_err(Error::Usage)?;
            ask(
                &global,
                |client| async move { command::agent::run(&client, output, command).await },
            )
        }
        Command::Agent(AgentArgs { config: None, command: None }) => Err(Error::Usage(
            "`gop agent` needs --config FILE or a command; see `gop agent --help`".to_owned(),
        )),
        Command::Endpoint(command) => {
            ask(
                &global,
                |client| async move { command::endpoint::run(&client, output, command).await },
            )
        }
        Command::Entity(command) => {
            ask(
                &global,
                |client| async move { command::entity::run(&client, output, command).await },
            )
        }
        Command::Port(command) => {
            ask(&global, |client| async move { command::port::run(&client, output, command).await })
        }
        Command::Cast(args) => {
            ask(&global, |client| async move { command::send::cast(&client, output, args).await })
        }
        Command::Call(args) => {
            ask(&global, |client| async move { command::send::call(&client, output, args).await })
        }
        Command::Request(command) => {
            ask(
                &global,
                |client| async move { command::request::run(&client, output, command).await },
            )
        }
        Command::Notify(args) => {
            ask(
                &global,
                |client| async move { command::notify::notify(&client, output, args).await },
            )
        }
        Command::Receive(args) => {
            ask(
                &global,
                |client| async move { command::notify::receive(&client, output, args).await },
            )
        }
        Command::Queue(command) => {
            ask(
                &global,
                |client| async move { command::queue::run(&client, output, command).await },
            )
        }
        Command::Cache(command) => {
            ask(
                &global,
                |client| async move { command::cache::run(&client, output, command).await },
            )
        }
        Command::Completions { shell } => completions(shell),
    }
}

/// On how many threads a role runs.
#[derive(Debug, Clone, Copy)]
enum Threads {
    /// An agent has little to do, and its host is there for the games: with one thread a CALL at a time
    /// is answered sooner, and many at once as fast. What blocks has threads of its own.
    One,
    /// One for each processor.
    Many,
}

/// Runs a role until it ends.
fn serve(
    global: &Global,
    threads: Threads,
    role: impl Future<Output = Result<(), Error>>,
) -> Result<(), Error> {
    logging::start(global, "info")?;
    let mut builder = match threads {
        Threads::One => Builder::new_current_thread(),
        Threads::Many => Builder::new_multi_thread(),
    };
    runtime(&mut builder, role)
}

/// Asks a manager something.
fn ask<F, A>(global: &Global, command: F) -> Result<(), Error>
where
    F: FnOnce(Client) -> A,
    A: Future<Output = Result<(), Error>>,
{
    logging::start(global, "warn")?;
    runtime(&mut Builder::new_current_thread(), async {
        command(Client::connect(global).await?).await
    })
}

fn runtime(
    builder: &mut Builder,
    work: impl Future<Output = Result<(), Error>>,
) -> Result<(), Error> {
    let runtime = builder
        .enable_all()
        .build()
        .map_err(|e| Error::Failed(format!("cannot start the runtime: {e}")))?;
    runtime.block_on(work)
}

fn completions(shell: clap_complete::Shell) -> Result<(), Error> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "gop", &mut script);
    output::print(&String::from_utf8_lossy(&script))
}
