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
const ONE_WORKLOAD: &str = "workload names one thing: set service, selector or namespaceDefault: true, or leave workload out to use the Service with the fence's own name";
const ONE_THING: &str = "an allow entry names one thing: set host (host: reviews.books), namespace (namespace: books) or serviceSelector, and use one entry for each";
const NO_LABELS: &str =
    "a selector without labels would select everything: set matchLabels or matchExpressions";
const VALUES: &str = "In and NotIn need values, Exists and DoesNotExist take none";
const DENIED: &str = "a denied host is a lower-case DNS name without port, for example: reviews, reviews.books or *.example.com";

pub(crate) const ROWS: &[Row] = &[
    row(
        "a_mode_in_lower_case",
        "{mode: enforce}",
        r#"spec.mode: Unsupported value: "enforce": supported values: "Enforce", "Observe", "Off""#,
    ),
    row(
        "a_mode_that_is_not_there",
        "{mode: DryRun}",
        r#"spec.mode: Unsupported value: "DryRun": supported values: "Enforce", "Observe", "Off""#,
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
    row("a_workload_that_names_nothing", "{workload: {}}", ONE_WORKLOAD),
    row(
        "a_workload_that_names_two_things",
        "{workload: {service: web, selector: {app: web}}}",
        ONE_WORKLOAD,
    ),
    row(
        "a_workload_of_no_labels",
        "{workload: {selector: {}}}",
        "an empty selector would select every pod: name labels, or set namespaceDefault: true",
    ),
    row(
        "a_default_that_is_none",
        "{workload: {namespaceDefault: false}}",
        "namespaceDefault is true or left out",
    ),
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
    row("an_allow_entry_without_anything", "{allow: [{}]}", ONE_THING),
    row(
        "an_allow_entry_of_two_things",
        "{allow: [{host: reviews, namespace: books}]}",
        ONE_THING,
    ),
    row(
        "a_namespace_that_is_a_host",
        "{allow: [{namespace: books.svc}]}",
        "namespace is the name of a namespace, for example: books",
    ),
    row(
        "a_selector_that_selects_everything",
        "{allow: [{serviceSelector: {}}]}",
        NO_LABELS,
    ),
    row(
        "namespaces_without_services",
        "{allow: [{host: reviews, namespaceSelector: {matchLabels: {team: a}}}]}",
        "namespaceSelector narrows serviceSelector: set that too, or write namespace: books to allow a whole namespace",
    ),
    row(
        "an_expression_without_values",
        "{allow: [{serviceSelector: {matchExpressions: [{key: tier, operator: In}]}}]}",
        VALUES,
    ),
    row(
        "an_expression_with_values_too_many",
        "{allow: [{serviceSelector: {matchExpressions: [{key: tier, operator: Exists, values: [core]}]}}]}",
        VALUES,
    ),
    row(
        "an_operator_that_is_not_there",
        "{allow: [{serviceSelector: {matchExpressions: [{key: tier, operator: Gt, values: ['1']}]}}]}",
        r#"matchExpressions[0].operator: Unsupported value: "Gt": supported values: "In", "NotIn", "Exists", "DoesNotExist""#,
    ),
    row(
        "an_end_that_is_no_time",
        "{allow: [{host: reviews, until: tomorrow}]}",
        r#"spec.allow[0].until: Invalid value: "tomorrow": spec.allow[0].until in body must be of type date-time: "tomorrow""#,
    ),
    row("a_denied_host_with_a_port", "{deny: ['reviews:8080']}", DENIED),
    row(
        "a_denied_host_that_is_a_url",
        "{deny: ['http://reviews']}",
        DENIED,
    ),
    row("a_denied_host_that_is_everything", "{deny: ['*']}", DENIED),
    row(
        "an_allow_entry_with_a_reason_only",
        "{allow: [{reason: nightly report}]}",
        ONE_THING,
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
        "a_host_with_a_wildcard_in_its_middle",
        "{allow: [{host: 'api.*.com'}]}",
        "a wildcard stands for whole labels at the beginning: write *.example.com; to allow all of a namespace, use namespace",
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
    row(
        "a_time_of_silence_in_days",
        "{learning: {expireAfter: 14d}}",
        "expireAfter is a duration in hours, minutes and seconds, for example: 336h",
    ),
    row(
        "a_time_of_silence_that_is_too_short",
        "{learning: {expireAfter: 23h59m}}",
        "expireAfter is at least 24h and at most 8760h, or 0s for never",
    ),
    row(
        "no_source_at_all",
        "{learning: {sources: []}}",
        "spec.learning.sources in body should have at least 1 items",
    ),
    row(
        "a_source_that_is_not_there",
        "{learning: {sources: [Metrics]}}",
        r#"Unsupported value: "Metrics": supported values: "AccessLog", "Prometheus", "Policy""#,
    ),
    row(
        "a_source_twice",
        "{learning: {sources: [Policy, Policy]}}",
        r#"spec.learning.sources[1]: Duplicate value: "Policy""#,
    ),
    // What a later version may bring is not accepted and then ignored.
    row(
        "another_fallback",
        "{fallback: Nobody}",
        r#"supported values: "Gateway", "Passthrough""#,
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
