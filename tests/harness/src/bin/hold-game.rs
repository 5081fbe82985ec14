//! A game server that misbehaves on demand, for the tests of processes.
//!
//! Invariant: each start adds a line `start NAME PID` to the ledger before anything else is done,
//! and two that live at once under one name add a line `VIOLATION`, so that no start of one goes
//! unseen, whatever becomes of the process.

#![expect(clippy::expect_used, reason = "a game of the tests: what it cannot do ends it, loudly")]

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::Write as _,
    net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket},
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
    str::FromStr,
    time::Duration,
};

use goperation_harness::{Ledger, guard::Swept};
use tokio::signal::unix::{SignalKind, signal};

/// What is asked of it.
struct Game {
    /// Where its lines go.
    ledger: Ledger,
    /// What it calls itself there, and in the lock.
    name: String,
    /// Where its lock file is; none is taken without it.
    locks: Option<PathBuf>,
    /// Address of its ports.
    address: IpAddr,
    tcp: Vec<u16>,
    udp: Vec<u16>,
    /// Waits so long before it binds.
    late: Duration,
    /// Printed when it is up.
    ready: Option<String>,
    /// Printed on stderr at once.
    says: Option<String>,
    /// Ends at once with that code.
    exit: Option<u8>,
    /// How it ends at SIGUSR1.
    user_exit: u8,
    /// Starts so many children, each with a session and a child of its own.
    forks: u32,
    /// It is such a child, of that depth.
    child: Option<u32>,
    /// Does not end at SIGTERM.
    stubborn: bool,
    /// Writes to stdout as fast as it can.
    floods: bool,
    /// A folder whose processes end with this one: for the harness's own test.
    swept: Option<Swept>,
}

impl Game {
    fn parse(mut words: impl Iterator<Item = String>) -> Self {
        let mut game = Self {
            ledger: Ledger::at("/dev/null"),
            name: "game".to_owned(),
            locks: None,
            address: Ipv4Addr::LOCALHOST.into(),
            tcp: Vec::new(),
            udp: Vec::new(),
            late: Duration::ZERO,
            ready: None,
            says: None,
            exit: None,
            user_exit: 7,
            forks: 0,
            child: None,
            stubborn: false,
            floods: false,
            swept: None,
        };
        while let Some(flag) = words.next() {
            let words = &mut words;
            match flag.as_str() {
                "--ledger" => game.ledger = Ledger::at(value::<PathBuf>(&flag, words)),
                "--name" => game.name = value(&flag, words),
                "--locks" => game.locks = Some(value(&flag, words)),
                "--address" => game.address = value(&flag, words),
                "--tcp" => game.tcp.push(value(&flag, words)),
                "--udp" => game.udp.push(value(&flag, words)),
                "--late-ms" => game.late = Duration::from_millis(value(&flag, words)),
                "--ready" => game.ready = Some(value(&flag, words)),
                "--say" => game.says = Some(value(&flag, words)),
                "--exit" => game.exit = Some(value(&flag, words)),
                "--user-exit" => game.user_exit = value(&flag, words),
                "--forks" => game.forks = value(&flag, words),
                "--child" => game.child = Some(value(&flag, words)),
                "--ignore-term" => game.stubborn = true,
                "--swept" => game.swept = Some(Swept::folder(value::<PathBuf>(&flag, words))),
                "--flood" => game.floods = true,
                _ => panic!("what is {flag}?"),
            }
        }
        game
    }

    fn tell(&self, what: &str) {
        self.ledger.append(&format!("{what} {} {}", self.name, std::process::id()));
    }

    /// Held as long as it lives, and let go of by the kernel.
    fn lock(&self) -> Option<File> {
        let path = self.locks.as_ref()?.join(&self.name);
        let file = OpenOptions::new().create(true).append(true).open(path).expect("a lock file");
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => self.tell("VIOLATION"),
            Err(TryLockError::Error(error)) => panic!("the lock: {error}"),
        }
        Some(file)
    }

    /// Starts a child that cannot be found by its session, and every second one not by its
    /// environment either.
    fn fork(&self, number: u32, depth: u32) {
        let mut command = Command::new(std::env::current_exe().expect("its own path"));
        command
            .args(["--name", &self.name, "--child", &depth.to_string(), "--ledger"])
            .arg(self.ledger.path())
            .stdin(Stdio::null());
        if number % 2 == 1 {
            command.env_clear();
        }
        #[expect(clippy::zombie_processes, reason = "what a bad game leaves behind")]
        let _running = command.spawn().expect("a child");
    }

    /// Makes a session, then a child in its turn, and ends: the youngest has no parent any more.
    fn run_child(&self, depth: u32) -> ! {
        rustix::process::setsid().expect("a session");
        if depth > 0 {
            self.fork(0, depth - 1);
            std::process::exit(0);
        }
        self.tell("child");
        loop {
            std::thread::park();
        }
    }

    async fn run(self) -> ExitCode {
        let _lock = self.lock();
        if let Some(text) = &self.says {
            eprintln!("{text}");
        }
        if let Some(code) = self.exit {
            return ExitCode::from(code);
        }
        let mut term = signal(SignalKind::terminate()).expect("a handler");
        let mut user = signal(SignalKind::user_defined1()).expect("a handler");
        for number in 0..self.forks {
            self.fork(number, 1);
        }
        tokio::time::sleep(self.late).await;
        let _tcp: Vec<_> = self
            .tcp
            .iter()
            .map(|port| TcpListener::bind((self.address, *port)).expect("a TCP port"))
            .collect();
        let _udp: Vec<_> = self
            .udp
            .iter()
            .map(|port| UdpSocket::bind((self.address, *port)).expect("a UDP port"))
            .collect();
        self.tell("up");
        if let Some(text) = &self.ready {
            println!("{text}");
        }
        if self.floods {
            let (ledger, name) = (self.ledger.clone(), self.name.clone());
            std::thread::spawn(move || flood(&ledger, &name));
        }
        loop {
            tokio::select! {
                _ = term.recv() => {
                    self.tell("term");
                    if !self.stubborn {
                        return ExitCode::SUCCESS;
                    }
                }
                _ = user.recv() => return ExitCode::from(self.user_exit),
            }
        }
    }
}

fn value<T: FromStr>(flag: &str, words: &mut impl Iterator<Item = String>) -> T {
    let word = words.next().unwrap_or_else(|| panic!("{flag} wants a value"));
    word.parse().unwrap_or_else(|_| panic!("{flag} {word}: not a value for it"))
}

/// Adds a line `flooded NAME MIB` for each 64 MiB that somebody has taken.
fn flood(ledger: &Ledger, name: &str) {
    let chunk = "All work and no play makes Jack a dull boy.\n".repeat(1500);
    let mut out = std::io::stdout().lock();
    let (mut written, mut told) = (0, 0);
    while out.write_all(chunk.as_bytes()).is_ok() {
        written += chunk.len();
        if (written >> 26) > told {
            told = written >> 26;
            ledger.append(&format!("flooded {name} {}", told << 6));
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let game = Game::parse(std::env::args().skip(1));
    if let Some(depth) = game.child {
        game.run_child(depth);
    }
    game.tell("start");
    game.run().await
}
