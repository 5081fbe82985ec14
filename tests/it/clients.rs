//! Programs of clients in Python and TypeScript, run with the SDKs of this repository from their
//! sources. That they can be installed is tested with the SDKs themselves.

use std::{
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use goperation_harness::{chromium, node_modules, node_program, program, venv_program};
use tempfile::TempPath;
use tokio::process::Command;

/// How long a bundle may take.
const BUNDLED_WITHIN: Duration = Duration::from_secs(60);
/// What the package of TypeScript exports, and the source of each.
pub(crate) const EXPORTS: [(&str, &str); 3] = [("", "index"), ("/node", "node"), ("/web", "web")];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A source of the TypeScript SDK.
pub(crate) fn source(export: &str) -> PathBuf {
    root().join("sdk/typescript/src").join(export).with_extension("ts")
}

/// A command in the root of the repository.
pub(crate) fn command(program: PathBuf) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root()).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Python with the SDK.
pub(crate) fn python() -> Command {
    let mut python = command(venv_program("python"));
    python.env("PYTHONPATH", root().join("sdk/python/src")).env("PYTHONDONTWRITEBYTECODE", "1");
    python
}

/// Node.js.
pub(crate) fn node() -> Command {
    command(program("node"))
}

/// Node.js with what a program needs that starts a browser.
pub(crate) fn node_with_browser() -> Command {
    let mut node = node();
    node.env("NODE_PATH", node_modules()).env("CHROMIUM", chromium());
    node
}

/// A TypeScript program as one file of JavaScript with everything in it, for `node` or `browser`.
pub(crate) async fn typescript(program: impl AsRef<Path>, platform: &str) -> TempPath {
    let bundle = tempfile::Builder::new().suffix(".mjs").tempfile().unwrap().into_temp_path();
    let mut esbuild = command(node_program("esbuild"));
    esbuild
        .arg(program.as_ref())
        .args(["--bundle", "--format=esm", "--log-level=warning", "--target=es2022"])
        .arg(format!("--platform={platform}"))
        .arg(format!("--outfile={}", bundle.display()))
        .env("NODE_PATH", node_modules());
    for (name, export) in EXPORTS {
        let source = source(export);
        esbuild.arg(format!("--alias:@goperation/client{name}={}", source.display()));
    }
    output(esbuild, BUNDLED_WITHIN).await;
    bundle
}

/// Runs a program to its end, and answers how it ended and what it printed, its log behind it.
pub(crate) async fn run(mut program: Command, within: Duration) -> (ExitStatus, String) {
    let output = tokio::time::timeout(within, program.output());
    let output = output.await.unwrap_or_else(|_| panic!("{program:?} takes over {within:?}"));
    let output = output.unwrap_or_else(|e| panic!("{program:?}: {e}"));
    let text = [output.stdout, output.stderr].concat();
    (output.status, String::from_utf8_lossy(&text).into_owned())
}

/// Runs a program to its end, which must be a good one, and answers what it printed.
pub(crate) async fn output(program: Command, within: Duration) -> String {
    let shown = format!("{program:?}");
    let (status, printed) = run(program, within).await;
    assert!(status.success(), "{shown}: {status}\n{printed}");
    printed
}
