//! Small files of the run folder.
//!
//! Invariant: a file is there whole or not at all. One that cannot be understood (a host that lost
//! its power) counts as absent: the lock says what lives, not the files.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

/// The room of a file that is written later.
pub(crate) const RESERVED: usize = 4096;

/// Reads a file; none when it is not there or cannot be understood.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Writes a file whole.
pub(crate) fn write(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let temporary = next(path);
    create(&temporary)?.write_all(&serde_json::to_vec(value)?)?;
    fs::rename(temporary, path)
}

/// Writes a file in the place that was reserved for it, so that a full disk does not keep it away.
pub(crate) fn write_reserved(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let temporary = next(path);
    let mut file = match OpenOptions::new().write(true).open(&temporary) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => create(&temporary)?,
        file => file?,
    };
    // What was reserved stays behind it as blanks.
    file.write_all(&serde_json::to_vec(value)?)?;
    drop(file);
    fs::rename(temporary, path)
}

/// Reserves room for a file that is written later.
pub(crate) fn reserve(path: &Path) -> io::Result<()> {
    create(&next(path))?.write_all(&[b' '; RESERVED])
}

/// Removes a file that may be there.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Where a file is written before it takes its place.
pub(crate) fn next(path: &Path) -> PathBuf {
    path.with_extension("new")
}

/// A new file that only we may read.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    // One that was there keeps its mode otherwise.
    file.set_permissions(Permissions::from_mode(0o600))?;
    Ok(file)
}
