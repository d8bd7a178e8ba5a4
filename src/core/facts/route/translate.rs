//! A route's rules in the words of a VirtualService (Istio: `convertHTTPRoute`, `convertGRPCRoute`).
//!
//! Two things are left as Gateway API has them until rules are merged: a rule has one match at most, and a
//! prefix ends where a part of the path does.

use jiff::SignedDuration;
use serde_json::{Map, Value, json};
use servicefence_crd::gateway_api::{
    Backend, Cors, Filter, GrpcMatch, Header, HeaderModifier, HttpMatch, Mirror, ObjectRef, Redirect, Retry,
    Rewrite, RouteRule, RouteSpec, Timeouts, ValueMatch,
};

use crate::facts::Rule;
use crate::name::{ConfigKey, ServiceKey};

/// Tries where a rule asks for some and does not say how many.
const DEFAULT_ATTEMPTS: u32 = 2;

/// After what requests are tried again, beside the statuses that a rule names.
const RETRY_ON: &str = "connect-failure,refused-stream,unavailable,cancelled";

/// An origin as such: scheme, host and maybe a port.
pub(crate) const ANY_ORIGIN: &str = r"^[a-zA-Z][a-zA-Z0-9+.-]*://[^/\s?#]+$";

/// What a rule of a route matches.
pub trait Matched {
    /// Whether a copy to what istiod cannot find or read costs the whole route, and not the copy alone
    /// (`convertGRPCRoute`, `convertHTTPRoute`).
    const NEEDS_MIRRORS: bool;

    /// The match of a VirtualService; `None` where istiod cannot read it.
    fn in_istio(&self) -> Option<Map<String, Value>>;
}

impl Matched for HttpMatch {
    const NEEDS_MIRRORS: bool = false;

    fn in_istio(&self) -> Option<Map<String, Value>> {
        let path = self.path.clone().unwrap_or_default();
        let text = path.value.unwrap_or_else(|| "/".to_owned());
        let uri = match path.how.as_deref().unwrap_or("PathPrefix") {
            "PathPrefix" if text == "/" => json!({"prefix": text}),
            "PathPrefix" => json!({"prefix": text.strip_suffix('/').unwrap_or(&text)}),
            "Exact" => json!({"exact": text}),
            "RegularExpression" => json!({"regex": text}),
            _ => return None,
        };
        let mut matched = Map::from_iter([("uri".to_owned(), uri)]);
        insert_values(&mut matched, "headers", &self.headers)?;
        insert_values(&mut matched, "queryParams", &self.query_params)?;
        if let Some(method) = &self.method {
            matched.insert("method".into(), json!({"exact": method}));
        }
        Some(matched)
    }
}

impl Matched for GrpcMatch {
    const NEEDS_MIRRORS: bool = true;

    fn in_istio(&self) -> Option<Map<String, Value>> {
        let mut matched = Map::new();
        if let Some(called) = &self.method {
            let (service, method) = (called.service.as_deref(), called.method.as_deref());
            let uri = match (called.how.as_deref().unwrap_or("Exact"), service, method) {
                ("Exact", Some(service), Some(method)) => json!({"exact": format!("/{service}/{method}")}),
                ("Exact", Some(service), None) => json!({"prefix": format!("/{service}/")}),
                ("RegularExpression", Some(service), Some(method)) => {
                    json!({"regex": format!("/{service}/{method}")})
                }
                ("RegularExpression", Some(service), None) => json!({"regex": format!("/{service}/.+")}),
                ("Exact" | "RegularExpression", None, Some(method)) => {
                    json!({"regex": format!("/[^/]+/{method}")})
                }
                _ => return None,
            };
            matched.insert("uri".into(), uri);
        }
        insert_values(&mut matched, "headers", &self.headers)?;
        Some(matched)
    }
}

