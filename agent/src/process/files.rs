//! The files of an entity, written from their templates when it is created, and its home given to
//! the user that it runs as.
//!
//! Invariant: every folder is opened from the one above it and no link is followed, so a home
//! that its user has prepared cannot lead the agent elsewhere. A file is there whole, with its
//! owner and mode, or not at all.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Write as _},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use goperation::{Error, Reason, Result};
use rustix::{
    fs::{
        AtFlags, Gid, Mode, OFlags, RawMode, Uid, fchmod, fchown, fstat, mkdirat, open, openat,
        renameat, unlinkat,
    },
    io::Errno,
    process::geteuid,
};

use super::About;
use crate::config::process::{Account, FileConfig, ProcessConfig};

const FOLDER: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// A new file, never one that somebody has put there.
const NEW: OFlags = OFlags::WRONLY
    .union(OFlags::CREATE)
    .union(OFlags::EXCL)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
/// Folders in a home: the owner's, and for his group to read.
const MODE: Mode = Mode::RWXU.union(Mode::RGRP).union(Mode::XGRP);
/// Name of a file that is not whole yet.
const UNDONE: &str = ".gop-undone";

/// Gives the home, which is there, to its user and writes the files. To be repeated is harmless:
/// it writes them again.
///
/// It waits for the disk: do not call it on the async runtime.
///
/// # Errors
/// `INTERNAL` naming the file or folder; `STATE_REFUSED` when it has no port of a name.
pub(crate) fn write(config: &ProcessConfig, about: &About<'_>) -> Result<()> {
    let texts = config
        .files
        .iter()
        .map(|file| Ok((file, about.expand(&file.template)?)))
        .collect::<Result<Vec<_>>>()?;
    let account = config.user.as_ref();
    let home = open_home(about.home, account).map_err(|error| internal(about.home, &error))?;
    for (file, text) in texts {
        write_file(home.as_fd(), file, &text, account)
            .map_err(|error| internal(&about.home.join(&file.path), &error))?;
    }
    Ok(())
}

fn internal(path: &Path, error: &io::Error) -> Error {
    Error::new(Reason::Internal, format!("{} cannot be written: {error}", path.display()))
        .with("path", path.display())
}

/// Opens `<work_dir>/<endpoint>/<number>` and gives it to the user.
fn open_home(home: &Path, account: Option<&Account>) -> io::Result<OwnedFd> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
    let name = home.file_name().ok_or_else(invalid)?;
    let above = home.parent().ok_or_else(invalid)?;
    // The work folder is the operator's and may be a link; what is below it is the agent's.
    let work_dir = open(
        above.parent().ok_or_else(invalid)?,
        FOLDER.difference(OFlags::NOFOLLOW),
        Mode::empty(),
    )?;
    let above = openat(&work_dir, above.file_name().ok_or_else(invalid)?, FOLDER, Mode::empty())?;
    let home = openat(&above, name, FOLDER, Mode::empty())?;
    if account.is_some() {
        // For the user to pass through, not to read.
        let mode = Mode::from_raw_mode(fstat(&above)?.st_mode);
        if !mode.contains(Mode::XOTH) {
            fchmod(&above, mode.union(Mode::XOTH))?;
        }
    }
    give(home.as_fd(), account)?;
    Ok(home)
}

fn write_file(
    home: BorrowedFd<'_>,
    file: &FileConfig,
    text: &str,
    account: Option<&Account>,
) -> io::Result<()> {
    let path = Path::new(&file.path);
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut folder = home.try_clone_to_owned()?;
    for part in path.parent().into_iter().flat_map(Path::iter) {
        folder = enter(folder.as_fd(), part, account)?;
    }
    // What a crash has left; an open file of that name is only removed from the folder.
    match unlinkat(&folder, UNDONE, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let mut new = File::from(openat(&folder, UNDONE, NEW, Mode::RUSR.union(Mode::WUSR))?);
    let written = new
        .write_all(text.as_bytes())
        .and_then(|()| give(new.as_fd(), account))
        .and_then(|()| {
            // After the owner: a change of owner takes rights away.
            let mode = RawMode::try_from(file.mode).map_err(io::Error::other)?;
            Ok(fchmod(&new, Mode::from_raw_mode(mode))?)
        })
        .and_then(|()| new.sync_all())
        // A link in its place is replaced, not followed.
        .and_then(|()| Ok(renameat(&folder, UNDONE, &folder, name)?));
    if written.is_err() {
        let _ = unlinkat(&folder, UNDONE, AtFlags::empty());
    }
    written
}

/// Opens a folder in another one; it is made when it is missing.
fn enter(above: BorrowedFd<'_>, name: &OsStr, account: Option<&Account>) -> io::Result<OwnedFd> {
    let made = match mkdirat(above, name, MODE) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(error) => return Err(error.into()),
    };
    let folder = openat(above, name, FOLDER, Mode::empty())?;
    if made {
        give(folder.as_fd(), account)?;
    }
    Ok(folder)
}

