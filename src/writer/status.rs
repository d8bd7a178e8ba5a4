//! The status of a fence: everything but the learned list, which [`super::learning`] writes.

use kube::api::{Api, DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};
use servicefence_crd::{ServiceFenceStatus, names};

use super::{WriteError, Writer};
use crate::fence::name::FenceKey;
use crate::fence::observe::{Watched, resource};
use crate::fence::render::Kind;

impl Writer {
    /// Applies a fence's status and takes in the answer.
    pub async fn status(&self, key: &FenceKey, status: &ServiceFenceStatus) -> Result<(), WriteError> {
        let mut status = json!(status);
        if let Some(fields) = status.as_object_mut() {
            fields.remove("learned");
        }
        let body = json!({
            "apiVersion": Kind::ServiceFence.api_version(),
            "kind": Kind::ServiceFence.as_str(),
            "metadata": {"name": &*key.name, "namespace": &*key.namespace},
            "status": status,
        });
        let params = PatchParams::apply(names::MANAGER).force();
        let result = self.patch_status(key, &params, &Patch::Apply(body)).await;
        self.count(Kind::ServiceFence, "status", &result);
        result
    }

    pub(super) async fn patch_status(
        &self,
        key: &FenceKey,
        params: &PatchParams,
        patch: &Patch<Value>,
    ) -> Result<(), WriteError> {
        let answer = self.fences(key).patch_status(&key.name, params, patch).await?;
        self.take_in(Kind::ServiceFence, answer)
    }

    /// Reads a fence and takes in the answer.
    pub(super) async fn read_fence(&self, key: &FenceKey) -> Result<(), WriteError> {
        let answer = self.fences(key).get(&key.name).await?;
        self.take_in(Kind::ServiceFence, answer)
    }

    fn fences(&self, key: &FenceKey) -> Api<DynamicObject> {
        Api::namespaced_with(
            self.client.clone(),
            &key.namespace,
            &resource(Watched::ServiceFences),
        )
    }
}