fn insert_values(into: &mut Map<String, Value>, field: &str, values: &[ValueMatch]) -> Option<()> {
    let mut all = Map::new();
    for one in values {
        let how = match one.how.as_deref().unwrap_or("Exact") {
            "Exact" => "exact",
            "RegularExpression" => "regex",
            _ => return None,
        };
        all.insert(one.name.clone(), json!({how: one.value}));
    }
    if !all.is_empty() {
        into.insert(field.into(), all.into());
    }
    Some(())
}

/// The rules of a route, one for each match. None where istiod cannot read one of them: then it takes none.
pub(super) fn rules<M: Matched>(spec: &RouteSpec<M>, of: &ConfigKey) -> Vec<Rule> {
    let rules = spec.rules.iter().enumerate().map(|(at, rule)| {
        let mut made = answer(rule, &of.namespace)?;
        let name = rule.name.clone();
        let name = name.unwrap_or_else(|| format!("{}.{}.{at}", of.namespace, of.name));
        made.insert("name".into(), name.into());
        if rule.matches.is_empty() {
            return Some(vec![made]);
        }
        let each = rule.matches.iter().map(|one| {
            let mut made = made.clone();
            made.insert("match".into(), json!([one.in_istio()?]));
            Some(made)
        });
        each.collect::<Option<Vec<_>>>()
    });
    let rules: Option<Vec<_>> = rules.collect();
    rules.unwrap_or_default().concat()
}

/// What becomes of the requests of a rule.
fn answer<M: Matched>(rule: &RouteRule<M>, namespace: &str) -> Option<Rule> {
    let mut made = Rule::new();
    let mut on_the_way = Rule::new();
    let mut headers = Map::new();
    let mut mirrors = Vec::new();
    for filter in &rule.filters {
        match (filter.kind.as_str(), filter) {
            (
                "RequestMirror",
                Filter {
                    request_mirror: Some(to),
                    ..
                },
            ) => match mirror(to, namespace) {
                Some(to) => mirrors.push(to),
                None if M::NEEDS_MIRRORS => return None,
                None => {}
            },
            (
                "RequestRedirect",
                Filter {
                    request_redirect: Some(to),
                    ..
                },
            ) => {
                made.insert("redirect".into(), redirect(to));
            }
            (
                "URLRewrite",
                Filter {
                    url_rewrite: Some(to),
                    ..
                },
            ) => {
                on_the_way.extend(rewrite(to).map(|to| ("rewrite".to_owned(), to)));
            }
            (
                "CORS",
                Filter {
                    cors: Some(policy), ..
                },
            ) => {
                made.insert("corsPolicy".into(), cors(policy));
            }
            _ => change_headers(filter, &mut headers)?,
        }
    }
    if !headers.is_empty() {
        made.insert("headers".into(), headers.into());
    }
    if made.contains_key("redirect") {
        return Some(made);
    }
    let mut used: Vec<_> = rule
        .backend_refs
        .iter()
        .filter(|to| to.weight != Some(0))
        .collect();
    if used.is_empty() {
        made.insert("directResponse".into(), json!({"status": 500}));
        return Some(made);
    }
    let is_only = used.len() == 1;
    let route = used.drain(..).map(|to| share(to, is_only, namespace));
    made.insert("route".into(), Value::Array(route.collect::<Option<_>>()?));
    if !mirrors.is_empty() {
        made.insert("mirrors".into(), mirrors.into());
    }
    made.extend(on_the_way);
    made.extend(patience(rule.timeouts.as_ref(), rule.retry.as_ref()));
    Some(made)
}

/// One of the backends of a rule.
fn share(backend: &Backend, is_only: bool, namespace: &str) -> Option<Value> {
    let mut share = Map::from_iter([("destination".to_owned(), destination(&backend.to, namespace)?)]);
    if !is_only {
        share.insert("weight".into(), backend.weight.unwrap_or(1).into());
    }
    let mut headers = Map::new();
    for filter in &backend.filters {
        change_headers(filter, &mut headers)?;
    }
    if !headers.is_empty() {
        share.insert("headers".into(), headers.into());
    }
    Some(share.into())
}

