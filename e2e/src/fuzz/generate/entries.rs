//! `ServiceEntry`s, and the calls to their hosts.

use serde_json::{Value, json};

use super::super::pool::{DESTINATIONS, EXTERNAL, NAMESPACES};
use super::super::world::FuzzCall;
use super::{Making, NETWORKING, object};

impl Making {
    pub(super) fn add_entry(&mut self, number: usize) {
        let namespace = *self.dice.pick(&NAMESPACES);
        let address = format!("240.0.0.{}", 10 + number);
        let (mut spec, host) = match self.dice.below(5) {
            0 => Self::by_name(),
            1 => (Self::wildcard(), format!("{number}.wild.example")),
            2 => self.of_pods(number, namespace),
            3 => (
                json!({"hosts": [format!("e{number}.example")], "resolution": "NONE"}),
                format!("e{number}.example"),
            ),
            _ => self.of_addresses(number),
        };
        let location = if self.dice.percent(50) {
            "MESH_INTERNAL"
        } else {
            "MESH_EXTERNAL"
        };
        spec["location"] = json!(location);
        let (port, target) = self
            .dice
            .weighted(&[(40, (80, 8080)), (40, (8080, 8080)), (20, (8090, 8080))]);
        let resolved_to_pods = spec["endpoints"][0]["address"]
            .as_str()
            .is_some_and(|at| at.contains("pod"));
        let protocol = self.dice.weighted(&[(80, "HTTP"), (20, "TCP")]);
        let mut written = json!({"number": port, "name": format!("{}-{port}", protocol.to_lowercase()), "protocol": protocol});
        if resolved_to_pods || spec["workloadSelector"].is_object() {
            written["targetPort"] = json!(target);
        }
        spec["ports"] = json!([written]);
        // TCP without an address would take every connection of its port.
        let has_address = spec["resolution"] == "STATIC" && (protocol == "TCP" || self.dice.percent(50));
        let mut addresses = vec![address];
        if self.dice.percent(30) {
            addresses.push(format!("240.0.1.{}", 10 + number));
        }
        let dialled = if has_address {
            spec["addresses"] = json!(addresses);
            self.dice.pick(&addresses).clone()
        } else {
            "{external}".to_owned()
        };
        self.export_to(&mut spec, namespace);
        let name = format!("se{number}");
        self.objects
            .push(object(NETWORKING, "ServiceEntry", namespace, &name, &spec));
        let mut call = FuzzCall::new(format!("http://{dialled}:{port}/"));
        call.host = Some(host);
        self.calls.push(call);
    }

    fn by_name() -> (Value, String) {
        (
            json!({"hosts": [EXTERNAL], "resolution": "DNS"}),
            EXTERNAL.to_owned(),
        )
    }

    fn wildcard() -> Value {
        json!({"hosts": ["*.wild.example"], "resolution": "NONE"})
    }

    fn of_pods(&mut self, number: usize, namespace: &str) -> (Value, String) {
        let here: Vec<_> = DESTINATIONS
            .iter()
            .filter(|pod| pod.namespace == namespace && pod.ready)
            .collect();
        let pod = self.dice.pick(&here);
        let host = format!("pods{number}.example");
        let spec = json!({"hosts": [host], "resolution": "STATIC", "workloadSelector": {"labels": {"app": pod.name}}});
        (spec, host)
    }

    fn of_addresses(&mut self, number: usize) -> (Value, String) {
        let pod = *self.dice.pick(&DESTINATIONS);
        let host = match self.dice.below(3) {
            // A host that looks like a Service's.
            0 => format!("made{number}.books.svc.cluster.local"),
            _ => format!("static{number}.example"),
        };
        let address = format!("{{pod {}}}", pod.full_name());
        (
            json!({"hosts": [host], "resolution": "STATIC", "endpoints": [{"address": address}]}),
            host,
        )
    }
}
