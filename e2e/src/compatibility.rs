//! The tables of `docs/compatibility.md`: what they say, and what they leave out.
//!
//! In: the page, and the fields that schemas have. Out: sentences that say what to do to the page. A row
//! names fields as `http[].{match,route}`, or with `.**` at the end all below one, those that come included.
//! Of several rows that name a field the most precise one counts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What ServiceFence makes of a field or a kind of pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Answer {
    /// It cannot change a call.
    NoMatter,
    /// A call is answered as without a fence.
    Followed,
    /// It is not, and a condition or an Event says so.
    Said,
    /// It is not, and nothing but the page says so.
    NotYet,
}

impl Answer {
    const ALL: [Self; 4] = [Self::NoMatter, Self::Followed, Self::Said, Self::NotYet];

    fn as_str(self) -> &'static str {
        match self {
            Self::NoMatter => "no matter",
            Self::Followed => "followed",
            Self::Said => "said",
            Self::NotYet => "not yet",
        }
    }
}

/// A row of a table.
#[derive(Debug)]
pub struct Row {
    /// The kinds in the heading above it.
    kinds: BTreeSet<String>,
    /// The first cell, and what it names.
    cell: String,
    names: Vec<String>,
    answer: Option<Answer>,
    /// The tests that it names.
    tests: Vec<String>,
}

/// The rows of all tables with four cells, in the order of the page.
pub fn rows(page: &str) -> Vec<Row> {
    let mut kinds = BTreeSet::new();
    let mut rows = Vec::new();
    for line in page.lines() {
        if let Some(heading) = line.strip_prefix("### ") {
            kinds = heading.split(", ").map(ToOwned::to_owned).collect();
        }
        let cells = line.strip_prefix("| ").and_then(|line| line.strip_suffix(" |"));
        let cells: Vec<_> = cells.into_iter().flat_map(|cells| cells.split(" | ")).collect();
        let [cell, _, done, test] = cells.as_slice() else {
            continue;
        };
        if cell.starts_with("---") || *test == "test" {
            continue;
        }
        let answer = Answer::ALL
            .into_iter()
            .find(|answer| done.starts_with(answer.as_str()));
        let is_test = |name: &&str| {
            name.contains('_')
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        };
        rows.push(Row {
            kinds: kinds.clone(),
            cell: (*cell).to_owned(),
            names: spans(cell).flat_map(expanded).collect(),
            answer,
            tests: spans(test).filter(is_test).map(ToOwned::to_owned).collect(),
        });
    }
    rows
}

/// The parts between two backticks.
fn spans(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// Each name that a name with braces stands for.
fn expanded(name: &str) -> Vec<String> {
    let Some((before, rest)) = name.split_once('{') else {
        return vec![name.to_owned()];
    };
    let mut depth = 1;
    let mut parts = vec![String::new()];
    for (at, letter) in rest.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        match letter {
            '}' if depth == 0 => {
                let after = &rest[at + 1..];
                let whole = parts.iter().map(|part| format!("{before}{part}{after}"));
                return whole.flat_map(|name| expanded(&name)).collect();
            }
            ',' if depth == 1 => parts.push(String::new()),
            letter => parts.last_mut().into_iter().for_each(|part| part.push(letter)),
        }
    }
    vec![name.to_owned()]
}

/// How precisely a name of a row names a field; `None`: not at all.
fn precision(name: &str, field: &str) -> Option<usize> {
    match name.strip_suffix("**") {
        Some(above) => field.starts_with(above).then_some(above.len()),
        None => (name == field).then_some(usize::MAX),
    }
}

/// The fields of each kind.
pub type Fields = BTreeMap<String, BTreeSet<String>>;

/// What is wrong with the rows, each a sentence that says what to do.
pub fn complaints(rows: &[Row], fields: &Fields, is_test: impl Fn(&str) -> bool) -> Vec<String> {
    let mut all = about_names(rows, fields);
    let cells = |are: &dyn Fn(&&Row) -> bool| rows.iter().filter(are).map(|row| row.cell.clone()).collect();
    let tests = rows.iter().flat_map(|row| &row.tests);
    all.extend([
        (
            "does not begin the third cell of these rows with no matter, followed, said or not yet",
            cells(&|row| row.answer.is_none()),
        ),
        (
            "says followed in these rows and names no test. Name the test, or say not yet",
            cells(&|row| row.answer == Some(Answer::Followed) && row.tests.is_empty()),
        ),
        (
            "names these tests, which are not in the repository. Name the test that shows it now",
            tests.filter(|test| !is_test(test)).cloned().collect(),
        ),
    ]);
    let wrong = all.into_iter().filter(|(_, of)| !of.is_empty());
    wrong
        .map(|(what, of)| format!("docs/compatibility.md {what}: {}", of.join("; ")))
        .collect()
}