/// Where requests go. The host is empty where the kind is one that is not followed; `None` where istiod takes
/// the whole route for an error.
fn destination(to: &ObjectRef, namespace: &str) -> Option<Value> {
    let in_namespace = ServiceKey::new(to.namespace.as_deref().unwrap_or(namespace), to.name.as_str());
    let group = to.group.as_deref().unwrap_or_default();
    let host = match (group, to.kind.as_deref().unwrap_or("Service")) {
        ("", "Service") if to.name.contains('.') => return None,
        ("", "Service") | ("multicluster.x-k8s.io", "ServiceImport") => in_namespace.host(),
        ("networking.istio.io", "Hostname") if to.namespace.is_some() => return None,
        ("networking.istio.io", "Hostname") => to.name.as_str().into(),
        _ => return Some(json!({"host": ""})),
    };
    Some(json!({"host": &*host, "port": {"number": to.port?}}))
}

/// Sends a copy elsewhere; `None` where istiod cannot.
fn mirror(mirror: &Mirror, namespace: &str) -> Option<Value> {
    let destination = destination(&mirror.backend_ref, namespace)?;
    let mut policy = (destination["host"] != "").then(|| json!({"destination": destination}))?;
    let fraction = mirror.fraction.as_ref();
    let fraction = fraction
        .map(|share| 100.0 * f64::from(share.numerator) / f64::from(share.denominator.unwrap_or(100).max(1)));
    if let Some(share) = fraction.or(mirror.percent.map(f64::from)) {
        policy["percentage"] = json!({"value": share});
    }
    Some(policy)
}

/// A filter that changes headers; `None` for every other kind, and for values that no header can have.
fn change_headers(filter: &Filter, headers: &mut Map<String, Value>) -> Option<()> {
    let (side, change) = match filter.kind.as_str() {
        "RequestHeaderModifier" => ("request", filter.request_header_modifier.as_ref()),
        "ResponseHeaderModifier" => ("response", filter.response_header_modifier.as_ref()),
        _ => return None,
    };
    if let Some(change) = change {
        headers.insert(side.into(), operations(change)?);
    }
    Some(())
}

fn operations(change: &HeaderModifier) -> Option<Value> {
    let mut operations = Map::new();
    for (how, headers) in [("set", &change.set), ("add", &change.add)] {
        let mut all = Map::new();
        for Header { name, value } in headers {
            if value
                .bytes()
                .any(|byte| byte != b'\t' && (byte < b' ' || byte == 0x7f))
            {
                return None;
            }
            // Of several with one name the first counts.
            all.entry(name.to_ascii_lowercase())
                .or_insert_with(|| value.as_str().into());
        }
        if !all.is_empty() {
            operations.insert(how.into(), all.into());
        }
    }
    if !change.remove.is_empty() {
        operations.insert("remove".into(), json!(change.remove));
    }
    Some(operations.into())
}

fn redirect(to: &Redirect) -> Value {
    let mut redirect = Map::new();
    if let Some(code) = to.status_code {
        redirect.insert("redirectCode".into(), code.into());
    }
    if let Some(host) = &to.hostname {
        redirect.insert("authority".into(), host.as_str().into());
    }
    if let Some(scheme) = &to.scheme {
        redirect.insert("scheme".into(), scheme.as_str().into());
    }
    match (to.port, &to.scheme) {
        (Some(port), _) => redirect.insert("port".into(), port.into()),
        (None, Some(_)) => redirect.insert("derivePort".into(), "FROM_PROTOCOL_DEFAULT".into()),
        (None, None) => redirect.insert("derivePort".into(), "FROM_REQUEST_PORT".into()),
    };
    let path = to.path.as_ref();
    if let Some(full) = path.and_then(|path| path.replace_full_path.as_deref()) {
        redirect.insert("uri".into(), full.into());
    } else if let Some(prefix) = path.and_then(|path| path.replace_prefix_match.as_deref()) {
        // An empty one is none (`ApplyRedirect`).
        if !prefix.is_empty() {
            redirect.insert("prefixRewrite".into(), prefix.into());
        }
    }
    redirect.into()
}

