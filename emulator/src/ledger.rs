//! The ledger of effects: a file that is only appended to, by one thread, and that nothing of the
//! emulation reads.
//!
//! Invariant: an effect is answered only when its line is written, so that it survives `kill -9` of
//! the process. A line that a kill cut off is no effect.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::Path,
    str::FromStr,
    sync::{Mutex, PoisonError},
    thread,
};

use tokio::{
    sync::{mpsc, oneshot},
    task::spawn_blocking,
};

use crate::{Conduct, Error};

/// Effects that wait for the thread, and that it writes at once, at most.
const WAITING: usize = 1024;
const AT_ONCE: usize = 256;

/// Something that a method did: `<message id> <agent> <what> <conduct>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Effect {
    /// Message that asked for it.
    pub message_id: String,
    /// Number of the agent.
    pub agent: u32,
    /// `stub/work`, or `stub/create#7` about entity 7.
    pub what: String,
    /// How the agent behaves: the name of a [`Conduct`].
    pub conduct: &'static str,
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { message_id, agent, what, conduct } = self;
        write!(f, "{message_id} {agent} {what} {conduct}")
    }
}

impl FromStr for Effect {
    type Err = ();

    fn from_str(line: &str) -> Result<Self, ()> {
        let mut parts = line.split(' ');
        let mut next = || parts.next().filter(|part| !part.is_empty()).ok_or(());
        let (message_id, agent, what, conduct) = (next()?, next()?, next()?, next()?);
        let conduct = Conduct::ALL.into_iter().map(Conduct::name).find(|name| *name == conduct);
        let effect = Self {
            message_id: message_id.to_owned(),
            agent: agent.parse().map_err(|_| ())?,
            what: what.to_owned(),
            conduct: conduct.ok_or(())?,
        };
        if parts.next().is_none() { Ok(effect) } else { Err(()) }
    }
}

/// The effects in a ledger, in the order in which they were written.
///
/// # Errors
/// When it cannot be read.
pub fn effects(ledger: &Path) -> io::Result<Vec<Effect>> {
    let text = std::fs::read(ledger)?;
    let text = String::from_utf8_lossy(&text);
    let complete = text.rfind('\n').map_or("", |end| &text[..end]);
    Ok(complete.lines().filter_map(|line| line.parse().ok()).collect())
}

/// What the thread is told.
#[derive(Debug)]
enum Order {
    Append(String, oneshot::Sender<io::Result<()>>),
    End,
}

/// An open ledger.
#[derive(Debug)]
pub(crate) struct Ledger {
    orders: mpsc::Sender<Order>,
    writer: Mutex<Option<thread::JoinHandle<()>>>,
}

impl Ledger {
    /// Opens or makes a ledger; what is there stays. Blocks.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::File { path: path.to_owned(), source };
        let file = open(path).map_err(failed)?;
        let (orders, taken) = mpsc::channel(WAITING);
        let writer = thread::Builder::new()
            .name("ledger".to_owned())
            .spawn(move || write(file, taken))
            .map_err(failed)?;
        Ok(Self { orders, writer: Mutex::new(Some(writer)) })
    }

    /// Appends an effect; answers when it is written.
    pub(crate) async fn append(&self, effect: &Effect) -> io::Result<()> {
        let closed = || io::Error::other("the ledger is closed");
        let (answer, written) = oneshot::channel();
        let order = Order::Append(format!("{effect}\n"), answer);
        self.orders.send(order).await.map_err(|_| closed())?;
        written.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Writes what waits, and ends the thread.
    pub(crate) async fn close(&self) {
        // It has ended already when this fails.
        let _ = self.orders.send(Order::End).await;
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer
            && !matches!(spawn_blocking(move || writer.join()).await, Ok(Ok(())))
        {
            tracing::warn!("the ledger ended badly");
        }
    }
}

/// Opens the file; a line that was cut off gets its end, and is none.
fn open(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut file = File::options().create(true).append(true).read(true).open(path)?;
    if file.seek(SeekFrom::End(0))? > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
}

fn write(mut file: File, mut orders: mpsc::Receiver<Order>) {
    while let Some(first) = orders.blocking_recv() {
        let mut text = String::new();
        let mut waiting = Vec::new();
        let mut ended = false;
        let mut next = Some(first);
        while let Some(order) = next {
            match order {
                Order::Append(line, answer) => {
                    text += &line;
                    waiting.push(answer);
                }
                Order::End => ended = true,
            }
            next = if ended || waiting.len() >= AT_ONCE { None } else { orders.try_recv().ok() };
        }
        let written = file.write_all(text.as_bytes());
        for answer in waiting {
            // Whoever asked may have gone: its effect has happened.
            let _ = answer.send(match &written {
                Ok(()) => Ok(()),
                Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
            });
        }
        // After half a line nothing that follows could be read.
        if ended || written.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;

    use super::*;

    fn effect(agent: u32) -> Effect {
        Effect {
            message_id: "0190f000-0000-7000-8000-000000000001".to_owned(),
            agent,
            what: "stub/work".to_owned(),
            conduct: "late",
        }
    }

    #[test]
    fn only_whole_lines_are_effects() {
        let line = effect(7).to_string();
        assert_eq!(line.parse(), Ok(effect(7)));
        for cut in 0..line.len() {
            assert_eq!(line[..cut].parse::<Effect>(), Err(()), "{cut}");
        }
        assert_eq!(format!("{line} more").parse::<Effect>(), Err(()));
    }

    #[tokio::test]
    async fn what_is_answered_is_there_also_after_a_line_that_was_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/ledger");
        let ledger = Ledger::open(&path).unwrap();
        let mut wanted: Vec<_> = (0..2000).map(effect).collect();
        let appended = join_all(wanted.iter().map(|effect| ledger.append(effect))).await;
        assert!(appended.iter().all(Result::is_ok));
        let mut found = effects(&path).unwrap();
        found.sort_unstable();
        assert_eq!(found, wanted);
        ledger.close().await;
        assert!(ledger.append(&effect(0)).await.is_err());

        let mut file = File::options().append(true).open(&path).unwrap();
        file.write_all(&effect(9).to_string().as_bytes()[..50]).unwrap();
        let ledger = Ledger::open(&path).unwrap();
        ledger.append(&effect(2000)).await.unwrap();
        ledger.close().await;
        wanted.push(effect(2000));
        let mut found = effects(&path).unwrap();
        found.sort_unstable();
        assert_eq!(found, wanted);
    }
}
