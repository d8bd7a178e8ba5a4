//! The table of what the API server refuses, and what it says then.

use anyhow::{Result, bail, ensure};
use servicefence_e2e::Mesh;

use crate::{says, try_spec};

/// A spec that can never work.
pub(crate) struct Row {
    name: &'static str,
    spec: Spec,
    /// What the refusal says, among other things.
    message: &'static str,
}

enum Spec {
    /// YAML.
    Is(&'static str),
    /// YAML made of a part that is repeated: before, part, how often, after.
    Long(&'static str, &'static str, usize, &'static str),
}

const fn row(name: &'static str, spec: &'static str, message: &'static str) -> Row {
    Row {
        name,
        spec: Spec::Is(spec),
        message,
    }
}

impl Row {
    pub(crate) fn test_name(&self) -> String {
        format!("refused::{}", self.name)
    }

    fn yaml(&self) -> String {
        match self.spec {
            Spec::Is(yaml) => yaml.to_owned(),
            Spec::Long(before, part, times, after) => format!("{before}{}{after}", part.repeat(times)),
        }
    }
}

const DNS_NAME: &str = "host is a lower-case DNS name, for example: reviews, reviews.books, reviews.books.svc.cluster.local or api.example.com";
const NOT_A_URL: &str = "host is a name, not a URL or namespace/name: write reviews.books, not http://reviews.books/ or books/reviews";
const BARE_SERVICE: &str =
    "workload.service is the bare name of a Service in the fence's own namespace, for example: web";
const NAMES_NOTHING: &str = "workload names nothing: set workload.service to a Service of this namespace, or leave workload out to use the Service with the fence's own name";
const ALLOWS_NOTHING: &str = "an allow entry names what to allow: set host, for example: host: reviews.books";

pub(crate) const ROWS: &[Row] = &[
    row(
        "a_mode_in_lower_case",
        "{mode: enforce}",
        r#"spec.mode: Unsupported value: "enforce": supported values: "Enforce", "Off""#,
    ),
    row(
        "a_mode_that_is_not_there_yet",
        "{mode: Observe}",
        r#"spec.mode: Unsupported value: "Observe": supported values: "Enforce", "Off""#,
    ),
    row(
        "a_mode_that_is_a_number",
        "{mode: 7}",
        r#"spec.mode: Invalid value: "integer": spec.mode in body must be of type string: "integer""#,
    ),
    // YAML takes an Off without quotes for `false`.
    row(
        "an_off_without_quotes",
        "{mode: false}",
        r#"spec.mode: Invalid value: "boolean": spec.mode in body must be of type string: "boolean""#,
    ),
    row("a_workload_that_names_nothing", "{workload: {}}", NAMES_NOTHING),
    row(
        "a_workload_of_another_namespace",
        "{workload: {service: web.shop}}",
        BARE_SERVICE,
    ),
    row(
        "a_workload_in_upper_case",
        "{workload: {service: Web}}",
        BARE_SERVICE,
    ),
    row(
        "a_workload_with_an_empty_name",
        "{workload: {service: ''}}",
        BARE_SERVICE,
    ),
    Row {
        name: "a_workload_with_too_long_a_name",
        spec: Spec::Long("{workload: {service: ", "w", 64, "}}"),
        message: "spec.workload.service: Too long: may not be more than 63",
    },
    row(
        "a_workload_that_is_a_name_alone",
        "{workload: web}",
        r#"spec.workload: Invalid value: "string": spec.workload in body must be of type object: "string""#,
    ),
    row("an_allow_entry_without_anything", "{allow: [{}]}", ALLOWS_NOTHING),
    row(
        "an_allow_entry_with_a_reason_only",
        "{allow: [{reason: nightly report}]}",
        ALLOWS_NOTHING,
    ),
    row(
        "a_host_that_is_a_url",
        "{allow: [{host: 'http://reviews.books/'}]}",
        NOT_A_URL,
    ),
    row(
        "a_host_with_its_namespace_in_front",
        "{allow: [{host: books/reviews}]}",
        NOT_A_URL,
    ),
    row(
        "a_host_with_a_port",
        "{allow: [{host: 'reviews.books:8080'}]}",
        "host has no port: write reviews.books, not reviews.books:8080; all ports of the host are allowed",
    ),
    row(
        "a_host_with_a_wildcard",
        "{allow: [{host: '*.example.com'}]}",
        "host is one exact name: wildcards are not supported",
    ),
    row(
        "a_host_that_is_an_address",
        "{allow: [{host: 10.96.0.20}]}",
        "host is a name, not an IP address: name the Service or ServiceEntry that has the address",
    ),
    row(
        "a_host_in_upper_case",
        "{allow: [{host: Reviews.books}]}",
        DNS_NAME,
    ),
    row("an_empty_host", "{allow: [{host: ''}]}", DNS_NAME),
    row(
        "a_host_with_a_dot_at_its_end",
        "{allow: [{host: reviews.books.}]}",
        DNS_NAME,
    ),
    row(
        "a_host_with_a_space",
        "{allow: [{host: 'reviews books'}]}",
        DNS_NAME,
    ),
    row(
        "a_host_that_begins_with_a_dash",
        "{allow: [{host: -reviews}]}",
        DNS_NAME,
    ),
    Row {
        name: "too_long_a_host",
        spec: Spec::Long("{allow: [{host: ", "h", 254, "}]}"),
        message: "spec.allow[0].host: Too long: may not be more than 253",
    },
    Row {
        name: "too_many_hosts",
        spec: Spec::Long("{allow: [", "{host: reviews},", 513, "]}"),
        message: "spec.allow: Too many: 513: must have at most 512 items",
    },
    Row {
        name: "too_long_a_reason",
        spec: Spec::Long("{allow: [{host: reviews, reason: ", "r", 257, "}]}"),
        message: "spec.allow[0].reason: Too long: may not be more than 256",
    },
    row(
        "a_host_that_is_a_number",
        "{allow: [{host: 7}]}",
        r#"spec.allow[0].host: Invalid value: "integer": spec.allow[0].host in body must be of type string: "integer""#,
    ),
    row(
        "an_allow_entry_that_is_a_host_alone",
        "{allow: [reviews]}",
        r#"spec.allow[0]: Invalid value: "string": spec.allow[0] in body must be of type object: "string""#,
    ),
    row(
        "an_allow_list_that_is_none",
        "{allow: reviews}",
        r#"spec.allow: Invalid value: "string": spec.allow in body must be of type array: "string""#,
    ),
    row(
        "a_way_of_learning_that_is_not_there",
        "{learning: {nonHttp: auto}}",
        r#"spec.learning.nonHttp: Unsupported value: "auto": supported values: "Auto", "Learn", "Keep""#,
    ),
    row(
        "learning_that_is_a_word",
        "{learning: Learn}",
        r#"spec.learning: Invalid value: "string": spec.learning in body must be of type object: "string""#,
    ),
    // What a later version may bring is not accepted and then ignored.
    row(
        "a_list_of_denied_hosts",
        "{deny: [legacy.old]}",
        r#"unknown field "spec.deny""#,
    ),
    row(
        "a_namespace_to_allow",
        "{allow: [{namespace: payments}]}",
        r#"unknown field "spec.allow[0].namespace""#,
    ),
    row(
        "a_selector_of_pods",
        "{workload: {selector: {app: web}}}",
        r#"unknown field "spec.workload.selector""#,
    ),
];

pub(crate) async fn is_refused(mesh: &Mesh, row: &Row) -> Result<()> {
    match try_spec(mesh, &row.yaml()).await {
        Ok(accepted) => bail!("it is accepted as {}", accepted["spec"]),
        Err(kube::Error::Api(status)) => {
            ensure!(
                [400, 422].contains(&status.code),
                "refused for another reason: {status}"
            );
            says(&status.message, row.message)
        }
        Err(other) => Err(other.into()),
    }
}