fn rewrite(to: &Rewrite) -> Option<Value> {
    let mut rewrite = Map::new();
    let path = to.path.as_ref();
    if let Some(full) = path.and_then(|path| path.replace_full_path.as_deref()) {
        rewrite.insert("uriRegexRewrite".into(), json!({"match": "/.*", "rewrite": full}));
    } else if let Some(prefix) = path.and_then(|path| path.replace_prefix_match.as_deref()) {
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        rewrite.insert("uri".into(), if prefix.is_empty() { "/" } else { prefix }.into());
    }
    if let Some(host) = &to.hostname {
        rewrite.insert("authority".into(), host.as_str().into());
    }
    (!rewrite.is_empty()).then(|| rewrite.into())
}

fn cors(policy: &Cors) -> Value {
    let origins = policy.allow_origins.iter().filter(|origin| !origin.is_empty());
    let origins = origins.map(|origin| match origin.split_once('*') {
        _ if origin == "*" => json!({"regex": ANY_ORIGIN}),
        None => json!({"exact": origin}),
        Some((prefix, "")) => json!({"prefix": prefix}),
        Some(_) => {
            let any = regex_syntax::escape(origin).replace(r"\*", ".*");
            json!({"regex": format!("^{any}$")})
        }
    });
    let mut made = Map::from_iter([
        ("allowOrigins".to_owned(), origins.collect()),
        ("unmatchedPreflights".to_owned(), "IGNORE".into()),
    ]);
    if policy.allow_credentials == Some(true) {
        made.insert("allowCredentials".into(), true.into());
    }
    for (field, list) in [
        ("allowMethods", &policy.allow_methods),
        ("allowHeaders", &policy.allow_headers),
        ("exposeHeaders", &policy.expose_headers),
    ] {
        if !list.is_empty() {
            made.insert(field.into(), json!(list));
        }
    }
    if policy.max_age > 0 {
        made.insert("maxAge".into(), format!("{}s", policy.max_age).into());
    }
    made.into()
}

/// Timeout and retries.
fn patience(timeouts: Option<&Timeouts>, retry: Option<&Retry>) -> Rule {
    let time = |field: fn(&Timeouts) -> Option<&String>| seconds(field(timeouts?)?);
    let mut timeout = time(|timeouts| timeouts.request.as_ref());
    let one_try = time(|timeouts| timeouts.backend_request.as_ref());
    let mut made = Rule::new();
    if let Some(retry) = retry {
        made.insert("retries".into(), retries(retry, one_try));
    } else if one_try.is_some() {
        timeout = one_try;
    }
    made.extend(timeout.map(|time| ("timeout".to_owned(), time.into())));
    made
}

fn retries(retry: &Retry, one_try: Option<String>) -> Value {
    let attempts = retry.attempts.unwrap_or(DEFAULT_ATTEMPTS);
    if attempts == 0 {
        return json!({"attempts": 0});
    }
    let codes = retry.codes.iter().map(|code| format!(",{code}"));
    let retry_on = codes.fold(RETRY_ON.to_owned(), |all, code| all + &code);
    let mut made = json!({"attempts": attempts, "retryOn": retry_on});
    if let Some(time) = one_try {
        made["perTryTimeout"] = time.into();
    }
    if let Some(time) = retry.backoff.as_deref().and_then(seconds) {
        made["backoff"] = time.into();
    }
    made
}

/// A time as protobuf writes it; `None` where it is none.
fn seconds(text: &str) -> Option<String> {
    let time: SignedDuration = text.parse().ok()?;
    let seconds = time.as_millis() / 1000;
    match time.as_millis() % 1000 {
        _ if !time.is_positive() => None,
        0 => Some(format!("{seconds}s")),
        rest => Some(format!("{seconds}.{rest:03}s")),
    }
}
