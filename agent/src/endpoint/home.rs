//! The folders of an endpoint: its own, and under it the home of each entity.
//!
//! Invariant: a symbolic link in the place of one of these folders is never followed, so nothing
//! outside of the work folder is made or removed.

use std::{
    fs, io,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
};

use goperation::{Error, Reason, Result};
use rustix::fs::{Mode, OFlags, mkdirat, open, openat};
use tokio::task::spawn_blocking;

use super::Endpoint;

/// Folders of ours: the owner's, and for his group to read.
const MODE: Mode = Mode::RWXU.union(Mode::RGRP).union(Mode::XGRP);
/// A folder to work below; a link in its place is an error.
const FOLDER: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Endpoint {
    /// Its folder: where methods run that are not about an entity.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.work_dir.join(&self.name)
    }

    /// Home of an entity: where its methods run.
    #[must_use]
    pub fn home(&self, entity: u32) -> PathBuf {
        self.folder().join(entity.to_string())
    }

    /// Makes the home of an entity; one that is there stays as it is.
    ///
    /// # Errors
    /// `INTERNAL` naming the folder.
    pub async fn create_home(&self, entity: u32) -> Result<()> {
        self.blocking(self.home(entity), "made", move |work_dir, name| {
            let parent = open_folder(work_dir, name, true)?;
            let number = entity.to_string();
            match mkdirat(&parent, &number, MODE) {
                Ok(()) => {}
                Err(rustix::io::Errno::EXIST) => drop(openat(&parent, &number, FOLDER, MODE)?),
                Err(error) => return Err(error.into()),
            }
            Ok(())
        })
        .await
    }

    /// Removes the home of an entity with all that is in it. Links in it are removed, not what
    /// they lead to.
    ///
    /// # Errors
    /// `INTERNAL` naming the folder.
    pub async fn remove_home(&self, entity: u32) -> Result<()> {
        self.blocking(self.home(entity), "removed", move |work_dir, name| {
            let parent = match open_folder(work_dir, name, false) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                parent => parent?,
            };
            // By the open folder, so that nobody can put a link in its place meanwhile.
            let home = format!("/proc/self/fd/{}/{entity}", parent.as_raw_fd());
            match fs::remove_dir_all(home) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                removed => removed,
            }
        })
        .await
    }

    /// Makes its folder.
    ///
    /// # Errors
    /// `INTERNAL` naming the folder.
    pub(super) async fn create_folder(&self) -> Result<()> {
        self.blocking(self.folder(), "made", |work_dir, name| {
            open_folder(work_dir, name, true).map(drop)
        })
        .await
    }

    async fn blocking(
        &self,
        folder: PathBuf,
        what: &'static str,
        work: impl FnOnce(&Path, &str) -> io::Result<()> + Send + 'static,
    ) -> Result<()> {
        let (work_dir, name) = (self.work_dir.clone(), self.name.clone());
        spawn_blocking(move || work(&work_dir, &name))
            .await
            .unwrap_or_else(|panic| Err(io::Error::other(panic)))
            .map_err(|error| {
                let message = format!("folder {} cannot be {what}: {error}", folder.display());
                Error::new(Reason::Internal, message).with("folder", folder.display())
            })
    }
}

/// Opens an endpoint's folder. The work folder itself is the operator's and may be a link.
fn open_folder(work_dir: &Path, name: &str, make: bool) -> io::Result<std::os::fd::OwnedFd> {
    let work_dir = open(work_dir, FOLDER.difference(OFlags::NOFOLLOW), Mode::empty())?;
    if make {
        match mkdirat(&work_dir, name, MODE) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(openat(&work_dir, name, FOLDER, Mode::empty())?)
}
