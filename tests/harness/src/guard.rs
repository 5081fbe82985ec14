//! The guard: a small shell process that cleans up after this one.
//!
//! It holds the read end of a pipe. When this process ends, in whatever way, the pipe closes and
//! the guard kills every process group that is still on its list, every process that a folder on
//! its list is named to, and removes the scratch folder.
//! Invariant: a group is on the list from just after its start until it has been waited for, so
//! that the guard never kills a reused number.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::Result;

// In a process group of its own: neither Ctrl-C nor a test runner's group kill reaches it.
const SCRIPT: &str = r#"
trap '' INT TERM HUP
groups=
folders=
while IFS= read -r line; do
    number=${line#?}
    case $line in
    +*) groups="$groups $number" ;;
    =*) folders="$folders $number" ;;
    -*)
        kept=
        for group in $groups; do [ "$group" = "$number" ] || kept="$kept $group"; done
        groups=$kept
        ;;
    esac
done
for group in $groups; do kill -s KILL -- "-$group"; done
for folder in $folders; do
    # Again, for what was just being started.
    for round in 1 2 3 4 5 6 7 8 9; do
        found=
        for process in /proc/[0-9]*; do
            [ "$process" != "/proc/$$" ] || continue
            if grep -qaFe "$folder" "$process/cmdline" "$process/environ" ||
                case $(readlink "$process/cwd") in "$folder"*) true ;; *) false ;; esac; then
                kill -s KILL "${process#/proc/}" && found=1
            fi
        done
        [ -n "$found" ] || break
        sleep 0.1
    done
done
rm -rf -- "$1" || { sleep 1; rm -rf -- "$1"; }
"#;

static GUARD: LazyLock<Guard> = LazyLock::new(Guard::start);

struct Guard {
    scratch: PathBuf,
    list: Mutex<ChildStdin>,
}

impl Guard {
    fn start() -> Self {
        // Kept, not dropped: the guard removes it when this process is gone.
        let scratch = tempfile::Builder::new()
            .prefix("gop-test-")
            .tempdir()
            .expect("a temporary folder for the test")
            .keep();
        #[expect(clippy::zombie_processes, reason = "it outlives this process, by design")]
        let mut child = Command::new("/bin/sh")
            .args(["-c", SCRIPT, "goperation-test-guard"])
            .arg(&scratch)
            .process_group(0)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("/bin/sh starts the guard");
        let list = child.stdin.take().expect("the guard's stdin is piped");
        Self { scratch, list: Mutex::new(list) }
    }

    fn tell(&self, sign: char, group: u32) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(list, "{sign}{group}").expect("the guard is alive");
    }
}

/// This process's scratch folder. It goes away with the process.
pub fn scratch() -> &'static Path {
    &GUARD.scratch
}

/// Puts the process group on the guard's list.
pub(crate) fn watch(group: u32) {
    GUARD.tell('+', group);
}

/// Takes the process group off the guard's list: it has been waited for.
pub(crate) fn forget(group: u32) {
    GUARD.tell('-', group);
}

/// A folder whose processes are killed when this value is dropped, and when this process ends.
///
/// What a launcher starts has a session of its own, so it is in nobody's group. It is known by the
/// folder: in its arguments, its environment, or as the place where it runs.
#[derive(Debug)]
pub struct Swept {
    folder: PathBuf,
}

impl Swept {
    /// Watches a folder. Its path must be one that no other process mentions.
    pub fn folder(folder: impl Into<PathBuf>) -> Self {
        let folder = folder.into();
        let mut list = GUARD.list.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(list, "={}", folder.display()).expect("the guard is alive");
        Self { folder }
    }

    /// The processes, but for this one, that live and name the folder.
    pub fn processes(&self) -> Vec<i32> {
        let own = rustix::process::getpid().as_raw_nonzero().get();
        let folder = self.folder.as_os_str().as_bytes();
        let all = procfs::process::all_processes().expect("/proc can be read").flatten();
        all.filter(|process| process.pid() != own && mentions(process, folder))
            .map(|process| process.pid())
            .collect()
    }

    /// Kills them, until there are none.
    pub fn kill(&self) {
        for _ in 0..100 {
            let found = self.processes();
            if found.is_empty() {
                return;
            }
            for pid in found.into_iter().filter_map(Pid::from_raw) {
                let _gone = rustix::process::kill_process(pid, Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Swept {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whether a process that lives names that folder. One that is gone meanwhile does not.
fn mentions(process: &procfs::process::Process, folder: &[u8]) -> bool {
    let root = PathBuf::from(format!("/proc/{}", process.pid()));
    let holds = |bytes: &[u8]| bytes.windows(folder.len()).any(|part| part == folder);
    // Those of a zombie are empty.
    ["cmdline", "environ"]
        .iter()
        .any(|file| std::fs::read(root.join(file)).is_ok_and(|b| holds(&b)))
        || std::fs::read_link(root.join("cwd")).is_ok_and(|cwd| holds(cwd.as_os_str().as_bytes()))
}

/// Sends a signal to the process group of `group`. A group that is gone is no error.
pub(crate) fn signal_group(group: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(group).ok().and_then(Pid::from_raw) {
        let _gone = rustix::process::kill_process_group(pid, signal);
    }
}

/// A process in a group of its own that is killed, group and all, when this value is dropped or
/// this process ends.
#[derive(Debug)]
pub struct Guarded {
    child: Child,
    ended: bool,
}

impl Guarded {
    /// Starts `command` as the leader of a new process group.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn spawn(command: &mut Command) -> Result<Self> {
        let child = command.process_group(0).spawn().map_err(|error| {
            format!("cannot start {}: {error}", command.get_program().to_string_lossy())
        })?;
        watch(child.id());
        Ok(Self { child, ended: false })
    }

    /// The pid of the process, which is also the number of its group.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The exit status, if the process has ended.
    ///
    /// # Errors
    /// The system refuses to say.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        let status = self.child.try_wait()?;
        if status.is_some() && !self.ended {
            self.ended = true;
            // What the leader left behind in its group goes with it.
            signal_group(self.id(), Signal::KILL);
            forget(self.id());
        }
        Ok(status)
    }

    /// Waits up to `within` for the process to end. Blocks the thread.
    ///
    /// # Errors
    /// It has not ended by then.
    pub fn wait(&mut self, within: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                return Err(format!("process {} still runs after {within:?}", self.id()).into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends a signal to the whole group, unless the process has been seen to end.
    pub fn signal(&self, signal: Signal) {
        if !self.ended {
            signal_group(self.id(), signal);
        }
    }

    /// Kills the whole group with SIGKILL and waits for its leader. Blocks the thread shortly.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        let _killed = self.wait(Duration::from_secs(10));
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.kill();
    }
}
