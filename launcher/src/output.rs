//! What a game says: into its log, and past the search for its ready line.

use std::{
    fs,
    io::{self, Read as _},
    path::PathBuf,
    time::{Duration, Instant},
};

use crate::{disk, log::Log, ready::Ready, run_dir::RunDir, spec::Spec};

/// How much is read at once.
const CHUNK: usize = 64 << 10;

/// How long the rest is read after the end of the game, should somebody else go on writing.
const DRAIN: Duration = Duration::from_secs(2);

/// The reading end of a game's output.
#[derive(Debug)]
pub(crate) struct Output {
    /// None: all who could write are gone.
    pub(crate) pipe: Option<fs::File>,
    buffer: Vec<u8>,
    log: Log,
    ready: Option<(Ready, PathBuf)>,
}

impl Output {
    /// Output of a pipe that does not block.
    pub(crate) fn new(pipe: fs::File, dir: &RunDir, spec: &Spec) -> io::Result<Self> {
        let ready = match &spec.ready_line {
            Some(expression) => {
                let ready = Ready::new(expression)
                    .map_err(|e| io::Error::other(format!("ready_line: {e}")))?;
                // Written now, when the disk has room; it only takes its place later.
                io::Write::write_all(
                    &mut disk::create(&disk::next(&dir.ready()))?,
                    spec.token.as_bytes(),
                )?;
                Some((ready, dir.ready()))
            }
            None => None,
        };
        Ok(Self {
            pipe: Some(pipe),
            buffer: vec![0; CHUNK],
            log: Log::new(dir.log(&spec.endpoint), spec.log),
            ready,
        })
    }

    /// Reads once; false when there is nothing now.
    pub(crate) fn pump(&mut self) -> bool {
        let Some(pipe) = &mut self.pipe else { return false };
        let bytes = match pipe.read(&mut self.buffer) {
            Ok(0) => {
                self.pipe = None;
                return false;
            }
            Ok(read) => self.buffer.get(..read).unwrap_or_default(),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return true,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return false,
            Err(_) => {
                self.pipe = None;
                return false;
            }
        };
        if let Some((ready, path)) = &mut self.ready
            && ready.feed(bytes)
        {
            // Nobody but us changes the folder while we hold its lock.
            let _ = fs::rename(disk::next(path), path);
            self.ready = None;
        }
        self.log.write(bytes);
        true
    }

    /// Reads what is left after the game.
    pub(crate) fn drain(&mut self) {
        let deadline = Instant::now() + DRAIN;
        while self.pump() && Instant::now() < deadline {}
    }
}
