//! With a real package manager: dpkg installs a real package, into a folder with a database of its
//! own, so that the machine's is not touched.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use goperation::{Reason, v1::UpgradeState};
use goperation_harness::{find_program, gop};

use super::{ends, stage::Stage};

/// dpkg, but for the folders and the package.
const DPKG: [&str; 5] = [
    "dpkg",
    "--force-not-root",
    "--force-bad-path",
    "--force-script-chrootless",
    "--log=/dev/null",
];

/// Builds a package whose `/usr/bin/gop` writes its pid into `started` and becomes the real one.
fn build(folder: &Path, name: &str, started: &Path) -> PathBuf {
    let root = folder.join(name);
    let bin = root.join("usr/bin");
    fs::create_dir_all(&bin).unwrap();
    fs::create_dir_all(root.join("DEBIAN")).unwrap();
    let control = "Package: gop\nVersion: 9.9\nArchitecture: all\n\
                   Maintainer: A Test <test@localhost>\nDescription: the next one\n";
    fs::write(root.join("DEBIAN/control"), control).unwrap();
    let program = format!("#!/bin/sh\necho $$ >> {started:?}\nexec {:?} \"$@\"\n", gop());
    fs::write(bin.join("gop"), program).unwrap();
    fs::set_permissions(bin.join("gop"), fs::Permissions::from_mode(0o755)).unwrap();
    let deb = folder.join(format!("{name}.deb"));
    let mut build = Command::new("dpkg-deb");
    let built =
        build.args(["--root-owner-group", "--build"]).arg(&root).arg(&deb).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    deb
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_package_is_installed_and_runs() {
    // Where there is no dpkg there is nothing that this could show.
    if find_program("dpkg-deb", &[]).is_none() {
        eprintln!("no dpkg here: not run");
        return;
    }
    let mut stage = Stage::start_with("", |folder, _| {
        let database = folder.join("dpkg");
        fs::create_dir_all(database.join("updates")).unwrap();
        fs::create_dir_all(database.join("info")).unwrap();
        fs::write(database.join("status"), "").unwrap();
        let admin = format!("--admindir={}", database.display());
        let root = format!("--instdir={}", folder.join("root").display());
        let words = DPKG.into_iter().chain([&*admin, &*root, "--install", "{file}"]);
        format!("{:?}", words.collect::<Vec<_>>())
    })
    .await;
    let started = stage.path().join("started");
    let pid = stage.agent.process().pid();

    // No package at all: dpkg says so, and its words are in the log.
    let error = stage.upgrade(&started.display().to_string(), "").await.unwrap().unwrap_err();
    assert_eq!(error.reason, Reason::MethodFailed, "{error:?}");
    let told = ends(&stage, UpgradeState::Failed).await;
    assert!(told.output.contains("dpkg: error"), "{told:?}");
    assert!(!started.exists());

    let deb = build(stage.path(), "next", &started);
    let told = stage.upgrade(&deb.display().to_string(), "").await.unwrap();
    let told = told.unwrap_or_else(|error| panic!("{error:?}"));
    assert!(told.output.contains("Setting up gop (9.9)"), "{told:?}");
    assert_eq!(ends(&stage, UpgradeState::Succeeded).await, told);
    // The process of the agent has become what was installed.
    assert_eq!(fs::read_to_string(&started).unwrap().trim(), pid.to_string());
    assert!(stage.agent.runs());
    stage.game_is_minded().await;
    stage.end().await;
}
