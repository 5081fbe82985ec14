//! The programs of the recipes and of the tours as an editor sees them: the type checkers have
//! nothing to say.

use std::{fs, os::unix::fs::symlink, path::Path, time::Duration};

use goperation_harness::{node_modules, node_program, venv_program};
use serde_json::{Map, json};

use crate::{
    clients::{EXPORTS, command, output},
    recipes::programs,
};

const WITHIN: Duration = Duration::from_secs(240);

fn copy(from: &str, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(from)).unwrap() {
        let (path, name) = file.map(|file| (file.path(), file.file_name())).unwrap();
        let to = to.join(&name);
        if path.is_dir() {
            copy(path.to_str().unwrap(), &to);
        } else {
            fs::copy(&path, &to).unwrap();
        }
    }
}

/// Writes the programs of that language on all pages into a folder.
fn write(kind: &str, suffix: &str, folder: &Path) -> usize {
    fs::create_dir_all(folder).unwrap();
    let programs = programs(kind);
    for (name, program) in &programs {
        let mark = if kind == "ts" { "export {};\n" } else { "" };
        fs::write(folder.join(format!("{name}.{suffix}")), format!("{program}{mark}")).unwrap();
    }
    assert!(programs.len() > 30, "the programs are found");
    programs.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn tsc_agrees() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    copy("sdk/typescript/src", &folder.join("sdk"));
    copy("tests/clients/tour", &folder.join("tour"));
    write("ts", "ts", &folder.join("recipes"));
    symlink(node_modules(), folder.join("node_modules")).unwrap();
    fs::write(folder.join("package.json"), r#"{"type": "module"}"#).unwrap();
    let paths: Map<_, _> = EXPORTS
        .into_iter()
        .map(|(name, export)| {
            (format!("@goperation/client{name}"), json!([format!("./sdk/{export}.ts")]))
        })
        .collect();
    let config = json!({
        "compilerOptions": {
            "strict": true, "noEmit": true, "skipLibCheck": true, "verbatimModuleSyntax": true,
            "exactOptionalPropertyTypes": true, "noUncheckedIndexedAccess": true,
            "module": "NodeNext", "target": "ES2022", "lib": ["ES2022", "DOM"], "types": ["node"],
            "paths": paths,
        },
        "include": ["recipes/*.ts", "tour/*.ts"],
    });
    fs::write(folder.join("tsconfig.json"), config.to_string()).unwrap();
    let mut tsc = command(node_program("tsc"));
    tsc.arg("--project").arg(folder);
    output(tsc, WITHIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mypy_agrees() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write("python", "py", folder);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // It has stubs and does not say so.
    let config = "[mypy]\n[mypy-google.rpc.*]\nfollow_untyped_imports = True\n";
    fs::write(folder.join("mypy.ini"), config).unwrap();
    let mut mypy = command(venv_program("mypy"));
    mypy.args(["--strict", "--scripts-are-modules", "--cache-dir=/dev/null", "--config-file"])
        .arg(folder.join("mypy.ini"))
        .arg("tests/clients/tour/tour.py")
        .env("MYPYPATH", root.join("sdk/python/src"));
    for (name, _) in programs("python") {
        mypy.arg(folder.join(format!("{name}.py")));
    }
    output(mypy, WITHIN).await;
}
