//! Checks the types of the SDKs, of what is generated and of what is written by hand.

use crate::step::{Failure, command, run, workspace};
use crate::tools::SdkTools;
use crate::tree;

/// Runs mypy and tsc, both strict.
pub(crate) async fn check_types(tools: &SdkTools) -> Result<(), Failure> {
    // No cache: it outlives a change of what is installed.
    let no_cache = ["--no-error-summary", "--cache-dir=/dev/null"];
    let mut mypy = command(tools.venv.join("bin/mypy"), no_cache);
    mypy.current_dir(workspace().join("sdk/python"));
    run(mypy).await?;
    // A copy beside the packages, where tsc finds those that the SDK needs.
    let packages = tools.node_modules.parent().ok_or("node_modules lies in a folder")?;
    let copy = packages.join("typescript-sdk");
    tree::write(&copy, &tree::read(&workspace().join("sdk/typescript"))?)?;
    let mut tsc = command(tools.node_modules.join(".bin/tsc"), ["--noEmit", "--project"]);
    tsc.arg(&copy);
    run(tsc).await
}
