//! The launcher alone, for the tests of this package.

use std::process::ExitCode;

fn main() -> ExitCode {
    goperation_launcher::run(std::env::args_os().skip(1))
}
