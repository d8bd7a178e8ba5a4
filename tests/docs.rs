//! Holds the documentation against the code: generated files and tables, names, links and examples.
//!
//! `UPDATE=1 cargo test --test docs` (`make generate`) writes what is generated anew.

#[path = "docs/chart.rs"]
mod chart;
#[path = "docs/files.rs"]
mod files;
#[path = "docs/page.rs"]
mod page;
#[path = "docs/prose.rs"]
mod prose;
#[path = "docs/tables.rs"]
mod tables;

use std::collections::BTreeSet;
use std::process::Command;

use page::{Page, generated, pages, read, root};
use serde_json::Value;
use servicefence::fence::Reason;
use servicefence_crd::ServiceFence;

/// What the built program prints, as a user would get it.
fn program(argument: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_servicefence"))
        .arg(argument)
        .output()
        .unwrap_or_else(|error| panic!("`servicefence {argument}`: {error}"));
    assert!(output.status.success(), "`servicefence {argument}` failed");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_generated_crd_is_what_the_program_prints() {
    let crd = program("crd");
    generated("crd/servicefence.yaml", &crd);
    generated("charts/servicefence/files/servicefence.yaml", &crd);
}

#[test]
fn the_tables_of_the_reference_are_up_to_date() {
    let mut reference = Page::read("docs/reference.md");
    reference.put("flags", &tables::flags());
    reference.put("metrics", &tables::metrics());
    reference.put("metric-values", &tables::metric_values());
    generated("docs/reference.md", &reference.text);
}

#[test]
fn the_fields_of_the_api_are_up_to_date() {
    let mut api = Page::read("docs/servicefence.md");
    api.put("fields", &tables::fields(&program("crd")));
    generated("docs/servicefence.md", &api.text);
}

#[test]
fn the_values_of_the_chart_are_up_to_date() {
    let mut readme = Page::read("charts/servicefence/README.md");
    readme.put("values", &chart::table());
    generated("charts/servicefence/README.md", &readme.text);
}

#[test]
fn the_schema_of_the_chart_describes_every_value_in_the_same_words() {
    let schema: Value = serde_json::from_str(&read("charts/servicefence/values.schema.json")).unwrap();
    let mut in_schema = chart::descriptions(&schema);
    // Helm's own: every chart gets it from a parent chart.
    in_schema.remove("global");
    let values = chart::values();
    assert!(values.len() > 20, "the comments of values.yaml were not found");
    for value in values {
        let described = in_schema.remove(&value.path);
        assert_eq!(described.as_ref(), Some(&value.comment), "{}", value.path);
    }
    assert!(
        in_schema.is_empty(),
        "values.yaml does not describe {in_schema:?}"
    );
}

#[test]
fn no_template_of_the_chart_takes_a_cluster_domain_for_granted() {
    let templates = chart::files(&root().join("charts/servicefence/templates"));
    assert!(templates.len() > 10, "the templates were not found");
    for (path, text) in templates {
        assert!(
            !text.contains("cluster.local"),
            "{}: write {{{{ .Values.istio.clusterDomain }}}}",
            path.display()
        );
    }
}

#[test]
fn every_reason_of_a_condition_is_explained() {
    let explained = Page::read("docs/reference.md").rows("reasons");
    let (names, events): (Vec<_>, Vec<_>) = explained
        .iter()
        .map(|row| (row[0].as_str(), row[1].as_str()))
        .unzip();
    assert_eq!(names, Reason::ALL.map(|reason| format!("`{reason}`")));
    let warnings = events.iter().map(|event| *event == "Warning");
    assert_eq!(warnings.collect::<Vec<_>>(), Reason::ALL.map(Reason::is_warning));
    prose::assert_filled(&explained);
}

#[test]
fn every_other_event_is_explained() {
    let explained = Page::read("docs/reference.md").rows("events");
    let documented: BTreeSet<_> = explained
        .iter()
        .map(|row| (row[0].trim_matches('`').to_owned(), row[1].clone()))
        .collect();
    let code = read("src/events.rs");
    assert_eq!(documented, prose::events_of(&code));
    prose::assert_filled(&explained);
}

#[test]
fn links_lead_somewhere() {
    let broken: Vec<_> = pages().iter().flat_map(prose::broken_links).collect();
    assert!(broken.is_empty(), "broken links: {broken:#?}");
}

#[test]
fn files_that_are_named_exist() {
    let missing: Vec<_> = pages().iter().flat_map(prose::missing_files).collect();
    assert!(missing.is_empty(), "no such files: {missing:#?}");
}

#[test]
fn commands_of_make_that_are_named_exist() {
    let targets = prose::targets_of(&read("Makefile"));
    assert!(
        targets.contains("test") && targets.contains("demo"),
        "{targets:?}"
    );
    let named: BTreeSet<_> = pages().iter().flat_map(prose::named_targets).collect();
    assert!(named.contains("test") && named.contains("demo"), "{named:?}");
    let unknown: Vec<_> = named.difference(&targets).collect();
    assert!(unknown.is_empty(), "no such targets: {unknown:?}");
}

#[test]
fn sentences_do_without_hard_words() {
    let found = prose::hard_words_anywhere(&pages());
    assert!(
        found.is_empty(),
        "name the subject and use a verb, in: {found:#?}"
    );
}

#[test]
fn metrics_that_are_named_exist() {
    let known: BTreeSet<_> = tables::described_metrics()
        .into_iter()
        .map(|metric| metric.name)
        .collect();
    let unknown: Vec<_> = pages()
        .iter()
        .flat_map(prose::named_metrics)
        .filter(|(_, name)| !known.contains(name))
        .collect();
    assert!(unknown.is_empty(), "no such metrics: {unknown:#?}");
}

/// An example with a field that does not exist would be accepted by the API server with a warning and do
/// nothing.
#[test]
fn examples_of_fences_have_known_fields_only() {
    let mut seen = 0;
    for (page, example) in pages().iter().flat_map(prose::examples) {
        let written: Value = serde_saphyr::from_str(&example).unwrap();
        if written["kind"] != "ServiceFence" {
            continue;
        }
        seen += 1;
        let fence: ServiceFence = serde_json::from_value(written.clone())
            .unwrap_or_else(|error| panic!("an example in {page} is wrong: {error}\n{example}"));
        let known = serde_json::to_value(fence).unwrap();
        let lost = prose::lost(&written, &known);
        assert!(
            lost.is_empty(),
            "an example in {page} has unknown fields: {lost:?}\n{example}"
        );
    }
    assert!(seen > 0, "no page has an example of a ServiceFence");
}

#[test]
fn every_page_can_be_found_from_the_readme() {
    let all = pages();
    let mut found = BTreeSet::from(["README.md".to_owned()]);
    let mut next = vec!["README.md".to_owned()];
    while let Some(path) = next.pop() {
        let page = Page::read(&path);
        for target in prose::linked_pages(&page) {
            if found.insert(target.clone()) {
                next.push(target);
            }
        }
    }
    let lost: Vec<_> = all
        .iter()
        .map(|page| &page.path)
        .filter(|path| !found.contains(*path))
        .collect();
    assert!(lost.is_empty(), "no link leads to {lost:?}");
    assert!(root().join("LICENSE").exists());
}
