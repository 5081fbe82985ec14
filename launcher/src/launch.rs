//! `gop launch`: the life of a launcher.
//!
//! Invariant: it has no effect before it holds the lock and has found its token in the spec, for
//! which nothing was recorded yet. The game is recorded before its first instruction, and its end
//! after the last of its processes is gone.

use std::{
    ffi::OsString,
    fs::File,
    io,
    os::unix::net::UnixStream,
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use rustix::event::{PollFd, PollFlags};

use crate::{
    BUSY, REFUSED, disk,
    ending::{self, End, forget, reap_orphans},
    game::Game,
    id::ProcessId,
    lock::Lock,
    output::Output,
    poll::poll,
    pump,
    quiet::quiet,
    run_dir::{Exit, Process, RunDir},
    spec::Spec,
    stage,
};

/// How long an error that is told may be: there is room for it on a full disk.
const ERROR: usize = disk::RESERVED / 8;

/// Why a launcher did not do its work.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("something runs in this folder")]
    Busy,
    #[error("the token is not the one that is to be run, or was used")]
    Refused,
    #[error("the launcher cannot go on")]
    Io(#[from] io::Error),
}

impl Failure {
    /// What a lock that cannot be had says.
    fn of(e: io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::WouldBlock => Self::Busy,
            io::ErrorKind::NotFound => Self::Refused,
            _ => e.into(),
        }
    }
}

/// What `gop launch …` does; the arguments are those after `launch`.
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.collect();
    let failure = match args.as_slice() {
        [flag] if flag == stage::FLAG => return stage::run(),
        [flag, dir] if flag == pump::FLAG => pump::run(dir.as_ref()).map_err(Failure::of),
        [dir, token] => match token.to_str() {
            Some(token) => launch(&RunDir::new(dir), token, &lead(args.len())),
            None => Err(Failure::Refused),
        },
        _ => return ExitCode::from(2),
    };
    let Err(failure) = failure else { return ExitCode::SUCCESS };
    // Only a person who runs it by hand reads this.
    match &failure {
        Failure::Io(e) => eprintln!("{failure}: {e}"),
        _ => eprintln!("{failure}"),
    }
    ExitCode::from(match failure {
        Failure::Busy => BUSY,
        Failure::Refused => REFUSED,
        Failure::Io(_) => 1,
    })
}

/// How this program was called, before the arguments that are ours.
fn lead(ours: usize) -> Vec<OsString> {
    let all: Vec<OsString> = std::env::args_os().collect();
    all.get(1..all.len().saturating_sub(ours)).unwrap_or_default().to_vec()
}

fn launch(dir: &RunDir, token: &str, lead: &[OsString]) -> Result<(), Failure> {
    let children = quiet()?;
    let lock = Lock::alone(&dir.lock()).map_err(Failure::of)?;
    let spec = disk::read::<Spec>(&dir.spec())?.filter(|spec| spec.token == token);
    let Some(spec) = spec else { return Err(Failure::Refused) };
    if dir.recorded(token)?.is_some() || dir.exit(token)?.is_some() {
        return Err(Failure::Refused);
    }
    disk::reserve(&dir.exit_path())?;
    let mut clean = true;
    let exit = match play(dir, &spec, lead, &lock, &children) {
        Ok((end, message)) => {
            clean = end.clean;
            let ran = message.is_none();
            Exit {
                token: spec.token,
                code: end.code.filter(|_| ran),
                signal: end.signal.filter(|_| ran),
                error: message.map(short),
                time: now(),
            }
        }
        Err(e) => Exit {
            token: spec.token,
            code: None,
            signal: None,
            error: Some(short(format!("cannot be launched: {e}"))),
            time: now(),
        },
    };
    let told = disk::write_reserved(&dir.exit_path(), &exit);
    if !clean {
        // What could not be killed still holds the lock.
        lock.leave();
    }
    Ok(told?)
}

/// Runs the game from its start to the end of its last process; answers how it ended, and why it
/// never ran.
fn play(
    dir: &RunDir,
    spec: &Spec,
    lead: &[OsString],
    lock: &Lock,
    children: &UnixStream,
) -> io::Result<(End, Option<String>)> {
    let launcher = ProcessId::of(std::process::id())?
        .ok_or_else(|| io::Error::other("/proc does not have the launcher"))?;
    let (mut game, pipe) = Game::start(lead, &spec.token, lock)?;
    let played = begin(dir, spec, launcher, &mut game, pipe).and_then(|mut output| {
        let message = serve(&mut game, &mut output, children)?;
        Ok((output, message))
    });
    // Closed unopened: stage two ends, and nothing ran.
    game.gate = None;
    let end = ending::end(&game, spec.cgroup.as_deref(), children);
    let (mut output, message) = played?;
    output.drain();
    Ok((end, message))
}

/// Records the game, then opens its gate.
fn begin(
    dir: &RunDir,
    spec: &Spec,
    launcher: ProcessId,
    game: &mut Game,
    pipe: File,
) -> io::Result<Output> {
    let output = Output::new(pipe, dir, spec)?;
    let (token, id) = (spec.token.clone(), game.id.clone());
    disk::write(&dir.process(), &Process { token, launcher, game: id, started: now() })?;
    game.open_gate(spec)?;
    Ok(output)
}

/// Serves the game until it has ended; answers why it never ran.
fn serve(
    game: &mut Game,
    output: &mut Output,
    children: &UnixStream,
) -> io::Result<Option<String>> {
    let mut message = None;
    while !game.has_ended() {
        let [says, ended, gate] = wait(output, children, game)?;
        if says {
            output.pump();
        }
        if gate {
            message = game.message();
        }
        if ended {
            forget(children);
            reap_orphans(game.pid);
        }
    }
    Ok(message.or_else(|| game.message()))
}

/// Waits until there is output, a child has ended, or stage two speaks.
fn wait(output: &Output, children: &UnixStream, game: &Game) -> io::Result<[bool; 3]> {
    let mut fds = vec![PollFd::new(children, PollFlags::IN)];
    let pipe = output.pipe.as_ref().map(|pipe| {
        fds.push(PollFd::new(pipe, PollFlags::IN));
        fds.len() - 1
    });
    let gate = game.gate.as_ref().map(|gate| {
        fds.push(PollFd::new(gate, PollFlags::IN));
        fds.len() - 1
    });
    poll(&mut fds, None)?;
    let ready = |index: Option<usize>| {
        index.and_then(|index| fds.get(index)).is_some_and(|fd| !fd.revents().is_empty())
    };
    Ok([ready(pipe), ready(Some(0)), ready(gate)])
}

fn short(mut message: String) -> String {
    message.truncate(message.floor_char_boundary(ERROR));
    message
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
