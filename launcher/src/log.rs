//! The log of a game, in files of bounded size and number.
//!
//! Invariant: no file is larger than `max_size`, and there are at most `keep` former ones. What
//! cannot be written is dropped and counted: a game never waits for a disk that is full.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use crate::spec::LogSpec;

/// A log that is written.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    max_size: u64,
    max_age: Option<Duration>,
    keep: u32,
    /// None: it could not be opened, and is tried again.
    file: Option<File>,
    size: u64,
    /// When the file was begun.
    born: SystemTime,
    /// How many bytes were dropped since the last that were written.
    dropped: u64,
}

impl Log {
    /// Goes on with the log at a path.
    pub(crate) fn new(path: PathBuf, spec: LogSpec) -> Self {
        let mut log = Self {
            path,
            max_size: spec.max_size.max(1),
            max_age: (spec.max_age_secs > 0).then(|| Duration::from_secs(spec.max_age_secs)),
            keep: spec.keep,
            file: None,
            size: 0,
            born: SystemTime::now(),
            dropped: 0,
        };
        log.prune();
        // A folder that cannot be written now may be so later.
        let _ = log.open();
        log
    }

    /// Writes output, in as many files as it needs.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        if self.dropped > 0 {
            let dropped = std::mem::take(&mut self.dropped);
            let note = format!("\n[gop: {dropped} bytes of output were lost here]\n");
            if self.put(note.as_bytes()).is_err() {
                self.dropped = dropped;
            }
        }
        if let Err(rest) = self.put(bytes) {
            self.dropped = self.dropped.saturating_add(rest);
        }
    }

    /// Writes; an error is how much was not written.
    fn put(&mut self, mut bytes: &[u8]) -> Result<(), u64> {
        while !bytes.is_empty() {
            let written = self.put_some(bytes).map_err(|_| bytes.len() as u64)?;
            bytes = bytes.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    /// Writes what one file takes of it.
    fn put_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.file.is_some() && self.size > 0 && (self.size >= self.max_size || self.is_old()) {
            self.rotate();
        }
        let room = usize::try_from(self.max_size.saturating_sub(self.size)).unwrap_or(usize::MAX);
        let mut piece = bytes.get(..room).unwrap_or(bytes);
        if piece.len() < bytes.len() {
            // Lines stay whole, unless one is larger than a file.
            match memchr::memrchr(b'\n', piece) {
                Some(end) => piece = piece.get(..=end).unwrap_or(piece),
                None if self.size > 0 => {
                    self.rotate();
                    return Ok(0);
                }
                None => {}
            }
        }
        if self.file.is_none() {
            self.open()?;
            return Ok(0);
        }
        let Some(file) = &mut self.file else { return Ok(0) };
        match file.write(piece) {
            Ok(0) => Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                self.size = self.size.saturating_add(written as u64);
                Ok(written)
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(0),
            Err(e) => Err(e),
        }
    }

    fn is_old(&self) -> bool {
        // A clock that was set back makes it young.
        let age = SystemTime::now().duration_since(self.born).unwrap_or_default();
        self.max_age.is_some_and(|max_age| age >= max_age)
    }

    fn open(&mut self) -> io::Result<()> {
        if let Some(folder) = self.path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        let file = OpenOptions::new().append(true).create(true).mode(0o640).open(&self.path)?;
        let there = file.metadata()?;
        self.size = there.len();
        self.born = if self.size == 0 {
            SystemTime::now()
        } else {
            there.created().or_else(|_| there.modified()).unwrap_or(SystemTime::now())
        };
        self.file = Some(file);
        Ok(())
    }

    /// Makes the file a former one, and begins a new one. When that cannot be, the file is emptied:
    /// the bound comes first.
    fn rotate(&mut self) {
        if self.shift().is_ok() {
            self.file = None;
            self.size = 0;
            return;
        }
        match self.file.as_ref().map(|file| file.set_len(0)) {
            Some(Ok(())) => (self.size, self.born) = (0, SystemTime::now()),
            _ => self.file = None,
        }
    }

    fn shift(&self) -> io::Result<()> {
        if self.keep == 0 {
            return fs::remove_file(&self.path);
        }
        let there = (1..self.keep).take_while(|number| self.former(*number).exists()).count();
        for number in (1..=there as u32).rev() {
            fs::rename(self.former(number), self.former(number + 1))?;
        }
        fs::rename(&self.path, self.former(1))
    }

    fn former(&self, number: u32) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(format!(".{number}"));
        path.into()
    }

    /// Removes former files that are more than are kept now.
    fn prune(&self) {
        let (Some(folder), Some(name)) = (self.path.parent(), self.path.file_name()) else {
            return;
        };
        let Ok(entries) = fs::read_dir(folder) else { return };
        for entry in entries.flatten() {
            let number = number(&entry.path(), name.as_encoded_bytes());
            if number.is_some_and(|number| number > self.keep) {
                // It is tried again at the next start.
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

fn number(path: &Path, name: &[u8]) -> Option<u32> {
    let rest = path.file_name()?.as_encoded_bytes().strip_prefix(name)?.strip_prefix(b".")?;
    std::str::from_utf8(rest).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(folder: &Path, max_size: u64, keep: u32) -> Log {
        Log::new(folder.join("a.log"), LogSpec { max_size, max_age_secs: 0, keep })
    }

    fn read(folder: &Path, name: &str) -> String {
        fs::read_to_string(folder.join(name)).unwrap()
    }

    #[test]
    fn lines_stay_whole_and_files_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = log(folder.path(), 10, 2);
        log.write(b"1234\n1234\n1234\n123");
        log.write(b"4\n12345\n");
        assert_eq!(read(folder.path(), "a.log.2"), "1234\n1234\n");
        assert_eq!(read(folder.path(), "a.log.1"), "1234\n1234\n");
        assert_eq!(read(folder.path(), "a.log"), "12345\n");
        log.write(b"123456789012345678901\n");
        assert_eq!(read(folder.path(), "a.log.2"), "1234567890");
        assert_eq!(read(folder.path(), "a.log.1"), "1234567890");
        assert_eq!(read(folder.path(), "a.log"), "1\n");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    }

    #[test]
    fn nothing_is_kept_when_so_said() {
        let folder = tempfile::tempdir().unwrap();
        log(folder.path(), 10, 5).write(b"123456789\n123456789\n123456789\n");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
        let mut log = log(folder.path(), 10, 0);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        log.write(b"last\n");
        assert_eq!(read(folder.path(), "a.log"), "last\n");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_old_file_is_rotated() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let mut log = Log::new(path, LogSpec { max_size: 100, max_age_secs: 60, keep: 1 });
        log.write(b"young\n");
        log.write(b"young\n");
        log.born -= Duration::from_secs(61);
        log.write(b"new\n");
        log.write(b"new\n");
        assert_eq!(read(folder.path(), "a.log.1"), "young\nyoung\n");
        assert_eq!(read(folder.path(), "a.log"), "new\nnew\n");
    }

    #[test]
    fn what_cannot_be_written_is_dropped_and_counted() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = log(folder.path(), 1000, 1);
        log.write(b"before\n");
        log.file = Some(OpenOptions::new().write(true).open("/dev/full").unwrap());
        log.write(b"12345");
        log.write(b"67890");
        log.open().unwrap();
        log.write(b"after\n");
        log.write(b"later\n");
        assert_eq!(
            read(folder.path(), "a.log"),
            "before\n\n[gop: 10 bytes of output were lost here]\nafter\nlater\n"
        );
    }

    #[test]
    fn a_folder_that_cannot_be_used_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("log"), "in the way").unwrap();
        let spec = LogSpec { max_size: 1000, max_age_secs: 0, keep: 1 };
        let mut log = Log::new(folder.path().join("log/a.log"), spec);
        log.write(b"lost\n");
        fs::remove_file(folder.path().join("log")).unwrap();
        log.write(b"kept\n");
        assert!(read(folder.path(), "log/a.log").ends_with("kept\n"));
    }
}
