//! What reconcilers and writers do with a plan.

use std::sync::Arc;

use jiff::SignedDuration;
use servicefence_crd::{Forgot, ServiceFence};

use crate::engine::Change;
use crate::name::{FenceKey, Name};
use crate::observe::{Unreadable, Watched, observe};
use crate::plan::FencePlan;
use crate::plan::target::Target;
use crate::render::{Kind, Object, Write};
use crate::simulate::Simulation;

impl Simulation {
    /// Plans a target and carries out the plan.
    pub fn reconcile(&mut self, target: &Target) -> Result<(), Unreadable> {
        let again_at = match target {
            Target::Fence(key) => match self.engine.plan_fence(key, self.now) {
                Some(plan) => self.carry_out(key, plan)?,
                None => None,
            },
            Target::Namespace(name) => {
                let plan = self.engine.plan_namespace(name, self.now);
                self.write_all(plan.writes)?;
                plan.again_at
            }
            Target::Routes(namespace) => {
                let plan = self.engine.plan_routes(namespace, self.now);
                if plan.taken.is_empty() {
                    self.write_all(plan.writes)?;
                }
                plan.again_at
            }
            Target::Ports => {
                let plan = self.engine.plan_ports();
                self.write_all(plan.write)?;
                None
            }
        };
        self.due.extend(again_at.map(|at| (at, target.clone())));
        Ok(())
    }

    fn carry_out(&mut self, key: &FenceKey, plan: FencePlan) -> Result<Option<jiff::Timestamp>, Unreadable> {
        self.write_all(plan.sidecar)?;
        if !plan.forget.is_empty() {
            self.forget(key, &plan.forget);
        }
        if plan.delete {
            let (namespace, name) = (key.namespace.clone(), key.name.clone());
            self.write(Write::Delete(Kind::ServiceFence, namespace, name))?;
        }
        if let Some(mut status) = plan.status {
            self.writes.push(format!("status {key}"));
            self.change_fence(key, |fence| {
                // These two have another writer.
                let before = fence.status.take().unwrap_or_default();
                (status.learned, status.forgot) = (before.learned, before.forgot);
                fence.status = Some(status);
            });
        }
        self.said.extend(plan.said.map(|said| (key.clone(), said)));
        Ok(plan.again_at)
    }

    fn change_fence(&mut self, key: &FenceKey, change: impl FnOnce(&mut ServiceFence)) {
        if let Some(fence) = self.engine.fence(key) {
            let mut resource = (*fence.resource).clone();
            change(&mut resource);
            self.apply(Change::Fence(key.clone(), Some(Arc::new(resource))));
        }
    }

    fn forget(&mut self, key: &FenceKey, hosts: &[Name]) {
        let names: Vec<_> = hosts.iter().map(ToString::to_string).collect();
        self.writes.push(format!("forget {key} {}", names.join(",")));
        let at = self.now;
        self.change_fence(key, |fence| {
            let status = fence.status.get_or_insert_default();
            status
                .learned
                .retain(|learned| !hosts.iter().any(|host| **host == *learned.host));
            status.forgot = Some(Forgot { at, hosts: names });
        });
    }

    fn write_all(&mut self, writes: impl IntoIterator<Item = Write>) -> Result<(), Unreadable> {
        writes.into_iter().try_for_each(|write| self.write(write))
    }

    fn write(&mut self, write: Write) -> Result<(), Unreadable> {
        match write {
            Write::Apply(object) => self.write_object(object),
            Write::Delete(kind, namespace, name) => {
                self.writes
                    .push(format!("delete {} {namespace}/{name}", kind.as_str()));
                let gone = Watched::of(kind).gone(&namespace, &name, &self.system_namespace);
                self.objects.remove(&(kind, namespace, name));
                self.apply(gone);
                Ok(())
            }
        }
    }

    fn write_object(&mut self, object: Object) -> Result<(), Unreadable> {
        let Object {
            kind,
            namespace,
            name,
            mut body,
        } = object;
        self.writes
            .push(format!("apply {} {namespace}/{name}", kind.as_str()));
        if kind == Kind::ServiceFence {
            let meta = &mut body["metadata"];
            meta["uid"] = format!("uid-{name}").into();
            meta["generation"] = 1.into();
            meta["creationTimestamp"] = self.next_created().into();
        }
        self.objects.insert((kind, namespace, name), body.clone());
        let change = observe(body, &self.system_namespace)?;
        self.apply(change);
        Ok(())
    }

    /// Fences are told apart by age: each is made a second after the one before.
    pub(super) fn next_created(&mut self) -> String {
        self.version += 1;
        let after = SignedDuration::from_secs(i64::try_from(self.version).unwrap_or(i64::MAX));
        (self.now + after).to_string()
    }
}
