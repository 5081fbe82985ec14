//! What the machine itself loses: a thread writes to the manager's disk again and again, and notes
//! whenever that took longer than it takes on a disk that answers.
//!
//! Nobody can write an end while the disk does not answer, or the processor is with others. How
//! late an end may be is judged without that time. It does not tell who made the disk slow: a manager
//! that kept the disk or the processors from everybody would be excused, too.

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    thread::{self, JoinHandle},
    time::Duration,
};

use goperation::now_millis;

/// How long after one try the next one is due.
const EVERY: Duration = Duration::from_millis(20);
/// What a try takes at the most where nothing stalls.
const USUAL: u64 = 100;

/// From when to when, by the clock, in milliseconds.
type Span = (u64, u64);

#[derive(Debug, Default)]
struct Seen {
    stalls: Vec<Span>,
    /// When the try that is made now was due.
    due: Option<u64>,
    stop: bool,
}

/// Watches a disk until it is dropped.
#[derive(Debug)]
pub(super) struct Stalls {
    seen: Arc<Mutex<Seen>>,
    thread: Option<JoinHandle<()>>,
}

impl Stalls {
    /// Watches the disk of that folder.
    pub(super) fn watch(folder: &Path) -> Self {
        let file = File::create(folder.join("stalls")).unwrap();
        let seen = Arc::<Mutex<Seen>>::default();
        let tries = Arc::clone(&seen);
        let thread = thread::spawn(move || while try_once(&file, &tries) {});
        Self { seen, thread: Some(thread) }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }

    /// How many milliseconds of that span it did not answer.
    pub(super) fn within(&self, (from, to): Span) -> u64 {
        let seen = self.seen();
        let current = seen.due.map(|due| (due, now_millis()));
        let stalls = seen.stalls.iter().copied().chain(current.filter(is_stall));
        stalls.map(|(began, ended)| ended.min(to).saturating_sub(began.max(from))).sum()
    }
}

impl Drop for Stalls {
    fn drop(&mut self) {
        self.seen().stop = true;
        if self.thread.take().unwrap().join().is_err() {
            eprintln!("nothing was known of the disk");
        }
    }
}

fn is_stall((due, ended): &Span) -> bool {
    ended.saturating_sub(*due) > USUAL
}

/// `false`: it was the last one.
fn try_once(file: &File, seen: &Mutex<Seen>) -> bool {
    let due = now_millis() + u64::try_from(EVERY.as_millis()).unwrap();
    seen.lock().unwrap().due = Some(due);
    thread::sleep(EVERY);
    file.write_all_at(&due.to_le_bytes(), 0).unwrap();
    file.sync_data().unwrap();
    let mut seen = seen.lock().unwrap();
    let tried = (due, now_millis());
    if is_stall(&tried) {
        println!("the disk did not answer for {} ms at {due}", tried.1 - due);
        seen.stalls.push(tried);
    }
    !seen.stop
}
