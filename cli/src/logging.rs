//! The log: on stderr, for people or as JSON, never on stdout.
//!
//! Invariant: it is set up once, before anything is started.

use tracing_subscriber::{EnvFilter, fmt, prelude::*};

use crate::{
    args::{Global, LogFormat},
    error::Error,
};

/// Starts the log; `default` is the level when neither a flag nor RUST_LOG says one.
pub(crate) fn start(global: &Global, default: &str) -> Result<(), Error> {
    let environment = std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty());
    let (origin, directives) = match (&global.log_level, environment) {
        (Some(flag), _) => ("--log-level", flag.clone()),
        (None, Some(variable)) => ("RUST_LOG", variable),
        (None, None) => ("default", default.to_owned()),
    };
    // The client of the broker calls every answer an error that a probe expects.
    let filter = EnvFilter::try_new(format!("lapin=off,{directives}"))
        .map_err(|e| Error::Usage(format!("{origin}: `{directives}` is not a log filter: {e}")))?;
    let layer = fmt::layer().with_writer(std::io::stderr).log_internal_errors(false);
    let registry = tracing_subscriber::registry().with(filter);
    let started = match global.log {
        LogFormat::Human => {
            let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
            registry.with(layer.with_ansi(colours)).try_init()
        }
        LogFormat::Json => registry.with(layer.json().with_current_span(false)).try_init(),
    };
    started.map_err(|e| Error::Failed(format!("cannot start the log: {e}")))
}
