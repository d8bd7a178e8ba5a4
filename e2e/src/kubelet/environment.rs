//! A container's environment and command line, as the kubelet would make them from the pod's spec.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVarSource, Pod, Secret};
use kube::api::Api;
use kube::{Client, ResourceExt as _};

use crate::addresses::{NODE_NAME, node_beside};
use crate::pod::PodRecord;

/// Name and value, in the order of the spec: later ones may refer to earlier ones.
pub(super) type Environment = Vec<(String, String)>;

/// Everything of `envFrom` and `env`.
pub(super) async fn of(
    client: &Client,
    pod: &Pod,
    record: &PodRecord,
    container: &Container,
) -> Result<Environment> {
    let mut environment = Environment::new();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.clone().unwrap_or_default();
        let values = if let Some(map) = &source.config_map_ref {
            config_map(client, &record.namespace, &map.name, map.optional).await?
        } else if let Some(secret) = &source.secret_ref {
            self::secret(client, &record.namespace, &secret.name, secret.optional).await?
        } else {
            BTreeMap::new()
        };
        environment.extend(
            values
                .into_iter()
                .map(|(name, value)| (format!("{prefix}{name}"), value)),
        );
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(value), _) => expand(value, &environment),
            (None, Some(source)) => from_source(client, pod, record, source)
                .await
                .with_context(|| format!("environment variable {}", variable.name))?,
            (None, None) => String::new(),
        };
        environment.push((variable.name.clone(), value));
    }
    Ok(environment)
}

async fn from_source(
    client: &Client,
    pod: &Pod,
    record: &PodRecord,
    source: &EnvVarSource,
) -> Result<String> {
    if let Some(field) = &source.field_ref {
        return self::field(pod, record, &field.field_path);
    }
    let (name, key, optional, values) = if let Some(it) = &source.config_map_key_ref {
        let values = config_map(client, &record.namespace, &it.name, it.optional).await?;
        (&it.name, &it.key, it.optional, values)
    } else if let Some(it) = &source.secret_key_ref {
        (
            &it.name,
            &it.key,
            it.optional,
            secret(client, &record.namespace, &it.name, it.optional).await?,
        )
    } else {
        bail!("the mesh's kubelet knows fieldRef, configMapKeyRef and secretKeyRef only");
    };
    match values.get(key) {
        Some(value) => Ok(value.clone()),
        None if optional == Some(true) => Ok(String::new()),
        None => bail!("{name} has no key {key}"),
    }
}

fn field(pod: &Pod, record: &PodRecord, path: &str) -> Result<String> {
    let keyed = |map: &BTreeMap<String, String>, prefix: &str| {
        let key = path.strip_prefix(prefix)?.strip_suffix("']")?;
        Some(map.get(key).cloned().unwrap_or_default())
    };
    Ok(match path {
        "metadata.name" => record.name.clone(),
        "metadata.namespace" => record.namespace.clone(),
        "metadata.uid" => pod.uid().unwrap_or_default(),
        "spec.nodeName" => NODE_NAME.to_owned(),
        "spec.serviceAccountName" => record.service_account.clone(),
        "status.podIP" | "status.podIPs" => record.ip.clone(),
        "status.hostIP" | "status.hostIPs" => node_beside(&record.ip).to_owned(),
        _ => keyed(pod.labels(), "metadata.labels['")
            .or_else(|| keyed(pod.annotations(), "metadata.annotations['"))
            .with_context(|| format!("there is no field {path}"))?,
    })
}

async fn config_map(
    client: &Client,
    namespace: &str,
    name: &str,
    optional: Option<bool>,
) -> Result<BTreeMap<String, String>> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    match api.get_opt(name).await? {
        Some(map) => Ok(map.data.unwrap_or_default()),
        None if optional == Some(true) => Ok(BTreeMap::new()),
        None => bail!("there is no ConfigMap {name}"),
    }
}

pub(super) async fn secret(
    client: &Client,
    namespace: &str,
    name: &str,
    optional: Option<bool>,
) -> Result<BTreeMap<String, String>> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    match api.get_opt(name).await? {
        Some(secret) => {
            let text = |value: k8s_openapi::ByteString| String::from_utf8_lossy(&value.0).into_owned();
            Ok(secret
                .data
                .unwrap_or_default()
                .into_iter()
                .map(|(key, value)| (key, text(value)))
                .collect())
        }
        None if optional == Some(true) => Ok(BTreeMap::new()),
        None => bail!("there is no Secret {name}"),
    }
}

/// Replaces `$(NAME)` by what is known; an unknown name stays, `$$` is a dollar.
pub(super) fn expand(text: &str, known: &Environment) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out += &rest[..at];
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("$$") {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix("$(").and_then(|inner| inner.split_once(')')) {
            match known.iter().rev().find(|(known, _)| known == name) {
                Some((_, value)) => out += value,
                None => out.extend(["$(", name, ")"]),
            }
            rest = after;
        } else {
            out.push('$');
            rest = &rest[1..];
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_replaced_and_unknown_ones_stay() {
        let known = vec![("A".to_owned(), "1".to_owned()), ("A".to_owned(), "2".to_owned())];
        assert_eq!(expand("--x=$(A) $(B) $$(A) 5$", &known), "--x=2 $(B) $(A) 5$");
    }
}
