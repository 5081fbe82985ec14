//! Checks of single fields: each gives the checked value, or an error at the field's place.

use std::{
    env,
    fs::{self, DirBuilder},
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _, UdpSocket},
    ops::Range,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process,
};

use goperation::{ConfigError, Error, HostName, MethodName};
use rustix::fs::{Access, access};
use toml::Spanned;
use tonic::codegen::http::Uri;

use super::Driver;
use crate::{ports::PortRanges, token::TOKEN};

/// The text that is checked, to find places in.
pub(super) struct Source<'a> {
    pub(super) file: &'a Path,
    pub(super) text: &'a str,
}

impl Source<'_> {
    /// An error at a place.
    pub(super) fn bad(&self, span: Range<usize>, message: impl Into<String>) -> ConfigError {
        ConfigError::at(self.file, self.text, span, message)
    }

    /// A name that was refused; without a place it was a default.
    pub(super) fn refused(&self, span: Option<Range<usize>>, error: Error) -> ConfigError {
        let rule = error.violations.into_iter().next();
        let (field, message) = match rule {
            Some(violation) => (violation.field, violation.description),
            None => (String::new(), error.message),
        };
        match span {
            Some(span) => self.bad(span, message),
            None => ConfigError::new(self.file, field, message),
        }
    }

    /// A table that was refused; its fields are named by the error.
    pub(super) fn refused_in(&self, table: &str, error: Error) -> ConfigError {
        let (field, message) = match error.violations.into_iter().next() {
            Some(bad) => (format!("{table}.{}", bad.field), bad.description),
            None => (table.to_owned(), error.message),
        };
        ConfigError::in_field(self.file, self.text, field, message)
    }
}

/// The host's name: the given one, else the machine's.
pub(super) fn host(
    source: &Source<'_>,
    given: Option<&Spanned<String>>,
) -> Result<HostName, ConfigError> {
    if let Some(given) = given {
        return HostName::parse("host", given.get_ref())
            .map_err(|error| source.refused(Some(given.span()), error));
    }
    let own = rustix::system::uname();
    let own = own.nodename().to_string_lossy();
    HostName::parse("host", &own).map_err(|_| {
        let message = format!("the machine's name `{own}` cannot be used: set host");
        ConfigError::new(source.file, "host", message)
    })
}

/// Where the manager listens.
pub(super) fn manager(source: &Source<'_>, given: &Spanned<String>) -> Result<String, ConfigError> {
    let uri: Option<Uri> = given.get_ref().parse().ok();
    let good = uri.is_some_and(|uri| {
        uri.scheme_str() == Some("http")
            && uri.host().is_some_and(|host| !host.is_empty())
            && uri.path_and_query().is_none_or(|path| path == "/")
    });
    if good {
        Ok(given.get_ref().clone())
    } else {
        Err(source.bad(given.span(), "must be http://host:port"))
    }
}

/// The address at which the host is reached: the given one, else the way to the manager.
pub(super) fn address(
    source: &Source<'_>,
    given: Option<&Spanned<String>>,
    manager: &str,
) -> Result<String, ConfigError> {
    let Some(given) = given else {
        return Ok(local_address(manager).to_string());
    };
    let text = given.get_ref();
    if text.parse::<IpAddr>().is_ok() || HostName::parse("address", text).is_ok() {
        return Ok(text.clone());
    }
    Err(source.bad(given.span(), format!("`{text}` is neither an IP address nor a host name")))
}

/// The local address of the way to a URI: what the manager sees of this host. It falls back to
/// the default route's, then to loopback. It may ask the resolver, so it blocks.
#[must_use]
pub fn local_address(manager: &str) -> IpAddr {
    /// Reserved for documentation: never reached, only routed.
    const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    let toward = |remote: SocketAddr| -> Option<IpAddr> {
        let any: IpAddr = if remote.is_ipv4() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            std::net::Ipv6Addr::UNSPECIFIED.into()
        };
        // A UDP socket that is connected sends nothing: the kernel only picks the route.
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect(remote).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    let uri: Option<Uri> = manager.parse().ok();
    let remote = uri.and_then(|uri| {
        let host = uri.host()?.trim_matches(['[', ']']).to_owned();
        (host, uri.port_u16().unwrap_or(80)).to_socket_addrs().ok()?.next()
    });
    remote
        .and_then(toward)
        .or_else(|| toward((ELSEWHERE, 9).into()))
        .unwrap_or(Ipv4Addr::LOCALHOST.into())
}