/// What is wrong with the names of fields, and with which of them.
fn about_names(rows: &[Row], fields: &Fields) -> Vec<(&'static str, Vec<String>)> {
    let (mut missing, mut twice) = (Vec::new(), Vec::new());
    let mut counting = BTreeSet::new();
    for (kind, all) in fields {
        let of_kind = rows
            .iter()
            .enumerate()
            .filter(|(_, row)| row.kinds.contains(kind));
        let names = of_kind.flat_map(|(at, row)| row.names.iter().map(move |name| (at, name.as_str())));
        let names: Vec<_> = names.collect();
        for field in all {
            let naming = names
                .iter()
                .filter_map(|(at, name)| Some((precision(name, field)?, *at, *name)));
            let mut naming: Vec<_> = naming.collect();
            naming.sort_unstable();
            match naming.as_slice() {
                [] => missing.push(format!("{kind} {field}")),
                [.., (one, ..), (other, ..)] if one == other => twice.push(format!("{kind} {field}")),
                [.., (_, at, name)] => {
                    counting.insert((*at, *name));
                }
            }
        }
    }
    let of_fields = |row: &Row| row.kinds.iter().any(|kind| fields.contains_key(kind));
    let of_fields = rows.iter().enumerate().filter(|(_, row)| of_fields(row));
    let names = of_fields.flat_map(|(at, row)| row.names.iter().map(move |name| (at, row, name)));
    let stale = names.filter(|(at, _, name)| !counting.contains(&(*at, name.as_str())));
    let stale = stale.map(|(_, row, name)| {
        let kinds: Vec<_> = row.kinds.iter().map(String::as_str).collect();
        format!("{} {name}", kinds.join(", "))
    });
    vec![
        (
            "does not name these fields. Give each a row in the part of its kind: what it does to a call, what ServiceFence \
             does, and the test",
            missing,
        ),
        ("names these fields in two rows. Take one out", twice),
        (
            "has these names of fields, which no schema has or other rows name more precisely. Take them out",
            stale.collect(),
        ),
    ]
}

/// How many rows have which answer.
pub struct Counts(BTreeMap<Answer, usize>);

impl Counts {
    /// Counts rows.
    pub fn of(rows: &[Row]) -> Self {
        let mut counts = BTreeMap::new();
        for answer in rows.iter().filter_map(|row| row.answer) {
            *counts.entry(answer).or_default() += 1;
        }
        Self(counts)
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each: Vec<_> = self
            .0
            .iter()
            .map(|(answer, rows)| format!("{} {rows}", answer.as_str()))
            .collect();
        f.write_str(&each.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(page: &str, fields: &[&str]) -> Vec<String> {
        let fields = fields.iter().map(|field| (*field).to_owned()).collect();
        complaints(&rows(page), &[("Kind".to_owned(), fields)].into(), |test| {
            test == "it_holds"
        })
    }

    #[test]
    fn braces_stand_for_each_name() {
        assert_eq!(expanded("a.{b,c[].{d,e}}.f"), ["a.b.f", "a.c[].d.f", "a.c[].e.f"]);
        assert_eq!(expanded("a"), ["a"]);
        assert_eq!(expanded("a{b"), ["a{b"]);
    }

    #[test]
    fn a_page_that_names_every_field_once_is_right_and_the_most_precise_row_counts() {
        let page = "### Other, Kind\n| field | effect | done | test |\n| --- | --- | --- | --- |\n\
            | `a.**` | x | no matter | y |\n| `a.b` `c` | x | followed: it is | `it_holds` |";
        assert_eq!(said(page, &["a.b", "a.d", "c"]), [""; 0]);
        assert_eq!(Counts::of(&rows(page)).to_string(), "no matter 1, followed 1");
    }

    #[test]
    fn what_is_missing_or_stale_or_wrong_is_said_at_once() {
        let page = "### Kind\n| `a` | x | no matter | y |\n| `a` | x | perhaps | y |\n| `gone.**` | x | followed | `it_held` |\n| `b` | x | followed | y |";
        let said = said(page, &["a", "b", "new"]);
        let of = |name: &str| {
            said.iter()
                .filter(|one| one.ends_with(&format!(": {name}")))
                .count()
        };
        assert_eq!(said.len(), 6, "{said:#?}");
        assert_eq!(
            [of("Kind new"), of("Kind a"), of("`a`"), of("`b`"), of("it_held")],
            [1; 5],
            "{said:#?}"
        );
        assert!(said[2].contains("Kind gone.**"), "{said:#?}");
    }
}
