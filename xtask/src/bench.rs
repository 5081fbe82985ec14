//! `cargo xtask bench`: our programs, optimised, measured beside their limit.
//!
//! Invariant: what runs was built from this tree by this task, and its exit code is this task's.

use std::path::PathBuf;

use goperation_harness::{GOP_ENV, target_folder};

use crate::step::{cargo, command, run, step};
use crate::{Error, tools};

/// The package of the bench.
const BENCH: &str = "goperation-bench";
/// The build profile of the short form: optimised, without what takes long.
const QUICK: &str = "quick";

/// Arguments of `cargo xtask bench`.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Rows to measure, or the first words of their names; all, if none is given.
    #[arg(value_name = "ROW")]
    rows: Vec<String>,

    /// Name the rows and their targets, and measure nothing.
    #[arg(long)]
    list: bool,

    /// Fewer and shorter rounds of programs that are built quickly; some rows only if they
    /// are named. Fails when a row is worse than half its target, or could not be measured.
    #[arg(long)]
    short: bool,

    /// Where everything that was measured goes, as JSON [default: target/bench/report.json].
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// The folder of the plots [default: target/bench].
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,

    /// Also write the table here, as Markdown.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,

    /// Install nothing: if something is missing, name it and exit with 2.
    #[arg(long)]
    no_install: bool,

    /// Measure without oslo.messaging beside us.
    #[arg(long)]
    no_peer: bool,
}

/// The short form, as a part of the tests.
pub(crate) async fn short(no_install: bool) -> Result<(), Error> {
    run_task(Args { short: true, no_peer: true, no_install, ..Args::default() }).await
}

/// Runs the whole task.
pub(crate) async fn run_task(args: Args) -> Result<(), Error> {
    let target = target_folder();
    let profile = if args.short { QUICK } else { "release" };
    let programs = target.join(profile);
    let mut bench = command(programs.join("goperation-bench"), &args.rows);
    bench.env(GOP_ENV, programs.join("gop"));
    if args.list {
        bench.arg("--list");
        step("build", run(cargo(["build", "--profile", profile, "-p", BENCH]))).await?;
        return step("list", run(bench)).await;
    }
    let peer = tools::ensure_for_bench(&target, !args.no_install, !args.no_peer).await?;
    if let Some(python) = peer {
        bench.arg("--peer").arg(python);
    }
    if args.short {
        bench.arg("--short");
    }
    // Files are meant from where the task was called; the bench runs in the top folder.
    let here = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
    let folder = target.join("bench");
    let json = args.json.map_or_else(|| folder.join("report.json"), here);
    let plots = args.plots.map_or_else(|| folder.clone(), here);
    bench.arg("--json").arg(&json).arg("--plots").arg(&plots);
    if let Some(file) = args.markdown {
        bench.arg("--markdown").arg(here(file));
    }
    let build = ["build", "--profile", profile, "-p", "gop", "-p", BENCH];
    step("build for the bench", run(cargo(build))).await?;
    let measure = async {
        std::fs::create_dir_all(&folder)?;
        run(bench).await
    };
    let measured = step("bench", measure).await;
    if json.exists() {
        eprintln!("\nall figures: {}; plots: {}", json.display(), plots.display());
    }
    measured
}
