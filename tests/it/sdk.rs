//! The SDKs as their users meet them: installed with pip and npm as their READMEs say, and the
//! READMEs' examples run as they stand, against a live `gop dev`.
//!
//! Invariant: nothing is fetched; what an SDK says that it depends on is met by the packages that
//! `cargo xtask test` has installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use goperation_harness::{node_modules, node_program, program, venv_program};
use serde_json::json;
use tempfile::TempDir;
use tokio::process::Command;

use crate::dev::{dev, end};

/// How long one command may take; tsc on a busy machine is the longest.
const WITHIN: Duration = Duration::from_secs(120);
/// The SDKs are of this version too.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// What the TypeScript SDK depends on.
const DEPENDENCIES: [&str; 4] = [
    "@bufbuild/protobuf",
    "@connectrpc/connect",
    "@connectrpc/connect-node",
    "@connectrpc/connect-web",
];
/// The address in the examples.
const DEFAULT_ADDRESS: &str = "127.0.0.1:7999";

fn sdk(language: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("sdk").join(language)
}

/// The first block of that language on a page.
fn block<'a>(page: &'a str, language: &str) -> &'a str {
    let start = format!("\n```{language}\n");
    let block = page.split(&start).nth(1).and_then(|rest| rest.split("```").next());
    block.unwrap_or_else(|| panic!("no {language} block"))
}

/// Runs a command that must succeed, and answers what it printed.
async fn run(command: &mut Command) -> String {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(WITHIN, command.output()).await;
    let output = output.unwrap_or_else(|_| panic!("{command:?} takes over {WITHIN:?}")).unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{stdout}{stderr}", output.status);
    stdout
}

/// Runs the example, of which `program` is the start of the command, and compares what it prints
/// with what the README says.
async fn prints_what_the_readme_says(readme: &str, example: &Path, mut program: Command) {
    let text = fs::read_to_string(example).unwrap();
    let (process, address) = dev(&[]).await;
    assert!(text.contains(DEFAULT_ADDRESS));
    fs::write(example, text.replace(DEFAULT_ADDRESS, &address)).unwrap();
    let printed = run(program.arg(example)).await;
    assert_eq!(printed, block(readme, "text"));
    end(process).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn python_is_installed_and_its_example_runs() {
    let readme = fs::read_to_string(sdk("python").join("README.md")).unwrap();
    let example = fs::read_to_string(sdk("python").join("example.py")).unwrap();
    assert_eq!(block(&readme, "python"), example, "README.md shows example.py");

    let folder = TempDir::new().unwrap();
    let pip = |args: &[&str]| {
        let mut pip = Command::new(venv_program("python"));
        pip.args(["-m", "pip", "install", "--quiet", "--no-index", "--no-build-isolation"]);
        pip.arg("--disable-pip-version-check").args(args).arg(sdk("python"));
        pip
    };
    // What it depends on is there in the versions that it names, or this fails.
    run(&mut pip(&["--dry-run"])).await;
    let site = folder.path().join("site");
    run(&mut pip(&["--no-deps", "--target", site.to_str().unwrap()])).await;
    assert!(site.join(format!("goperation-{VERSION}.dist-info")).is_dir(), "another version");
    for file in ["py.typed", "v1/agent_pb2.pyi", "v1/agent_pb2_grpc.pyi"] {
        assert!(site.join("goperation").join(file).is_file(), "{file} is not installed");
    }

    let copy = folder.path().join("example.py");
    fs::write(&copy, example).unwrap();
    let mut python = Command::new(venv_program("python"));
    python.env("PYTHONPATH", &site).current_dir(folder.path());
    prints_what_the_readme_says(&readme, &copy, python).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn typescript_is_packed_installed_and_its_example_runs() {
    let readme = fs::read_to_string(sdk("typescript").join("README.md")).unwrap();
    let example = fs::read_to_string(sdk("typescript").join("example.mjs")).unwrap();
    assert_eq!(block(&readme, "typescript"), example, "README.md shows example.mjs");

    let folder = TempDir::new().unwrap();
    let source = folder.path().join("source");
    copy_sources(&sdk("typescript"), &source);
    std::os::unix::fs::symlink(node_modules(), source.join("node_modules")).unwrap();
    // Builds it too: `prepack`.
    let mut pack = npm(&source, &["pack", "--pack-destination"]);
    run(pack.arg(folder.path())).await;

    let user = folder.path().join("user");
    fs::create_dir(&user).unwrap();
    let tarball = format!("file:../goperation-client-{VERSION}.tgz");
    let mut dependencies = json!({"@goperation/client": tarball});
    for name in DEPENDENCIES {
        dependencies[name] = format!("file:{}", node_modules().join(name).display()).into();
    }
    let package = json!({"private": true, "type": "module", "dependencies": dependencies});
    fs::write(user.join("package.json"), package.to_string()).unwrap();
    let mut install = npm(&user, &["install", "--offline", "--ignore-scripts", "--cache"]);
    run(install.arg(folder.path().join("cache"))).await;
    // What they need lies beside them there, where npm would not look.
    let types = "node_modules/@types";
    std::os::unix::fs::symlink(node_modules().join("@types"), user.join(types)).unwrap();

    let copy = user.join("example.mjs");
    fs::write(&copy, example).unwrap();
    let mut types = Command::new(node_program("tsc"));
    types.args(["--noEmit", "--strict", "--checkJs", "--module", "nodenext", "--target", "es2022"]);
    run(types.arg("--skipLibCheck").arg(&copy).current_dir(&user)).await;
    let node = Command::new(program("node"));
    prints_what_the_readme_says(&readme, &copy, node).await;
}

fn npm(folder: &Path, args: &[&str]) -> Command {
    let mut npm = Command::new(program("npm"));
    npm.args(["--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error"]).args(args);
    npm.current_dir(folder);
    npm
}

/// Copies what is committed of the package, not what was built or installed in it.
fn copy_sources(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).unwrap();
        if !path.is_dir() {
            fs::copy(&path, to.join(name)).unwrap();
        } else if name != "dist" && name != "node_modules" {
            copy_sources(&path, &to.join(name));
        }
    }
}
