//! The processes of a node: its port mapper and its server. Everything here blocks.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::control;
use super::site::{Site, program};
use crate::Result;
use crate::guard::Guarded;

/// A start takes 6 s on an idle machine with two cores.
const START_WITHIN: Duration = Duration::from_secs(120);
const STOP_WITHIN: Duration = Duration::from_secs(60);

/// A node that this process started, or one that it borrows.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) site: Site,
    /// `None` for a node that another process started.
    own: Option<Mutex<Processes>>,
}

#[derive(Debug)]
struct Processes {
    server: Option<Guarded>,
    // Held for its drop: the port mapper ends with the node.
    _port_mapper: Guarded,
}

impl Node {
    pub(crate) fn start() -> Result<Self> {
        let site = Site::create()?;
        let port = site.epmd_port.to_string();
        // In the foreground and ours: one that the server starts by itself would outlive it.
        let port_mapper = Guarded::spawn(
            site.command(&program("epmd")?)
                .args(["-port", &port, "-address", "127.0.0.1"])
                .stdout(Stdio::null())
                .stderr(Stdio::null()),
        )?;
        let mapper_addr = SocketAddr::from((Ipv4Addr::LOCALHOST, site.epmd_port));
        until(Duration::from_secs(30), || TcpStream::connect(mapper_addr).is_ok().then_some(()))
            .ok_or("the Erlang port mapper does not answer")?;
        let own = Some(Mutex::new(Processes { server: None, _port_mapper: port_mapper }));
        let node = Self { site, own };
        node.launch()?;
        Ok(node)
    }

    pub(crate) fn borrow(description: &str) -> Result<Self> {
        let node = Self { site: serde_json::from_str(description)?, own: None };
        if node.is_up() { Ok(node) } else { Err("the shared RabbitMQ node is not up".into()) }
    }

    pub(crate) fn describe(&self) -> String {
        serde_json::to_string(&self.site).expect("a plain record becomes JSON")
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.site.amqp_port).into()
    }

    /// Starts the server on the node's ports and data, and waits until it is up.
    pub(crate) fn launch(&self) -> Result<()> {
        let mut own = self.own()?;
        if own.server.is_some() {
            return Err("it runs already".into());
        }
        let _none_at_first = std::fs::remove_file(self.site.pid_file());
        let output = File::options().create(true).append(true).open(self.site.output())?;
        let server = Guarded::spawn(
            self.site
                .command(&program("rabbitmq-server")?)
                .stdout(output.try_clone()?)
                .stderr(output),
        )?;
        let server = own.server.insert(server);
        let mut ended = None;
        let up = until(START_WITHIN, || {
            ended = server.try_wait().ok().flatten();
            (ended.is_some() || self.is_up()).then_some(())
        });
        match (up, ended) {
            (Some(()), None) => Ok(()),
            (_, ended) => {
                own.server = None;
                let tail = self.site.log_tail();
                Err(match ended {
                    Some(status) => format!("RabbitMQ ended with {status} at its start\n{tail}"),
                    None => format!("RabbitMQ is not up after {START_WITHIN:?}\n{tail}"),
                }
                .into())
            }
        }
    }

    pub(crate) fn kill(&self) -> Result<()> {
        let mut server = self.own()?.server.take().ok_or("it does not run")?;
        server.kill();
        self.gone()
    }

    pub(crate) fn stop(&self) -> Result<()> {
        let mut server = self.own()?.server.take().ok_or("it does not run")?;
        let pid = Pid::from_raw(self.site.pid()?).ok_or("no pid")?;
        // To the Erlang machine itself, which stops in order; the script around it follows.
        rustix::process::kill_process(pid, Signal::TERM)?;
        server.wait(STOP_WITHIN)?;
        self.gone()
    }

    /// Waits until the Erlang machine, not only the script around it, is gone.
    fn gone(&self) -> Result<()> {
        let Ok(pid) = self.site.pid() else { return Ok(()) };
        let gone = || match procfs::process::Process::new(pid).and_then(|process| process.stat()) {
            Ok(stat) => (stat.state == 'Z').then_some(()),
            Err(_) => Some(()),
        };
        until(Duration::from_secs(30), gone).ok_or("the Erlang machine is still there")?;
        Ok(())
    }

    /// True if a client would get an answer and the node has finished its start.
    fn is_up(&self) -> bool {
        self.greets().is_ok()
            && control::eval(&self.site, "rabbit:is_running()").is_ok_and(|up| up == "true")
    }

    /// Sends AMQP's protocol header; a broker answers with a method frame (its first byte is 1).
    fn greets(&self) -> Result<()> {
        let mut stream = TcpStream::connect(self.addr())?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"AMQP\x00\x00\x09\x01")?;
        let mut first = [0];
        stream.read_exact(&mut first)?;
        if first == [1] { Ok(()) } else { Err("no AMQP greeting".into()) }
    }

    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        let stat = procfs::process::Process::new(self.site.pid()?)?.stat()?;
        let ticks = stat.utime + stat.stime;
        Ok(Duration::from_millis(ticks * 1_000 / procfs::ticks_per_second()))
    }

    pub(crate) fn resident_bytes(&self) -> Result<u64> {
        let stat = procfs::process::Process::new(self.site.pid()?)?.stat()?;
        Ok(stat.rss * procfs::page_size())
    }

    fn own(&self) -> Result<MutexGuard<'_, Processes>> {
        let own = self.own.as_ref().ok_or("it is shared: start a node of your own for this")?;
        Ok(own.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(own) = self.own.take() {
            drop(own.into_inner().unwrap_or_else(PoisonError::into_inner));
            let _gone = self.gone();
            let _left_to_the_guard = std::fs::remove_dir_all(&self.site.folder);
        }
    }
}

/// Blocks until `check` gives a value, or `None` after `within`.
fn until<T>(within: Duration, mut check: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(value) = check() {
            return Some(value);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