/// The name of a method; those of an entity's life have a name of their own.
pub(super) fn method_name(
    source: &Source<'_>,
    key: &Spanned<String>,
    driver: Driver,
) -> Result<MethodName, ConfigError> {
    let name = MethodName::parse("method", key.get_ref())
        .map_err(|error| source.refused(Some(key.span()), error))?;
    if name.as_str() == TOKEN {
        return Err(source.bad(key.span(), "is the agent's own"));
    }
    let verbs = ["start", "stop", "restart", "kill"];
    if driver == Driver::Process
        && verbs.contains(&name.as_str().strip_suffix("_entity").unwrap_or(name.as_str()))
    {
        return Err(source.bad(key.span(), "is the work of the driver process"));
    }
    match name.as_str().strip_suffix("_entity") {
        Some(short)
            if verbs.contains(&short) || ["create", "delete", "status"].contains(&short) =>
        {
            Err(source.bad(key.span(), format!("is the agent's own: name it {short}")))
        }
        _ => Ok(name),
    }
}

/// A variable of the environment.
pub(super) fn variable(
    source: &Source<'_>,
    key: &Spanned<String>,
    value: &Spanned<String>,
) -> Result<(), ConfigError> {
    let name = key.get_ref();
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err(source.bad(key.span(), "is not the name of a variable"));
    }
    if name.starts_with("GOP_") {
        return Err(source.bad(key.span(), "variables that begin with GOP_ are the agent's own"));
    }
    if value.get_ref().contains('\0') {
        return Err(source.bad(value.span(), "must not hold a NUL"));
    }
    Ok(())
}

/// A program and its arguments: an absolute path, or a name in `path`.
pub(super) fn program(
    source: &Source<'_>,
    command: &Spanned<Vec<Spanned<String>>>,
    path: Option<&str>,
) -> Result<Vec<String>, ConfigError> {
    find_program(source, command, path)?;
    Ok(command.get_ref().iter().map(|argument| argument.get_ref().clone()).collect())
}

/// Where the program of a command is: at its absolute path, or in `path`.
pub(super) fn find_program(
    source: &Source<'_>,
    command: &Spanned<Vec<Spanned<String>>>,
    path: Option<&str>,
) -> Result<PathBuf, ConfigError> {
    let Some(first) = command.get_ref().first() else {
        return Err(source.bad(command.span(), "must name a program"));
    };
    for argument in command.get_ref() {
        if argument.get_ref().contains('\0') {
            return Err(source.bad(argument.span(), "must not hold a NUL"));
        }
    }
    let name = first.get_ref();
    let found = if name.starts_with('/') {
        runnable(Path::new(name))
            .map(|()| name.into())
            .map_err(|error| format!("{name} cannot be run: {error}"))
    } else if name.is_empty() || name.contains('/') {
        Err(format!("`{name}` must be an absolute path, or a name to look for in PATH"))
    } else {
        let path = path.map(Into::into).or_else(|| env::var_os("PATH")).unwrap_or_default();
        env::split_paths(&path)
            .map(|dir| dir.join(name))
            .find(|program| runnable(program).is_ok())
            .ok_or_else(|| format!("{name} is not in PATH; give its absolute path"))
    };
    found.map_err(|message| source.bad(first.span(), message))
}

fn runnable(path: &Path) -> io::Result<()> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    access(path, Access::EXEC_OK).map_err(io::Error::from)
}

/// The ports that entities may have.
pub(super) fn port_ranges(
    source: &Source<'_>,
    given: &[Spanned<String>],
) -> Result<PortRanges, ConfigError> {
    let entries: Vec<&str> = given.iter().map(|entry| entry.get_ref().as_str()).collect();
    PortRanges::parse("ports_ranges", &entries).map_err(|error| {
        let index = error.violations.first().and_then(|violation| {
            let (_, index) = violation.field.rsplit_once('[')?;
            index.strip_suffix(']')?.parse::<usize>().ok()
        });
        source.refused(index.and_then(|index| given.get(index)).map(Spanned::span), error)
    })
}

/// A folder that can be written, as an absolute path; it is made, with that mode, when it is missing.
pub(super) fn folder(
    source: &Source<'_>,
    field: &str,
    span: Range<usize>,
    path: &Path,
    mode: u32,
) -> Result<PathBuf, ConfigError> {
    let refuse = |error: io::Error| ConfigError {
        field: field.to_owned(),
        ..source.bad(span.clone(), format!("folder {} cannot be used: {error}", path.display()))
    };
    let path = std::path::absolute(path).map_err(refuse)?;
    let probe = path.join(format!(".gop-probe-{}", process::id()));
    make(&path, mode)
        // Only writing tells: permissions say nothing of a read-only or full file system.
        .and_then(|()| fs::write(&probe, b"probe"))
        .and_then(|()| fs::remove_file(&probe))
        .map_err(|error| {
            let _ = fs::remove_file(&probe);
            refuse(error)
        })?;
    Ok(path)
}

/// The mode is that of the folder itself, when it is new.
fn make(path: &Path, mode: u32) -> io::Result<()> {
    let folder = || match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    };
    match (folder(), path.parent()) {
        (Err(error), Some(parent)) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(parent)?;
            folder()
        }
        (made, _) => made,
    }
}
