//! All files of a folder, as a value.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::{fs, io};

/// The contents of files by their path in the folder.
pub(crate) type Tree = BTreeMap<PathBuf, Vec<u8>>;

/// Reads a folder; one that is not there is empty.
pub(crate) fn read(folder: &Path) -> io::Result<Tree> {
    let mut tree = Tree::new();
    if folder.try_exists()? {
        read_into(&mut tree, folder, Path::new(""))?;
    }
    Ok(tree)
}

fn read_into(tree: &mut Tree, folder: &Path, below: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if !entry.file_type()?.is_dir() {
            tree.insert(path, fs::read(entry.path())?);
        } else if !is_left_behind(&entry.file_name().to_string_lossy()) {
            read_into(tree, folder, &path)?;
        }
    }
    Ok(())
}

/// Folders that programs leave among sources.
fn is_left_behind(name: &str) -> bool {
    ["__pycache__", "node_modules", "dist"].contains(&name)
}

/// Makes `folder` hold these files and no others.
pub(crate) fn write(folder: &Path, tree: &Tree) -> io::Result<()> {
    if folder.try_exists()? {
        fs::remove_dir_all(folder)?;
    }
    for (path, content) in tree {
        let file = folder.join(path);
        fs::create_dir_all(file.parent().unwrap_or(folder))?;
        fs::write(file, content)?;
    }
    Ok(())
}

/// The paths that are in only one of the two, or differ.
pub(crate) fn differing<'a>(one: &'a Tree, other: &'a Tree) -> BTreeSet<&'a Path> {
    let paths = one.keys().chain(other.keys());
    paths.filter(|path| one.get(*path) != other.get(*path)).map(PathBuf::as_path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> Tree {
        files.iter().map(|(path, text)| (path.into(), text.as_bytes().to_vec())).collect()
    }

    #[test]
    fn what_is_written_is_read_again_and_nothing_else_is_left() {
        let folder = tempfile::TempDir::new().unwrap();
        let folder = folder.path().join("new");
        assert_eq!(read(&folder).unwrap(), Tree::new());
        write(&folder, &tree(&[("old", "1")])).unwrap();
        let files = tree(&[("a", "1"), ("b/c", "2")]);
        write(&folder, &files).unwrap();
        fs::create_dir(folder.join("b/__pycache__")).unwrap();
        fs::write(folder.join("b/__pycache__/c.pyc"), "3").unwrap();
        assert_eq!(read(&folder).unwrap(), files);
    }

    #[test]
    fn files_that_differ_are_named() {
        let one = tree(&[("same", "1"), ("changed", "1"), ("only/one", "1")]);
        let other = tree(&[("same", "1"), ("changed", "2"), ("other", "1")]);
        let differing: Vec<_> = differing(&one, &other).into_iter().collect();
        assert_eq!(differing, ["changed", "only/one", "other"].map(Path::new));
    }
}
