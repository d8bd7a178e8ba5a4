//! Which fences mention a host, so that a change of one Service looks at those alone.
//!
//! Flows in: the hosts of a fence, before and after. Flows out: the fences of a host. Invariant: a fence is
//! listed for just the hosts that it was last said to have.

use std::collections::{BTreeSet, HashMap};

use crate::name::{FenceKey, Name};

/// The fences of each host. Most hosts have few.
#[derive(Default)]
pub struct Mentions(HashMap<Name, Vec<FenceKey>>);

impl Mentions {
    /// Notes which hosts a fence has now, and no longer.
    pub(super) fn change(&mut self, fence: &FenceKey, before: &BTreeSet<&Name>, now: &BTreeSet<&Name>) {
        for host in before.difference(now) {
            if let Some(fences) = self.0.get_mut(*host) {
                fences.retain(|is| is != fence);
                if fences.is_empty() {
                    self.0.remove(*host);
                }
            }
        }
        for host in now.difference(before) {
            self.0.entry((*host).clone()).or_default().push(fence.clone());
        }
    }

    /// The fences that have a host.
    pub(super) fn of(&self, host: &str) -> &[FenceKey] {
        self.0.get(host).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_is_found_by_the_hosts_that_it_has_now() {
        let mut mentions = Mentions::default();
        let (x, y) = (Name::from("x"), Name::from("y"));
        let (web, cart) = (FenceKey::new("shop", "web"), FenceKey::new("shop", "cart"));
        let none = BTreeSet::new();
        mentions.change(&web, &none, &[&x, &y].into());
        mentions.change(&cart, &none, &[&x].into());
        mentions.change(&web, &[&x, &y].into(), &[&y].into());
        assert_eq!(
            (mentions.of("x"), mentions.of("y")),
            (&[cart.clone()][..], &[web][..])
        );
        mentions.change(&cart, &[&x].into(), &none);
        assert!(mentions.of("x").is_empty() && !mentions.0.contains_key("x"));
    }
}
