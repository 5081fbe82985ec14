//! Stage two: the process that becomes the game.
//!
//! Invariant: it does nothing outside of itself before its gate is opened, and ends when that does
//! not happen. It has one thread, so what is set for a thread is set for the process. What it
//! cannot do, it says through the gate, which its exec closes.

use std::{
    convert::Infallible,
    fs,
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::{net::UnixStream, process::CommandExt as _},
    process::{Command, ExitCode, Stdio},
};

use rustix::{
    fs::Mode,
    process::{Rlimit, setrlimit, setsid, umask},
    thread::{Gid, Uid, set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};

use crate::{
    TOKEN,
    spec::{Limit, Resource, Spec, User},
};

/// How stage two is called.
pub(crate) const FLAG: &str = "--stage-two";

/// As a shell says it when a program cannot be run. Its launcher knows more.
const CANNOT_RUN: u8 = 127;

/// Waits for the gate, then becomes the game.
pub(crate) fn run() -> ExitCode {
    // Standard input is the gate now, and nothing later; this copy ends with the exec.
    let Ok(gate) = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3) else {
        return ExitCode::FAILURE;
    };
    let gate = UnixStream::from(gate);
    // It fails for the leader of a group only, which its launcher did not make it.
    let _ = setsid();
    let Some(spec) = wait(&gate) else { return ExitCode::FAILURE };
    let Err(message) = become_game(&spec);
    // Nobody is left to be told that nobody is left.
    let _ = (&gate).write_all(message.as_bytes());
    ExitCode::from(CANNOT_RUN)
}

/// The spec; none when the gate was closed.
fn wait(gate: &UnixStream) -> Option<Spec> {
    let mut line = Vec::new();
    BufReader::new(gate).read_until(b'\n', &mut line).ok()?;
    serde_json::from_slice(line.strip_suffix(b"\n")?).ok()
}

fn become_game(spec: &Spec) -> Result<Infallible, String> {
    // Made before there are limits on memory.
    let mut command = Command::new(&spec.program);
    command
        .args(&spec.args)
        .env_clear()
        .envs(&spec.env)
        .env(TOKEN, &spec.token)
        .stdin(Stdio::null());
    if let Some(cgroup) = &spec.cgroup {
        fs::write(cgroup.join("cgroup.procs"), "0")
            .map_err(|e| format!("cannot join the cgroup {}: {e}", cgroup.display()))?;
    }
    umask(Mode::from_raw_mode(spec.umask.unwrap_or(0o022) & 0o777));
    for limit in &spec.limits {
        set_limit(*limit).map_err(|e| format!("cannot set the limit {:?}: {e}", limit.resource))?;
    }
    if let Some(user) = &spec.user {
        set_user(user).map_err(|e| format!("cannot become the user {}: {e}", user.uid))?;
    }
    std::env::set_current_dir(&spec.cwd)
        .map_err(|e| format!("cannot go to the folder {}: {e}", spec.cwd.display()))?;
    let e = command.exec();
    Err(format!("cannot run {}: {e}", spec.program.display()))
}

fn set_limit(limit: Limit) -> io::Result<()> {
    let Limit { resource, soft, hard } = limit;
    Ok(setrlimit(raw(resource), Rlimit { current: soft, maximum: hard })?)
}

/// Groups first: only root may change them. All three ids: there is no way back.
fn set_user(user: &User) -> io::Result<()> {
    let groups: Vec<Gid> = user.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    set_thread_groups(&groups)?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}

fn raw(resource: Resource) -> rustix::process::Resource {
    use rustix::process::Resource as Raw;
    match resource {
        Resource::As => Raw::As,
        Resource::Core => Raw::Core,
        Resource::Cpu => Raw::Cpu,
        Resource::Data => Raw::Data,
        Resource::Fsize => Raw::Fsize,
        Resource::Memlock => Raw::Memlock,
        Resource::Msgqueue => Raw::Msgqueue,
        Resource::Nice => Raw::Nice,
        Resource::Nofile => Raw::Nofile,
        Resource::Nproc => Raw::Nproc,
        Resource::Rtprio => Raw::Rtprio,
        Resource::Sigpending => Raw::Sigpending,
        Resource::Stack => Raw::Stack,
    }
}
