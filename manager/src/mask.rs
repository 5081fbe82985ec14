//! What an operator may set on agents and entities alike: description and labels.
//!
//! Invariant: a path of a mask that is not one of these is refused by name, and nothing is set.

use std::collections::{BTreeMap, HashMap};

use goperation::Result;
use prost_types::FieldMask;

use crate::check::{self, Violations};

/// What is set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Change {
    description: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    /// Single labels: set, or removed.
    label: BTreeMap<String, Option<String>>,
    /// Other paths that were named.
    more: Vec<&'static str>,
}

impl Change {
    /// Everything, as an update has it. `field` is the path of the resource in the request.
    pub(crate) fn whole(
        field: &str,
        description: &str,
        labels: &HashMap<String, String>,
    ) -> Result<Self> {
        let mut bad = Violations::default();
        check::description(&mut bad, &format!("{field}.description"), description);
        let labels = check::labels(&mut bad, &format!("{field}.labels"), labels);
        bad.finish()?;
        Ok(Self {
            description: Some(description.to_owned()),
            labels: Some(labels),
            ..Self::default()
        })
    }

    /// What a mask names; without a mask, the fields that have a value. `more` are other paths
    /// that it may name.
    pub(crate) fn masked(
        field: &str,
        mask: Option<&FieldMask>,
        description: &str,
        labels: &HashMap<String, String>,
        more: &[&'static str],
    ) -> Result<Self> {
        let Self { description: whole, labels: all, .. } = Self::whole(field, description, labels)?;
        let all = all.unwrap_or_default();
        let mut change = Self::default();
        let paths = mask.map(|mask| mask.paths.as_slice()).unwrap_or_default();
        if paths.is_empty() {
            change.description = whole.filter(|text| !text.is_empty());
            change.labels = Some(all).filter(|labels| !labels.is_empty());
            return Ok(change);
        }
        let mut bad = Violations::default();
        for path in paths {
            match (path.as_str(), path.strip_prefix("labels.")) {
                ("description", _) => change.description.clone_from(&whole),
                ("labels", _) => change.labels = Some(all.clone()),
                (_, Some(key)) if check::is_label_key(key) => {
                    change.label.insert(key.to_owned(), all.get(key).cloned());
                }
                (path, _) => match more.iter().find(|known| **known == path) {
                    Some(known) => change.more.push(known),
                    None => bad.add("update_mask", cannot_be_set(path, more)),
                },
            }
        }
        bad.finish()?;
        Ok(change)
    }

    /// The paths that were named besides description and labels.
    pub(crate) fn more(&self) -> &[&'static str] {
        &self.more
    }

    /// Sets it, and says whether that changed anything.
    pub(crate) fn apply(
        &self,
        description: &mut String,
        labels: &mut BTreeMap<String, String>,
    ) -> bool {
        let before = (description.clone(), labels.clone());
        if let Some(new) = &self.description {
            description.clone_from(new);
        }
        if let Some(new) = &self.labels {
            labels.clone_from(new);
        }
        for (key, value) in &self.label {
            match value {
                Some(value) => labels.insert(key.clone(), value.clone()),
                None => labels.remove(key),
            };
        }
        before != (description.clone(), labels.clone())
    }
}

fn cannot_be_set(path: &str, more: &[&'static str]) -> String {
    let can = [&["description", "labels", "labels.KEY"], more].concat().join(", ");
    format!("`{path}` cannot be set; only these can: {can}")
}

/// Constraints of the fields that an operator may set, for blank resources.
pub(crate) fn constraints() -> HashMap<String, String> {
    HashMap::from([
        ("description".to_owned(), format!("at most {} characters", check::DESCRIPTION)),
        (
            "labels".to_owned(),
            format!(
                "at most {}; a key has 1 to {} letters, digits or any of . _ - /, a value at most \
                 {} characters",
                check::LABELS,
                check::LABEL_KEY,
                check::LABEL_VALUE
            ),
        ),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(paths: &[&str]) -> Result<(String, BTreeMap<String, String>)> {
        let mask = FieldMask { paths: paths.iter().map(|&p| p.to_owned()).collect() };
        let given = HashMap::from([("a".to_owned(), "1".to_owned())]);
        let change = Change::masked("agent", Some(&mask), "new", &given, &["facts"])?;
        let mut description = "old".to_owned();
        let mut labels = BTreeMap::from([("b".to_owned(), "2".to_owned())]);
        change.apply(&mut description, &mut labels);
        Ok((description, labels))
    }

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect()
    }

    #[test]
    fn only_what_is_named_is_set() {
        for (paths, description, expected) in [
            (&["description"][..], "new", labels(&[("b", "2")])),
            (&["labels"], "old", labels(&[("a", "1")])),
            (&["labels.a"], "old", labels(&[("a", "1"), ("b", "2")])),
            (&["labels.b"], "old", labels(&[])),
            (&[], "new", labels(&[("a", "1")])),
        ] {
            assert_eq!(edit(paths).unwrap(), (description.to_owned(), expected), "{paths:?}");
        }
    }

    #[test]
    fn other_paths_are_handed_on() {
        let mask = FieldMask { paths: vec!["facts".to_owned()] };
        let change = Change::masked("agent", Some(&mask), "new", &HashMap::new(), &["facts"]);
        let change = change.unwrap();
        assert_eq!(change.more(), ["facts"]);
        assert!(!change.apply(&mut "old".to_owned(), &mut BTreeMap::new()));
    }

    #[test]
    fn every_other_path_is_named() {
        let error = edit(&["host", "description", "facts", "status"]).unwrap_err();
        assert_eq!(error.violations.len(), 2);
        assert!(error.message.contains("`host`") && error.message.contains("`status`"));
    }
}
