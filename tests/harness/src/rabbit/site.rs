//! What a node is made of: its name, ports and folder, and the environment that follows from them.
//!
//! Invariant: nothing of the system's own RabbitMQ is read or written. Every path that the server
//! would take from `/etc` or `/var` is set, and HOME with its cookie is the node's own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Result, find_program, free_port, guard};

// The plain scripts come first: the wrappers of the same name in PATH switch to the system's user.
const FOLDERS: [&str; 3] =
    ["/usr/lib/rabbitmq/bin", "/opt/homebrew/opt/rabbitmq/sbin", "/usr/local/opt/rabbitmq/sbin"];
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// One node's name, ports and folder: all that another process needs to use it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Site {
    /// The Erlang node name.
    pub(crate) name: String,
    /// The folder that holds everything of the node.
    pub(crate) folder: PathBuf,
    /// AMQP, on 127.0.0.1.
    pub(crate) amqp_port: u16,
    /// Erlang distribution, on 127.0.0.1.
    dist_port: u16,
    /// The node's own port mapper, on 127.0.0.1.
    pub(crate) epmd_port: u16,
}

impl Site {
    /// Lays out a new node in the scratch folder.
    pub(crate) fn create() -> Result<Self> {
        let short = Uuid::new_v4().simple().to_string()[..12].to_owned();
        let site = Self {
            folder: guard::scratch().join(format!("rabbit-{short}")),
            // `@localhost`: the name of the machine need not resolve.
            name: format!("gop-{short}@localhost"),
            amqp_port: free_port(),
            dist_port: free_port(),
            epmd_port: free_port(),
        };
        fs::create_dir_all(site.folder.join("home"))?;
        let cookie = site.folder.join("home/.erlang.cookie");
        fs::write(&cookie, Uuid::new_v4().simple().to_string())?;
        fs::set_permissions(&cookie, fs::Permissions::from_mode(0o400))?;
        fs::write(site.folder.join("enabled_plugins"), "[].\n")?;
        fs::write(site.folder.join("env.conf"), "")?;
        // A full disk or a small machine must not turn into a blocked publisher in a test.
        fs::write(
            site.folder.join("rabbitmq.conf"),
            format!(
                "listeners.tcp.1 = 127.0.0.1:{}\n\
                 disk_free_limit.absolute = 1MB\n\
                 vm_memory_high_watermark.relative = 0.8\n",
                site.amqp_port
            ),
        )?;
        Ok(site)
    }

    /// The secret that the node and its tools share.
    pub(crate) fn cookie(&self) -> Result<String> {
        Ok(fs::read_to_string(self.folder.join("home/.erlang.cookie"))?)
    }

    /// The file that receives what the server prints.
    pub(crate) fn output(&self) -> PathBuf {
        self.folder.join("output")
    }

    /// The pid of the Erlang machine, from the file that it writes at start.
    pub(crate) fn pid(&self) -> Result<i32> {
        let text = fs::read_to_string(self.pid_file())?;
        Ok(text.trim().parse()?)
    }

    pub(crate) fn pid_file(&self) -> PathBuf {
        self.folder.join("pid")
    }

    /// The last lines of the node's log and output, for an error message.
    pub(crate) fn log_tail(&self) -> String {
        let log = self.folder.join("log").join(format!("{}.log", self.name));
        [self.output(), log].map(|file| tail(&file, 20)).join("\n")
    }

    /// `program` with the node's environment, and nothing of ours but PATH.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", format!("{path}:{SYSTEM_PATH}"))
            .env("LANG", "C.UTF-8")
            .env("HOME", self.folder.join("home"))
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("ERL_EPMD_PORT", self.epmd_port.to_string())
            .env("RABBITMQ_NODENAME", &self.name)
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", self.amqp_port.to_string())
            .env("RABBITMQ_DIST_PORT", self.dist_port.to_string())
            .env("RABBITMQ_CTL_DIST_PORT_MIN", "0")
            .env("RABBITMQ_CTL_DIST_PORT_MAX", "0")
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "-kernel inet_dist_use_interface {127,0,0,1}",
            )
            .env("RABBITMQ_PID_FILE", self.pid_file())
            .stdin(Stdio::null());
        for (variable, file) in [
            ("RABBITMQ_MNESIA_BASE", "data"),
            ("RABBITMQ_LOG_BASE", "log"),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", "enabled_plugins"),
            ("RABBITMQ_CONF_ENV_FILE", "env.conf"),
            ("RABBITMQ_CONFIG_FILE", "rabbitmq.conf"),
            ("RABBITMQ_ADVANCED_CONFIG_FILE", "advanced.config"),
            ("RABBITMQ_GENERATED_CONFIG_DIR", "generated"),
            ("RABBITMQ_PLUGINS_EXPAND_DIR", "plugins"),
        ] {
            command.env(variable, self.folder.join(file));
        }
        command.current_dir(&self.folder);
        command
    }
}

/// The RabbitMQ script or Erlang program called `name`.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    find_program(name, &FOLDERS)
        .or_else(|| find_program(name, &["/usr/lib/erlang/bin", "/usr/sbin", "/usr/bin"]))
        .ok_or_else(|| {
            format!("{name} is missing: install the package rabbitmq-server, or `cargo xtask test`")
                .into()
        })
}

/// The last `count` lines of `file`, or why there are none.
pub(crate) fn tail(file: &Path, count: usize) -> String {
    match fs::read(file) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(count)..].join("\n")
        }
        Err(error) => format!("({}: {error})", file.display()),
    }
}
