//! The folders of an endpoint: its own, and under it the home of each entity.
//!
//! Invariant: a symbolic link in the place of one of these folders is never followed, so nothing
//! outside of the work folder is made or removed.

use std::{
    ffi::CStr,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use goperation::{Error, Reason, Result};
use rustix::{
    fs::{AtFlags, Dir, Mode, OFlags, mkdirat, open, openat, renameat, unlinkat},
    io::Errno,
};
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

    /// Makes the home of an entity; one that is there stays as it is. Answers whether it was made.
    ///
    /// # Errors
    /// `INTERNAL` naming the folder.
    pub async fn create_home(&self, entity: u32) -> Result<bool> {
        self.blocking(self.home(entity), "made", move |work_dir, name| {
            let parent = open_folder(work_dir, name, true)?;
            let number = entity.to_string();
            match mkdirat(&parent, &number, MODE) {
                Ok(()) => Ok(true),
                Err(Errno::EXIST) => {
                    openat(&parent, &number, FOLDER, MODE)?;
                    Ok(false)
                }
                Err(error) => Err(error.into()),
            }
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
            remove(&parent, &entity.to_string())
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

    async fn blocking<T: Send + 'static>(
        &self,
        folder: PathBuf,
        what: &'static str,
        work: impl FnOnce(&Path, &str) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
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
fn open_folder(work_dir: &Path, name: &str, make: bool) -> io::Result<OwnedFd> {
    let work_dir = open(work_dir, FOLDER.difference(OFlags::NOFOLLOW), Mode::empty())?;
    if make {
        match mkdirat(&work_dir, name, MODE) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(openat(&work_dir, name, FOLDER, Mode::empty())?)
}

/// Removes a folder with all that is in it, however deep and wide its owner has made it: what is
/// in the folders of the folder comes up into the folder itself, until nothing is left. So neither
/// the stack nor the descriptors grow with the depth, and no path is too long.
fn remove(parent: &OwnedFd, name: &str) -> io::Result<()> {
    let mut moved = 0;
    loop {
        match unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTDIR) => return Ok(unlinkat(parent, name, AtFlags::empty())?),
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        flatten(&openat(parent, name, FOLDER, Mode::empty())?, &mut moved)?;
    }
}

/// Removes what is in a folder, except that what its folders hold is one level higher afterwards.
///
/// # Errors
/// When nothing could be removed or moved, the first reason.
fn flatten(top: &OwnedFd, moved: &mut u64) -> io::Result<()> {
    let (mut done, mut stuck) = (false, None);
    let mut note = |result: io::Result<bool>| match result {
        Ok(some) => done |= some,
        Err(error) => drop(stuck.get_or_insert(error)),
    };
    for name in Dir::read_from(top)? {
        let name = name?;
        match unlink(top, name.file_name()) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => note(empty(top, name.file_name(), moved)),
            unlinked => note(unlinked.map_err(io::Error::from)),
        }
    }
    match stuck {
        Some(error) if !done => Err(error),
        _ => Ok(()),
    }
}

/// Empties a folder of a folder: its files go, its folders go up. Says whether any did.
fn empty(top: &OwnedFd, name: &CStr, moved: &mut u64) -> io::Result<bool> {
    let (mut done, mut stuck) = (false, None);
    let folder = openat(top, name, FOLDER, Mode::empty())?;
    for child in Dir::read_from(&folder)? {
        let child = child?;
        let gone = match unlink(&folder, child.file_name()) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => raise(&folder, child.file_name(), top, moved),
            unlinked => unlinked,
        };
        match gone {
            Ok(some) => done |= some,
            Err(error) => drop(stuck.get_or_insert(error)),
        }
    }
    match stuck {
        Some(error) if !done => Err(error.into()),
        _ => Ok(done),
    }
}

/// Moves a folder to the top, under a name that nothing has there.
fn raise(from: &OwnedFd, name: &CStr, top: &OwnedFd, moved: &mut u64) -> rustix::io::Result<bool> {
    loop {
        *moved += 1;
        // An empty folder of that name is replaced, which is as good.
        match renameat(from, name, top, format!(".gop-removed-{moved}")) {
            Ok(()) => return Ok(true),
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Removes a file, a link or an empty folder. Says whether there was something to remove.
fn unlink(folder: &OwnedFd, name: &CStr) -> rustix::io::Result<bool> {
    if [c".", c".."].contains(&name) {
        return Ok(false);
    }
    let removed = match unlinkat(folder, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => unlinkat(folder, name, AtFlags::REMOVEDIR),
        removed => removed,
    };
    match removed {
        Err(Errno::NOENT) => Ok(false),
        removed => removed.map(|()| true),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, process::Command};

    use super::*;

    /// A folder that is removed by a program that bears what the test has made.
    struct Scratch(PathBuf);

    impl Scratch {
        /// In memory where that is possible: on a disk the many folders take half a minute.
        fn new() -> Self {
            let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
            Self(dir.unwrap().keep())
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = Command::new("rm").arg("-rf").arg(&self.0).status();
        }
    }

    /// A folder in folders, as a game makes it that goes into each; in every 1000th some more.
    fn dig(top: &Path, levels: usize, outside: &Path) {
        let mut folder = open(top, FOLDER, Mode::empty()).unwrap();
        for level in 0..levels {
            mkdirat(&folder, "d", MODE).unwrap();
            if level % 1000 == 0 {
                rustix::fs::symlinkat(outside, &folder, "link").unwrap();
                for name in ["empty", "wide", "wide/a", "wide/b", "wide/b/c"] {
                    mkdirat(&folder, name, MODE).unwrap();
                }
                openat(&folder, "wide/a/file", OFlags::CREATE | OFlags::WRONLY, MODE).unwrap();
            }
            folder = openat(&folder, "d", FOLDER, Mode::empty()).unwrap();
        }
        openat(&folder, "bottom", OFlags::CREATE | OFlags::WRONLY, MODE).unwrap();
    }

    #[test]
    fn a_home_is_removed_however_deep_it_is() {
        let scratch = Scratch::new();
        let outside = scratch.0.join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("precious"), "").unwrap();
        let home = scratch.0.join("1");
        fs::create_dir(&home).unwrap();
        // Names that are taken: by an empty folder, by one that is not, by a file, by a link.
        fs::create_dir_all(home.join(".gop-removed-1")).unwrap();
        fs::create_dir_all(home.join(".gop-removed-2/full/er")).unwrap();
        fs::write(home.join(".gop-removed-3"), "").unwrap();
        symlink(&outside, home.join(".gop-removed-4")).unwrap();
        dig(&home, 20_000, &outside);

        let parent = open(&scratch.0, FOLDER, Mode::empty()).unwrap();
        // Nothing of this is large on the stack; a thread of the runtime has 2 MiB.
        let small = std::thread::Builder::new().stack_size(64 << 10);
        small.spawn(move || remove(&parent, "1")).unwrap().join().unwrap().unwrap();
        assert!(!home.exists());
        assert!(outside.join("precious").exists());
    }

    #[test]
    fn what_cannot_be_removed_is_an_error_and_not_tried_for_ever() {
        let scratch = Scratch::new();
        let parent = open(&scratch.0, FOLDER, Mode::empty()).unwrap();
        // Nobody may remove a folder of /proc; whoever tries is told at once.
        let proc = open("/proc/self", FOLDER.difference(OFlags::NOFOLLOW), Mode::empty()).unwrap();
        assert!(remove(&proc, "fd").is_err());
        assert!(flatten(&proc, &mut 0).is_err());
        remove(&parent, "none").unwrap();
    }
}
