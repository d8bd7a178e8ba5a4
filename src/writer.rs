//! IO out: writes to the API server.
//!
//! Flows in: [`Write`]s of plans. Flows out: the objects as the API server answers them, back into
//! the engine, so no watch has to be waited for. Invariants: every apply is server-side with our
//! field manager; what does not carry our label is neither overwritten nor deleted.

mod budget;
mod learning;
mod status;

pub use budget::{Budget, Priority};
pub use learning::{Learning, LearningSettings};

use std::sync::Arc;

use kube::api::{Api, DeleteParams, DynamicObject, ObjectMeta, Patch, PatchParams, Preconditions};
use serde_json::json;
use servicefence_crd::names;

use crate::fence::name::FenceKey;
use crate::fence::observe::{Observe, Unreadable, Watched, resource};
use crate::fence::render::{self, Kind, Object, Write};
use crate::metrics::Metrics;
use crate::state::{ObjectId, State};

/// A write that did not happen.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The API server refused it or was not reached.
    #[error("{}", api_message(.0))]
    Api(#[from] Box<kube::Error>),
    /// The answer could not be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// Somebody else's object has the name.
    #[error("{kind} {namespace}/{name} exists and is not managed by ServiceFence: rename or delete it")]
    NameTaken {
        /// Its kind.
        kind: &'static str,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// The object is not as it was applied.
    #[error(
        "{kind} {namespace}/{name} is not as ServiceFence applied it: another field manager or a mutating webhook changes its spec; see metadata.managedFields"
    )]
    Contested {
        /// Its kind.
        kind: &'static str,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

impl From<kube::Error> for WriteError {
    fn from(error: kube::Error) -> Self {
        Self::Api(Box::new(error))
    }
}

impl WriteError {
    /// A bounded name: metric label and log field.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Api(error) => match &**error {
                kube::Error::Api(status) => match status.code {
                    403 => "forbidden",
                    404 => "not_found",
                    409 => "conflict",
                    400 | 422 => "refused",
                    429 => "throttled",
                    _ => "api",
                },
                _ => "unreachable",
            },
            Self::Unreadable(_) => "unreadable",
            Self::NameTaken { .. } => "name_taken",
            Self::Contested { .. } => "contested",
        }
    }
}

fn api_message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("the API server refused the write: {}", status.message),
        other => format!("the API server was not reached: {other}"),
    }
}

/// Whether an object says something else than was applied. Of a fence we write its existence only.
fn is_contested(object: &Object, answer: &DynamicObject) -> bool {
    let is = json!({
        "metadata": {"ownerReferences": answer.metadata.owner_references},
        "spec": answer.data.get("spec"),
    });
    object.kind != Kind::ServiceFence && render::fingerprint(object.kind, &is) != object.fingerprint()
}

/// Server-side apply merges maps, so it leaves what somebody else has added to one of ours: a label of a
/// Sidecar's selector, say, with which it selects nothing. This patch takes it away, unless the object has
/// changed since.
fn overwrite(object: &Object, answer: &DynamicObject) -> serde_json::Value {
    let path = match object.kind {
        // The API server fills in the rest of a Service.
        Kind::Service => "/spec/ports",
        _ => "/spec",
    };
    let owners = object.body.pointer("/metadata/ownerReferences");
    json!([
        {"op": "replace", "path": "/metadata/resourceVersion", "value": answer.metadata.resource_version},
        {"op": "add", "path": "/metadata/ownerReferences", "value": owners.unwrap_or(&json!([]))},
        {"op": "replace", "path": path, "value": object.body.pointer(path)},
    ])
}

/// Writes objects.
#[derive(Clone)]
pub struct Writer {
    client: kube::Client,
    state: Arc<State>,
    metrics: Arc<Metrics>,
    budget: Arc<Budget>,
    system_namespace: Arc<str>,
}

impl Writer {
    /// A writer that writes Istio objects within `budget`.
    pub fn new(
        client: kube::Client,
        state: Arc<State>,
        metrics: Arc<Metrics>,
        budget: Budget,
        system_namespace: Arc<str>,
    ) -> Self {
        Self {
            client,
            state,
            metrics,
            budget: Arc::new(budget),
            system_namespace,
        }
    }

    /// Namespace of the controller.
    pub fn system_namespace(&self) -> &str {
        &self.system_namespace
    }

