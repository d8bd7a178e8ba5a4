//! Events: sentences for the authors of objects, on those objects.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{Api, DynamicObject, ObjectMeta};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use servicefence_crd::names;

use crate::fence::facts::Author;
use crate::fence::name::FenceKey;
use crate::fence::observe::{Unreadable, Watched, resource};
use crate::fence::{Said, UnknownLabel, WhyForgotten};

/// Reports Events. One that cannot be reported is logged; nothing waits for it.
#[derive(Clone)]
pub struct Events {
    client: kube::Client,
    reporter: Reporter,
}

impl Events {
    /// Reports as `servicefence` from this pod.
    pub fn new(client: kube::Client, pod: Option<String>) -> Self {
        let reporter = Reporter {
            controller: names::MANAGER.to_owned(),
            instance: pod,
        };
        Self { client, reporter }
    }

    /// An object as Events refer to it. `kubectl describe` shows those with its uid only, so one that is not
    /// known is asked for.
    async fn reference(&self, watched: Watched, namespace: Option<&str>, name: &str) -> ObjectReference {
        let resource = resource(watched);
        let api: Api<DynamicObject> = match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        };
        let uid = api.get_metadata_opt(name).await.unwrap_or_else(|error| {
            tracing::debug!(%error, resource = watched.as_str(), name, "its uid is not known, `kubectl describe` will not show the Event");
            None
        });
        reference(
            watched,
            namespace,
            name,
            uid.and_then(|object| object.metadata.uid),
        )
    }

    async fn publish(
        &self,
        object: ObjectReference,
        kind: EventType,
        reason: &str,
        action: &str,
        note: String,
    ) {
        // The API server takes notes of up to 1,024 bytes.
        let note = cut(note, 1_000);
        let event = Event {
            type_: kind,
            reason: reason.to_owned(),
            note: Some(note),
            action: action.to_owned(),
            secondary: None,
        };
        // A recorder that is kept takes an Event of the same reason for a repetition and keeps the older
        // note.
        let recorder = Recorder::new(self.client.clone(), self.reporter.clone());
        if let Err(error) = recorder.publish(&event, &object).await {
            tracing::warn!(%error, reason, object = object.name, "an Event could not be reported");
        }
    }

    /// What a fence's owner must know.
    pub async fn fence(&self, key: &FenceKey, uid: Option<String>, said: &Said) {
        let kind = if said.reason.is_warning() {
            EventType::Warning
        } else {
            EventType::Normal
        };
        let object = reference(Watched::ServiceFences, Some(&key.namespace), &key.name, uid);
        self.publish(
            object,
            kind,
            said.reason.as_str(),
            "Reconcile",
            said.message.clone(),
        )
        .await;
    }

    /// Hosts that a fence has learned.
    pub async fn learned(&self, key: &FenceKey, uid: Option<String>, hosts: &[String]) {
        let object = reference(Watched::ServiceFences, Some(&key.namespace), &key.name, uid);
        let note = match hosts {
            [one] => format!("{one} was called and joins the scope"),
            many => format!(
                "{} hosts were called and join the scope: {}",
                many.len(),
                many.join(", ")
            ),
        };
        self.publish(object, EventType::Normal, "Learned", "Learn", note)
            .await;
    }

    /// Hosts that a fence has forgotten.
    pub async fn forgotten(&self, key: &FenceKey, uid: Option<String>, hosts: &[String], why: WhyForgotten) {
        let object = reference(Watched::ServiceFences, Some(&key.namespace), &key.name, uid);
        let (number, all) = (hosts.len(), hosts.join(", "));
        let note = match (why, hosts) {
            (WhyForgotten::Silent, [one]) => {
                format!("no call to {one} was seen for long; it leaves the scope")
            }
            (WhyForgotten::Silent, _) => {
                format!("no calls to {number} hosts were seen for long; they leave the scope: {all}")
            }
            (WhyForgotten::Missing, [one]) => {
                format!("the mesh has not had {one} for long; it leaves the scope")
            }
            (WhyForgotten::Missing, _) => {
                format!("the mesh has not had {number} hosts for long; they leave the scope: {all}")
            }
        };
        self.publish(object, EventType::Normal, "Forgotten", "Forget", note)
            .await;
    }

    /// A label of ours that means nothing.
    pub async fn unknown_label(&self, unknown: &UnknownLabel) {
        let object = match &unknown.service {
            Some(service) => {
                self.reference(Watched::Services, Some(&unknown.namespace), service)
                    .await
            }
            None => {
                self.reference(Watched::Namespaces, None, &unknown.namespace)
                    .await
            }
        };
        let note = unknown.to_string();
        let service = unknown.service.as_deref();
        tracing::warn!(namespace = &*unknown.namespace, service, "{note}");
        self.publish(object, EventType::Warning, "UnknownLabel", "Reconcile", note)
            .await;
    }

    /// An object that cannot be read.
    pub async fn unreadable(&self, watched: Watched, meta: &ObjectMeta, error: &Unreadable) {
        let name = meta.name.clone().unwrap_or_default();
        let object = reference(watched, meta.namespace.as_deref(), &name, meta.uid.clone());
        self.publish(
            object,
            EventType::Warning,
            "Unreadable",
            "Read",
            error.to_string(),
        )
        .await;
    }

    /// A user's rule that first calls do not follow.
    pub async fn not_carried(&self, author: &Author, because: &str) {
        let (watched, key) = match author {
            Author::VirtualService(key) => (Watched::VirtualServices, key),
            Author::Route(route) => (Watched::routes(route.kind), &route.config),
        };
        let object = self.reference(watched, Some(&key.namespace), &key.name).await;
        let kind = object.kind.clone().unwrap_or_default();
        let note = format!(
            "first calls, which the fallback gateway serves, do not follow a rule of this {kind}: {because}; once the host is learned they do"
        );
        self.publish(object, EventType::Warning, "RuleNotCarried", "Reconcile", note)
            .await;
    }
}

fn reference(watched: Watched, namespace: Option<&str>, name: &str, uid: Option<String>) -> ObjectReference {
    let resource = resource(watched);
    ObjectReference {
        api_version: Some(resource.api_version),
        kind: Some(resource.kind),
        namespace: namespace.map(ToOwned::to_owned),
        name: Some(name.to_owned()),
        uid,
        ..ObjectReference::default()
    }
}

fn cut(mut note: String, most: usize) -> String {
    if note.len() > most {
        let end = (0..=most)
            .rev()
            .find(|at| note.is_char_boundary(*at))
            .unwrap_or(0);
        note.truncate(end);
        note.push('…');
    }
    note
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_notes_are_cut_between_characters() {
        assert_eq!(cut("short".to_owned(), 10), "short");
        assert_eq!(cut("ééé".to_owned(), 3), "é…");
    }
}
