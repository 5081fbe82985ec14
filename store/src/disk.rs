//! The folder of a store: opening it, its format, and making what was written durable.
//!
//! Invariant: at most one process has the folder open, and it holds the one format that this
//! version reads. When [`Disk::flush`] returns, all that was written before survives what
//! [`Durability`] names.

use std::{
    any::Any,
    collections::BTreeSet,
    ffi::OsString,
    fs::{self, File, TryLockError},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use sled::{Db, Tree};

use crate::{Durability, Options};

/// Version of the layout of the folder: rows in sled's default tree, this number beside them.
const FORMAT: u32 = 1;
const META: &[u8] = b"meta";
const FORMAT_KEY: &[u8] = b"format";

/// How long to try for a lock that a store just closed in this process, or a child between fork
/// and exec, may still hold.
const LOCK_WAIT: Duration = Duration::from_millis(500);
const LOCK_RETRY: Duration = Duration::from_millis(5);

/// Why the folder cannot be used, or stopped being usable.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("another process has it open, or another store in this one")]
    Taken,
    #[error("it has format {found}, and this version reads only format {FORMAT}")]
    Format { found: String },
    #[error("it holds rows but no format, so another program made it")]
    Foreign,
    #[error("the storage engine failed")]
    Sled(#[from] sled::Error),
    #[error("the storage engine panicked: {0}")]
    Panic(String),
    #[error("failed to {what} {}", path.display())]
    File {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// The open folder.
#[derive(Debug)]
pub(crate) struct Disk {
    db: Db,
    durability: Durability,
    /// sled's log, opened once more for [`Durability::Power`].
    log: File,
    folder: PathBuf,
    /// Values too large for the log, known to be on disk.
    blobs: BTreeSet<OsString>,
}

impl Disk {
    pub(crate) fn open(options: &Options) -> Result<Self, Failure> {
        let folder = &options.path;
        fs::create_dir_all(folder).map_err(file("make the folder", folder))?;
        let log = log(folder)?;
        let deadline = Instant::now() + LOCK_WAIT;
        let db = loop {
            let opened = repair(folder, &log).and_then(|()| start(options));
            match opened {
                Err(Failure::Taken) if Instant::now() < deadline => thread::sleep(LOCK_RETRY),
                opened => break opened?,
            }
        };
        let mut disk = Self {
            db,
            durability: options.durability,
            log,
            folder: folder.clone(),
            blobs: BTreeSet::new(),
        };
        unless_panics(|| disk.check_format())?;
        Ok(disk)
    }

    /// The rows.
    pub(crate) fn rows(&self) -> Tree {
        Tree::clone(&self.db)
    }

    /// Makes durable what was written.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        if self.durability == Durability::None {
            return Ok(());
        }
        self.db.flush()?;
        if self.durability == Durability::Power {
            let path = self.folder.join("db");
            self.log.sync_data().map_err(file("sync", &path))?;
            self.sync_blobs()?;
        }
        Ok(())
    }

    /// sled writes a value or page beyond 128 KiB to a file of its own, which it does not sync.
    fn sync_blobs(&mut self) -> Result<(), Failure> {
        let folder = self.folder.join("blobs");
        let mut blobs = BTreeSet::new();
        let mut new = false;
        for entry in fs::read_dir(&folder).map_err(file("list", &folder))? {
            let name = entry.map_err(file("list", &folder))?.file_name();
            if !self.blobs.contains(&name) {
                match sync(&folder.join(&name)) {
                    // A value that was replaced meanwhile.
                    Err(Failure::File { source, .. })
                        if source.kind() == io::ErrorKind::NotFound => {}
                    synced => synced?,
                }
                new = true;
            }
            blobs.insert(name);
        }
        if new {
            sync(&folder)?;
        }
        self.blobs = blobs;
        Ok(())
    }

    fn check_format(&mut self) -> Result<(), Failure> {
        let meta = self.db.open_tree(META)?;
        match meta.get(FORMAT_KEY)? {
            Some(found) if found == FORMAT.to_be_bytes() => Ok(()),
            Some(found) => {
                let found = <[u8; 4]>::try_from(found.as_ref())
                    .map_or_else(|_| format!("{found:?}"), |f| u32::from_be_bytes(f).to_string());
                Err(Failure::Format { found })
            }
            None if !self.is_blank() => Err(Failure::Foreign),
            None => {
                meta.insert(FORMAT_KEY, &FORMAT.to_be_bytes())?;
                self.flush()?;
                if self.durability == Durability::Power {
                    sync(&self.folder.join("conf"))?;
                    sync(&self.folder)?;
                    let full = self.folder.canonicalize();
                    let full = full.map_err(file("find the whole path of", &self.folder))?;
                    full.parent().map_or(Ok(()), sync)?;
                }
                Ok(())
            }
        }
    }

    fn is_blank(&self) -> bool {
        let others = self.db.tree_names().into_iter().filter(|name| name != META).count();
        self.db.is_empty() && others <= 1
    }
}

fn log(folder: &Path) -> Result<File, Failure> {
    let path = folder.join("db");
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    options.open(&path).map_err(file("open", &path))
}

/// Removes what a process killed while it opened the store may have left half written, and at
/// which sled 0.34 stumbles: a snapshot not yet renamed, and the settings of a store in which
/// nothing was ever written.
fn repair(folder: &Path, log: &File) -> Result<(), Failure> {
    let path = folder.join("db");
    match log.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(Failure::Taken),
        Err(TryLockError::Error(source)) => return Err(file("lock", &path)(source)),
    }
    if log.metadata().map_err(file("read", &path))?.len() == 0 {
        remove(&folder.join("conf"))?;
    }
    for entry in fs::read_dir(folder).map_err(file("list", folder))? {
        let name = entry.map_err(file("list", folder))?.file_name();
        let text = name.to_string_lossy();
        if text.starts_with("snap.") && text.ends_with(".generating") {
            remove(&folder.join(&name))?;
        }
    }
    log.unlock().map_err(file("unlock", &path))
}

fn start(options: &Options) -> Result<Db, Failure> {
    let config = sled::Config::new()
        .path(&options.path)
        .cache_capacity(options.cache_bytes)
        // The owner thread flushes; with `Durability::None` nobody does.
        .flush_every_ms(None);
    match unless_panics(|| Ok(config.open()?)) {
        // All that sled says when another process has the lock.
        Err(Failure::Sled(sled::Error::Io(error)))
            if error.to_string().starts_with("could not acquire lock") =>
        {
            Err(Failure::Taken)
        }
        opened => opened,
    }
}

/// sled asserts where it finds what it does not expect.
pub(crate) fn unless_panics<T>(run: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(run))
        .unwrap_or_else(|panic| Err(Failure::Panic(text(panic.as_ref()))))
}

fn text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text").to_owned()
}

fn remove(path: &Path) -> Result<(), Failure> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file("remove", path)(error)),
        _ => Ok(()),
    }
}

fn sync(path: &Path) -> Result<(), Failure> {
    File::open(path).and_then(|opened| opened.sync_all()).map_err(file("sync", path))
}

fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Failure {
    let path = path.to_owned();
    move |source| Failure::File { what, path, source }
}