    /// Carries out one write and takes in what became of it.
    pub async fn write(&self, write: Write, priority: Priority) -> Result<(), WriteError> {
        let kind = match &write {
            Write::Apply(object) => object.kind,
            Write::Delete(kind, ..) => *kind,
        };
        if matches!(kind, Kind::Sidecar | Kind::VirtualService | Kind::EnvoyFilter) {
            let waiting = self.metrics.budget_wait_seconds.start_timer();
            self.budget.acquire(priority).await;
            waiting.observe_duration();
        }
        let (operation, result) = match write {
            Write::Apply(object) => ("apply", self.apply(object).await),
            Write::Delete(kind, namespace, name) => ("delete", self.delete(kind, &namespace, &name).await),
        };
        self.count(kind, operation, &result);
        result
    }

    fn count<T>(&self, kind: Kind, operation: &str, result: &Result<T, WriteError>) {
        let result = match result {
            Ok(_) => "ok",
            Err(error) if error.category() == "conflict" => "conflict",
            Err(_) => "error",
        };
        self.metrics
            .writes
            .with_label_values(&[kind.as_str(), operation, result])
            .inc();
    }

    fn api(&self, kind: Kind, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), namespace, &resource(Watched::of(kind)))
    }

    async fn apply(&self, object: Object) -> Result<(), WriteError> {
        let params = PatchParams::apply(names::MANAGER).force();
        let api = self.api(object.kind, &object.namespace);
        let mut answer = api
            .patch(&object.name, &params, &Patch::Apply(&object.body))
            .await?;
        tracing::debug!(
            kind = object.kind.as_str(),
            namespace = &*object.namespace,
            name = &*object.name,
            "applied"
        );
        if is_contested(&object, &answer) {
            let patch = Patch::Json::<()>(
                serde_json::from_value(overwrite(&object, &answer)).map_err(kube::Error::SerdeError)?,
            );
            let params = PatchParams {
                field_manager: Some(names::MANAGER.to_owned()),
                ..PatchParams::default()
            };
            answer = api.patch(&object.name, &params, &patch).await?;
        }
        let contested = is_contested(&object, &answer);
        self.take_in(object.kind, answer)?;
        if contested {
            return Err(WriteError::Contested {
                kind: object.kind.as_str(),
                namespace: object.namespace.to_string(),
                name: object.name.to_string(),
            });
        }
        Ok(())
    }

    /// Takes in an object as the API server answered it.
    fn take_in(&self, kind: Kind, mut object: DynamicObject) -> Result<(), WriteError> {
        let watched = Watched::of(kind);
        let meta = &object.metadata;
        let id = ObjectId::new(watched, meta.namespace.as_deref(), meta.name.as_deref());
        if !self.state.is_current(&id, meta.resource_version.as_deref()) {
            return Ok(());
        }
        object.types = Some(kube::api::TypeMeta {
            api_version: kind.api_version().to_owned(),
            kind: kind.as_str().to_owned(),
        });
        if kind == Kind::Service {
            // The watch reads Services in their own type; it brings this one.
            return Ok(());
        }
        self.state.apply(object.observe(&self.system_namespace)?);
        Ok(())
    }

    async fn delete(&self, kind: Kind, namespace: &str, name: &str) -> Result<(), WriteError> {
        let api = self.api(kind, namespace);
        let Some(object) = api.get_metadata_opt(name).await? else {
            return Ok(());
        };
        let labels = object.metadata.labels.as_ref();
        let by = labels.and_then(|labels| labels.get(names::MANAGED_BY));
        if by.is_none_or(|by| by != names::MANAGER) {
            return Err(WriteError::NameTaken {
                kind: kind.as_str(),
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            });
        }
        self.delete_as(kind, namespace, name, &object.metadata).await
    }

    /// Deletes a generated fence, unless it has changed since this was planned: somebody may have written
    /// into its spec.
    pub async fn delete_fence(&self, key: &FenceKey, planned: &ObjectMeta) -> Result<(), WriteError> {
        let kind = Kind::ServiceFence;
        let result = self.delete_as(kind, &key.namespace, &key.name, planned).await;
        self.count(kind, "delete", &result);
        result
    }

    /// What was looked at is what is deleted, or nothing.
    async fn delete_as(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        is: &ObjectMeta,
    ) -> Result<(), WriteError> {
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: is.uid.clone(),
                resource_version: is.resource_version.clone(),
            }),
            ..DeleteParams::default()
        };
        match self.api(kind, namespace).delete(name, &params).await {
            Ok(_) => {
                tracing::debug!(kind = kind.as_str(), namespace, name, "deleted");
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
