//! Kubernetes objects: apply any of them from JSON or YAML, and make the few that everything else needs.

use std::collections::HashMap;
use std::sync::Mutex;

use anyhow::{Context as _, Result};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::{Client, discovery};
use serde_json::{Value, json};

use crate::wait;
use crate::wait::until;

/// The field manager of everything that the harness applies.
pub const MANAGER: &str = "mesh";

/// A client with what it learned about kinds, so that a second object of a kind costs one request.
pub struct Objects {
    client: Client,
    kinds: Mutex<HashMap<GroupVersionKind, (ApiResource, bool)>>,
}

impl Objects {
    /// For this API server.
    pub fn new(client: Client) -> Self {
        Self {
            client,
            kinds: Mutex::default(),
        }
    }

    /// Server-side apply of one object.
    pub async fn apply(&self, object: &Value) -> Result<DynamicObject> {
        let (api, name) = self.api_of(object).await?;
        let kind = object["kind"].as_str().unwrap_or_default();
        api.patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(object))
            .await
            .with_context(|| format!("cannot apply {kind} {name}"))
    }

    /// Server-side apply of an object's status.
    pub async fn apply_status(&self, object: &Value) -> Result<DynamicObject> {
        let (api, name) = self.api_of(object).await?;
        api.patch_status(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(object))
            .await
            .with_context(|| format!("cannot write the status of {name}"))
    }

    /// Server-side apply of all documents of a YAML text.
    pub async fn apply_yaml(&self, text: &str) -> Result<()> {
        for object in documents(text)? {
            self.apply(&object).await?;
        }
        Ok(())
    }

    /// Deletes an object that is named by its kind, namespace and name; gone already is fine.
    pub async fn delete(&self, object: &Value) -> Result<()> {
        let (api, name) = self.api_of(object).await?;
        ignore_status(
            api.delete(&name, &kube::api::DeleteParams::default())
                .await
                .map(drop),
            404,
        )?;
        Ok(())
    }

    async fn api_of(&self, object: &Value) -> Result<(Api<DynamicObject>, String)> {
        let version = object["apiVersion"]
            .as_str()
            .context("an object without apiVersion")?;
        let kind = object["kind"].as_str().context("an object without kind")?;
        let name = object["metadata"]["name"]
            .as_str()
            .context("an object without name")?;
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let (resource, namespaced) = self.kind(GroupVersionKind::gvk(group, version, kind)).await?;
        let api = if namespaced {
            let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
            Api::namespaced_with(self.client.clone(), namespace, &resource)
        } else {
            Api::all_with(self.client.clone(), &resource)
        };
        Ok((api, name.to_owned()))
    }

    async fn kind(&self, gvk: GroupVersionKind) -> Result<(ApiResource, bool)> {
        if let Some(known) = lock(&self.kinds).get(&gvk) {
            return Ok(known.clone());
        }
        let (resource, capabilities) = discovery::oneshot::pinned_kind(&self.client, &gvk)
            .await
            .with_context(|| format!("the API server does not know {}/{}", gvk.api_version(), gvk.kind))?;
        let namespaced = capabilities.scope == discovery::Scope::Namespaced;
        lock(&self.kinds).insert(gvk, (resource.clone(), namespaced));
        Ok((resource, namespaced))
    }

    /// Makes a namespace with its labels unless it is there.
    pub async fn namespace(&self, name: &str) -> Result<()> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        if api.get_opt(name).await?.is_some() {
            return Ok(());
        }
        let object = serde_json::from_value(json!({"metadata": {"name": name}}))?;
        ignore_status(api.create(&PostParams::default(), &object).await.map(drop), 409)?;
        Ok(())
    }

    /// Makes a service account unless it is there.
    pub async fn service_account(&self, namespace: &str, name: &str) -> Result<()> {
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        let object = serde_json::from_value(json!({"metadata": {"name": name}}))?;
        ignore_status(api.create(&PostParams::default(), &object).await.map(drop), 409)?;
        Ok(())
    }

    /// A token of a service account; no audience means the API server's own.
    pub async fn token(&self, namespace: &str, account: &str, audience: Option<&str>) -> Result<String> {
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: audience.map(|audience| vec![audience.to_owned()]),
                expiration_seconds: Some(24 * 3600),
                bound_object_ref: None,
            }),
            ..TokenRequest::default()
        };
        let answer = api
            .create_token_request(account, &PostParams::default(), &request)
            .await
            .with_context(|| format!("no token for service account {namespace}/{account}"))?;
        answer
            .status
            .and_then(|status| status.token)
            .context("a token request without answer")
    }

    /// A value of a ConfigMap that somebody else is about to write.
    pub async fn config_map_value(&self, namespace: &str, name: &str, key: &str) -> Result<String> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        until(format!("ConfigMap {namespace}/{name}"), wait::LONG, || async {
            let found = api.get(name).await?;
            found
                .data
                .unwrap_or_default()
                .remove(key)
                .with_context(|| format!("it has no {key}"))
        })
        .await
    }
}

/// The documents of a YAML text, empty ones left out.
pub fn documents(text: &str) -> Result<Vec<Value>> {
    let all: Vec<Value> = serde_saphyr::from_multiple(text).context("cannot read YAML")?;
    Ok(all.into_iter().filter(Value::is_object).collect())
}

/// Merges one JSON value over another, object by object.
pub fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

/// Takes one HTTP status of the API server for success, such as 409 of an object that is there already.
pub fn ignore_status(result: Result<(), kube::Error>, code: u16) -> Result<(), kube::Error> {
    match result {
        Err(kube::Error::Api(status)) if status.code == code => Ok(()),
        other => other,
    }
}

/// A lock that a panicking test cannot poison for the clean-up that follows.
pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
