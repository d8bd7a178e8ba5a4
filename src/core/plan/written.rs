//! What we have written, as it was observed, and what the API server and Istio said of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use jiff::{SignedDuration, Timestamp};

use crate::facts::Stamp;
use crate::name::ours::namespace_of_routes;
use crate::name::{ConfigKey, Fingerprint, Name};
use crate::plan::arrivals::Arrivals;
use crate::plan::target::Target;
use crate::plan::transition::Warm;
use crate::settings::Settings;

/// Of the EnvoyFilters of all namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EnvoyFilters<T> {
    /// While they serve misses.
    pub serving: T,
    /// The same by other words: from one to the other, istiod tells proxies all that they should know.
    pub serving_again: T,
    /// For a settle time before that, and after.
    pub standby: T,
}

/// What was written, and how that went.
#[derive(Default)]
pub struct Written {
    /// Since when the hosts of Sidecars have been warm, where there are such.
    pub warm: BTreeMap<ConfigKey, Warm>,
    /// Until when the proxies of a namespace that lost a Sidecar may not have heard of it.
    pub releasing: BTreeMap<Name, Timestamp>,
    /// When the EnvoyFilter of a namespace changed last: proxies were told all that they should know.
    pub told: BTreeMap<Name, Timestamp>,
    /// VirtualServices that an older version left.
    pub leftovers: BTreeSet<ConfigKey>,
    /// EnvoyFilters named as ours are, by namespace.
    pub envoy_filters: BTreeMap<Name, Stamp>,
    /// Objects named as the gateway's routes are.
    pub routes: BTreeMap<Name, Stamp>,
    /// What Istio refused of the routes to a namespace.
    pub routes_refused: BTreeMap<Name, Vec<Fingerprint>>,
    /// The placeholder Service.
    pub ports: Option<Stamp>,
    /// Ports that the fallback gateway may not know yet.
    pub arrivals: Arrivals,
    /// How long istiod takes at present until proxies have what it pushes.
    pub convergence: SignedDuration,
    /// What the API server last said to a write for a target, where it refused it.
    pub write_errors: BTreeMap<Target, String>,
    /// Digests of the specs that the namespaces' EnvoyFilters must have; found when first needed.
    pub envoy_filters_wanted: OnceLock<EnvoyFilters<Fingerprint>>,
}

impl EnvoyFilters<Fingerprint> {
    /// Whether one with this digest serves misses.
    pub fn serve(&self, is: Fingerprint) -> bool {
        is == self.serving || is == self.serving_again
    }
}

impl Written {
    /// The settle time in force: the setting, or longer while istiod takes longer.
    pub fn settle_time(&self, settings: &Settings) -> SignedDuration {
        if settings.settle_time.is_zero() {
            SignedDuration::ZERO
        } else {
            settings.settle_time.max(self.convergence)
        }
    }

    /// The objects that hold a namespace's routes, or have a name of such.
    pub fn routes_of(&self, namespace: &Name) -> impl Iterator<Item = (&Name, &Stamp)> {
        let routes = self.routes.iter();
        routes.filter(move |(name, _)| namespace_of_routes(name).is_some_and(|of| of == *namespace))
    }
}
