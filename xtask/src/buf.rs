//! What `buf` says of the protos: their style, and whether they break clients of the last release.
//!
//! Invariant: `proto/released.binpb` is the API of the last release; only a release changes it.

use std::path::Path;

use tokio::process::Command;

use crate::step::{Failure, command, run, workspace};

const RELEASED: &str = "proto/released.binpb";

/// Checks names and layout of the protos.
pub(crate) async fn lint(node_modules: &Path) -> Result<(), Failure> {
    run(buf(node_modules, workspace(), &["lint"])).await
}

/// Checks that the protos still serve the clients of the last release.
pub(crate) async fn breaking(node_modules: &Path) -> Result<(), Failure> {
    run(buf(node_modules, workspace(), &["breaking", "--against", RELEASED])).await
}

/// `buf` in a folder that has a `buf.yaml`.
pub(crate) fn buf(node_modules: &Path, folder: &Path, args: &[&str]) -> Command {
    let mut buf = command(node_modules.join(".bin/buf"), args);
    buf.current_dir(folder);
    buf
}

#[cfg(test)]
mod tests {
    use std::fs;

    use goperation_harness::node_modules;
    use tempfile::TempDir;

    use super::*;
    use crate::tree;

    /// The repository's protos in a folder of their own.
    fn copied() -> TempDir {
        let folder = TempDir::new().unwrap();
        fs::copy(workspace().join("buf.yaml"), folder.path().join("buf.yaml")).unwrap();
        let protos = tree::read(&workspace().join("proto")).unwrap();
        tree::write(&folder.path().join("proto"), &protos).unwrap();
        folder
    }

    fn change(folder: &TempDir, file: &str, from: &str, to: &str) {
        let file = folder.path().join("proto/goperation/v1").join(file);
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains(from), "{from} is not in {}", file.display());
        fs::write(file, text.replacen(from, to, 1)).unwrap();
    }

    /// Whether `buf` accepts, and what it says.
    async fn says(folder: &TempDir, args: &[&str]) -> (bool, String) {
        let out = buf(&node_modules(), folder.path(), args).output().await.unwrap();
        let text = [out.stdout, out.stderr].concat();
        (out.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    #[tokio::test]
    async fn a_removed_field_breaks() {
        let against = ["breaking", "--against", RELEASED];
        let folder = copied();
        assert_eq!(says(&folder, &against).await, (true, String::new()));
        change(&folder, "port.proto", "string name = 6;", "");
        let (accepted, text) = says(&folder, &against).await;
        assert!(!accepted && text.contains("\"6\"") && text.contains("\"name\""), "{text}");
    }

    #[tokio::test]
    async fn a_renamed_message_breaks() {
        let folder = copied();
        change(&folder, "port.proto", "message NewPortRequest {", "message BlankPortRequest {");
        change(&folder, "port.proto", "(NewPortRequest)", "(BlankPortRequest)");
        let (accepted, text) = says(&folder, &["breaking", "--against", RELEASED]).await;
        assert!(!accepted && text.contains("NewPortRequest"), "{text}");
    }

    #[tokio::test]
    async fn a_name_that_is_not_in_style_is_found() {
        let folder = copied();
        assert_eq!(says(&folder, &["lint"]).await, (true, String::new()));
        change(&folder, "port.proto", "string name = 6;", "string portName = 6;");
        let (accepted, text) = says(&folder, &["lint"]).await;
        assert!(!accepted && text.contains("portName"), "{text}");
    }
}
