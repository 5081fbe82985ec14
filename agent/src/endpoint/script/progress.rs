//! What a running method says of its progress: lines that it writes into a FIFO of its own.
//!
//! Invariant: nothing that a program writes there makes it wait for long, costs more than a line
//! of memory, or outlives its run. Only the newest line matters.

use std::{
    convert::Infallible,
    fs::{DirBuilder, remove_file},
    future::pending,
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::{
    fs::{CWD, Mode, mkfifoat},
    io::Errno,
};
use tokio::{
    io::AsyncReadExt as _,
    net::unix::pipe::{OpenOptions, Receiver},
    sync::watch,
    task::spawn_blocking,
};

/// Variable in which a method finds the path of its FIFO.
pub(super) const PROGRESS: &str = "GOP_PROGRESS";
/// What it finds there when nobody wants to know.
pub(super) const NOBODY: &str = "/dev/null";
/// Bytes of a line that are kept.
const LINE: usize = 256;

/// The FIFO of one run. Dropped, it is removed.
#[derive(Debug)]
pub(super) struct Progress {
    path: PathBuf,
    pipe: Receiver,
    told: watch::Sender<String>,
}

impl Progress {
    /// Makes a FIFO in a folder, which is made when it is not there.
    ///
    /// # Errors
    /// When it cannot be made or opened.
    pub(super) async fn open(folder: &Path, told: watch::Sender<String>) -> io::Result<Self> {
        let folder = folder.to_owned();
        let made = spawn_blocking(move || {
            let path = make(&folder)?;
            // Open for both: a program's own open never waits, and there is no end before ours.
            match OpenOptions::new().read_write(true).open_receiver(&path) {
                Ok(pipe) => Ok((path, pipe)),
                Err(error) => {
                    remove(&path);
                    Err(error)
                }
            }
        });
        let (path, pipe) = made.await.map_err(io::Error::other)??;
        Ok(Self { path, pipe, told })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Tells each line, until it is dropped.
    pub(super) async fn follow(&mut self) -> Infallible {
        let mut lines = Lines::default();
        let mut buffer = [0; 1024];
        while let Ok(read @ 1..) = self.pipe.read(&mut buffer).await {
            for line in lines.push(&buffer[..read]) {
                self.told.send_replace(line);
            }
        }
        pending().await
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

fn remove(path: &Path) {
    // One that stays is removed by the run that gets its name next.
    let _ = remove_file(path);
}

/// Makes a FIFO under a name of its own. What has this name is of an agent that died: one agent
/// has the folder at a time.
fn make(folder: &Path) -> io::Result<PathBuf> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let path = folder.join(NEXT.fetch_add(1, Ordering::Relaxed).to_string());
    let mode = Mode::RUSR | Mode::WUSR;
    match mkfifoat(CWD, &path, mode) {
        Err(Errno::EXIST) => {
            remove_file(&path)?;
            mkfifoat(CWD, &path, mode)?;
        }
        made => made?,
    }
    Ok(path)
}

/// Cuts what comes into lines, and each to its bound.
#[derive(Debug, Default)]
struct Lines(Vec<u8>);

impl Lines {
    /// The lines that end with these bytes, without those that have nothing in them.
    fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut ended = Vec::new();
        for &byte in bytes {
            if byte != b'\n' {
                if self.0.len() < LINE {
                    self.0.push(byte);
                }
                continue;
            }
            // Cut between characters: of one that is not whole nothing is kept.
            let line = self.0.utf8_chunks().map(|chunk| chunk.valid()).collect::<String>();
            self.0.clear();
            let line = line.trim();
            if !line.is_empty() {
                ended.push(line.to_owned());
            }
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded_text() {
        let mut lines = Lines::default();
        assert!(lines.push(b"half").is_empty());
        assert_eq!(lines.push(b" done\n\n  \n80 %\r\nre"), ["half done", "80 %"]);
        assert_eq!(lines.push(b"st\xff\n"), ["rest"]);
        let long = lines.push(format!("{}\n", "ü".repeat(1000)).as_bytes());
        assert_eq!(long, ["ü".repeat(LINE / 2)]);
        let long = lines.push(format!("a{}\n", "ü".repeat(1000)).as_bytes());
        assert_eq!(long, [format!("a{}", "ü".repeat(LINE / 2 - 1))]);
    }
}
