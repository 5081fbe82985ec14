//! The rows of the table, in groups that share what they start.
//!
//! Invariant: a row is in one group, and a group measures of its rows those that are wanted.

mod call;
mod cast;
mod idle;
mod known;
mod lock;
mod ports;
mod request;
mod rest;
mod start;
mod storm;

use futures::future::LocalBoxFuture;

use crate::{
    Result,
    bench::Bench,
    row::{Measured, Row},
};

/// Rows that are measured together.
struct Group {
    rows: &'static [Row],
    measure: for<'a> fn(&'a Bench, &'a Wanted) -> LocalBoxFuture<'a, Result<Vec<Measured>>>,
}

/// Rows that are no part of the short form. `known` and `storm` need minutes, and resident memory is
/// another thing in a quick build, for most of an agent's is the pages of its program.
const FULL_ONLY: &[&str] =
    &["idle.memory", "known.memory", "known.call", "known.page", "storm", "storm.api"];

/// The rows that are measured, in the order of the table.
#[derive(Debug)]
pub(crate) struct Wanted(Vec<Row>);

impl Wanted {
    pub(crate) fn rows(&self) -> &[Row] {
        &self.0
    }

    /// Whether that row shall be measured.
    pub(crate) fn has(&self, row: &Row) -> bool {
        self.0.iter().any(|wanted| wanted.name == row.name)
    }
}

/// A row's measure, as a [`Group`] has it.
macro_rules! group {
    ($module:ident) => {
        Group {
            rows: $module::ROWS,
            measure: |bench, wanted| Box::pin($module::measure(bench, wanted)),
        }
    };
}

const GROUPS: &[Group] = &[
    group!(call),
    group!(cast),
    group!(request),
    group!(ports),
    group!(lock),
    group!(rest),
    group!(idle),
    group!(start),
    group!(known),
    group!(storm),
];

/// The rows with these names, or whose names begin with one and a full stop; all, when none is
/// given.
///
/// # Errors
/// A name that no row has.
pub(crate) fn wanted(names: &[String], short: bool) -> Result<Wanted> {
    let all: Vec<_> = GROUPS.iter().flat_map(|group| group.rows).collect();
    let is = |row: &Row, name: &str| {
        row.name == name || row.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'))
    };
    if let Some(name) = names.iter().find(|name| !all.iter().any(|row| is(row, name))) {
        let names: Vec<_> = all.iter().map(|row| row.name).collect();
        return Err(format!("no row {name}; there are {}", names.join(", ")).into());
    }
    let asked = |row: &Row| match names {
        [] => !short || !FULL_ONLY.contains(&row.name),
        names => names.iter().any(|name| is(row, name)),
    };
    Ok(Wanted(all.into_iter().filter(|row| asked(row)).copied().collect()))
}

/// Measures them, and says on stderr where it is. After each group `so_far` gets all that there is.
/// A group that fails takes no other along: its rows have no rounds, and a note that says why.
pub(crate) async fn measure(
    bench: &Bench,
    wanted: &Wanted,
    mut so_far: impl FnMut(&[Measured]) -> Result<()>,
) -> Result<Vec<Measured>> {
    let mut all = Vec::new();
    for group in GROUPS.iter().filter(|group| group.rows.iter().any(|row| wanted.has(row))) {
        let measured = match (group.measure)(bench, wanted).await {
            Ok(measured) => measured,
            Err(error) => {
                eprintln!("not measured: {error}");
                let rows = group.rows.iter().filter(|row| wanted.has(row));
                let failed = |row: &Row| {
                    Measured::new(*row, Vec::new()).noting(format!("not measured: {error}"))
                };
                rows.map(failed).collect()
            }
        };
        for row in &measured {
            eprint!("{}", crate::report::text::line(row));
        }
        all.extend(measured);
        so_far(&all)?;
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_asked_for_by_name_or_its_first_words() {
        let names = |given: &[&str]| -> Vec<&str> {
            let given: Vec<String> = given.iter().map(|&name| name.to_owned()).collect();
            wanted(&given, false).unwrap().rows().iter().map(|row| row.name).collect()
        };
        assert!(names(&["call"]).contains(&"call.one"));
        assert_eq!(names(&["call.one"]), ["call.one"]);
        assert!(names(&[]).len() > 15);
        assert!(wanted(&["cal".to_owned()], false).is_err());
    }

    #[test]
    fn what_the_short_form_leaves_out_are_rows() {
        let (all, short) = (wanted(&[], false).unwrap(), wanted(&[], true).unwrap());
        assert_eq!(all.rows().len() - short.rows().len(), FULL_ONLY.len());
        assert_eq!(wanted(&["storm".to_owned()], true).unwrap().rows().len(), 2);
    }

    #[test]
    fn no_two_rows_have_one_name() {
        let mut names: Vec<_> = GROUPS.iter().flat_map(|g| g.rows.iter().map(|r| r.name)).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