/// Gives what is open to the user, unless it is his already.
fn give(what: BorrowedFd<'_>, account: Option<&Account>) -> io::Result<()> {
    let Some(account) = account else { return Ok(()) };
    let now = fstat(what)?;
    if (now.st_uid, now.st_gid) == (account.uid, account.gid) {
        return Ok(());
    }
    // Something that another one has is not given away: it was put there.
    if now.st_uid != geteuid().as_raw() && now.st_uid != account.uid {
        let owner = now.st_uid;
        return Err(io::Error::other(format!("it belongs to the user {owner}, not to the agent")));
    }
    Ok(fchown(what, Some(Uid::from_raw(account.uid)), Some(Gid::from_raw(account.gid)))?)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
        path::PathBuf,
    };

    use tempfile::TempDir;

    use super::*;
    use crate::process::testing::{config, reserved};

    /// A home as the agent makes it.
    fn home(dir: &TempDir) -> PathBuf {
        let home = dir.path().join("tee/3");
        fs::create_dir_all(&home).unwrap();
        fs::set_permissions(dir.path().join("tee"), fs::Permissions::from_mode(0o750)).unwrap();
        home
    }

    fn write_to(home: &Path, lines: &str) -> Result<()> {
        let ports = [reserved("game", 7001)];
        let about = About { endpoint: "tee", number: 3, home, ports: &ports, address: "h" };
        write(&config(lines), &about)
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn files_are_written_from_their_templates() {
        let dir = tempfile::tempdir().unwrap();
        let home = home(&dir);
        let from = dir.path().join("from");
        fs::write(&from, "motd {endpoint} {{").unwrap();
        let lines = format!(
            "ports = [{{ name = \"game\" }}]\nfiles = [\n\
             {{ path = \"a/b/server.cfg\", template = \"port {{port.game}}\" }},\n\
             {{ path = \"motd\", from = {from:?}, mode = \"444\" }},\n]"
        );
        for _ in 0..2 {
            write_to(&home, &lines).unwrap();
            let config = home.join("a/b/server.cfg");
            assert_eq!(fs::read_to_string(&config).unwrap(), "port 7001");
            assert_eq!((mode(&config), mode(&home.join("a/b"))), (0o640, 0o750));
            assert_eq!(fs::read_to_string(home.join("motd")).unwrap(), "motd tee {");
            assert_eq!(mode(&home.join("motd")), 0o444);
            assert_eq!(fs::read_dir(&home).unwrap().count(), 2, "nothing else is left");
        }
    }

    #[test]
    fn a_link_in_the_home_leads_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let home = home(&dir);
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("passwd"), "kept").unwrap();
        symlink(&outside, home.join("conf")).unwrap();
        symlink(outside.join("passwd"), home.join("motd")).unwrap();
        symlink(outside.join("passwd"), home.join(UNDONE)).unwrap();
        fs::create_dir(home.join("hard")).unwrap();
        fs::hard_link(outside.join("passwd"), home.join("hard/link")).unwrap();

        let file = |path: &str| format!("files = [{{ path = {path:?}, template = \"new\" }}]");
        let refused = write_to(&home, &file("conf/passwd")).unwrap_err();
        assert_eq!(refused.reason, Reason::Internal);
        assert!(refused.message.contains("tee/3/conf/passwd cannot be written"), "{refused}");
        write_to(&home, &file("motd")).unwrap();
        write_to(&home, &file("hard/link")).unwrap();
        assert!(fs::symlink_metadata(home.join("motd")).unwrap().is_file(), "replaced");
        assert_eq!(fs::read_to_string(home.join("hard/link")).unwrap(), "new");
        assert_eq!(fs::read_to_string(outside.join("passwd")).unwrap(), "kept");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);

        fs::remove_dir_all(&home).unwrap();
        symlink(&outside, &home).unwrap();
        write_to(&home, &file("x")).unwrap_err();
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    }

    #[test]
    fn the_home_and_all_that_is_written_belong_to_the_user() {
        let me = geteuid();
        if !me.is_root() {
            // Only root may take another user: said when the configuration is read.
            let error = crate::process::testing::try_config("user = \"root\"").unwrap_err();
            assert!(error.contains("only root may run programs as root"), "{error}");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let home = home(&dir);
        let lines =
            "user = \"nobody\"\nfiles = [{ path = \"a/b\", template = \"\", mode = \"600\" }]";
        write_to(&home, lines).unwrap();
        for path in [home.clone(), home.join("a"), home.join("a/b")] {
            assert_eq!(fs::metadata(&path).unwrap().uid(), 65534, "{}", path.display());
        }
        assert_eq!(mode(&home.join("a/b")), 0o600);
        let above = fs::metadata(home.parent().unwrap()).unwrap();
        assert_eq!((above.uid(), above.permissions().mode() & 0o777), (me.as_raw(), 0o751));

        // What a third one has is not given away.
        std::os::unix::fs::chown(&home, Some(1), Some(1)).unwrap();
        let refused = write_to(&home, lines).unwrap_err();
        assert!(refused.message.contains("it belongs to the user 1"), "{refused}");
    }
}
