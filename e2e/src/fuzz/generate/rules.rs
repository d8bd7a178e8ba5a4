//! `VirtualService`s and `DestinationRule`s. A call has one answer: weights are 0 or 100. What the
//! documentation says that first calls do without is not made: `sourceLabels`.

use serde_json::{Value, json};

use super::super::pool::{EXTERNAL, HOME, NAMESPACES};
use super::services::{Kind, Service};
use super::{Making, NETWORKING, object};

impl Making {
    pub(super) fn add_rule(&mut self, number: usize) {
        let Some(service) = self.http_service() else {
            return;
        };
        let namespace = match self.dice.below(10) {
            0..=5 => service.namespace,
            6 | 7 => HOME,
            _ => *self.dice.pick(&NAMESPACES),
        };
        let host = match self.dice.below(10) {
            0 | 1 if namespace == service.namespace => service.name.clone(),
            2 => format!("*.{}.svc.cluster.local", service.namespace),
            3 if self.dice.percent(50) => format!("{}.{}", service.name, service.namespace),
            _ => service.host(),
        };
        if host.starts_with('*') && self.dice.percent(60) {
            let spec = json!({"hosts": [service.host()], "http": [self.http_rule()]});
            let name = format!("vs{number}-exact");
            self.objects
                .push(object(NETWORKING, "VirtualService", namespace, &name, &spec));
        }
        let mut http: Vec<Value> = Vec::new();
        for _ in 0..=self.dice.below(2) {
            http.push(self.http_rule());
        }
        let name = format!("vs{number}");
        if self.dice.percent(8) {
            let part = format!("{name}-part");
            let spec = json!({"http": http});
            self.objects
                .push(object(NETWORKING, "VirtualService", namespace, &part, &spec));
            http = vec![json!({"delegate": {"name": part, "namespace": namespace}})];
        }
        let mut spec = json!({"hosts": [host], "http": http});
        if self.dice.percent(10) {
            spec["gateways"] = json!(["mesh"]);
        }
        self.export_to(&mut spec, namespace);
        self.objects
            .push(object(NETWORKING, "VirtualService", namespace, &name, &spec));
    }

    /// A Service with HTTP.
    fn http_service(&mut self) -> Option<Service> {
        let all: Vec<Service> = self
            .services
            .iter()
            .filter(|service| service.http_port().is_some())
            .cloned()
            .collect();
        (!all.is_empty()).then(|| self.dice.pick(&all).clone())
    }

    pub(super) fn http_rule(&mut self) -> Value {
        let mut rule = match self.dice.below(12) {
            0 => json!({"redirect": {"uri": "/moved"}}),
            1 => json!({"directResponse": {"status": 207, "body": {"string": "by a rule"}}}),
            2 => json!({"redirect": {"authority": "elsewhere.example", "redirectCode": 307}}),
            _ => self.route(),
        };
        match self.dice.below(6) {
            0 => rule["match"] = json!([{"uri": {"prefix": "/a"}}]),
            1 => rule["match"] = json!([{"headers": {"x-fuzz": {"exact": "1"}}}]),
            2 => {
                rule["match"] = json!([{"uri": {"exact": "/"}}, {"method": {"exact": "GET"}, "uri": {"prefix": "/status"}}]);
            }
            3 => {
                let mut from = json!({"sourceNamespace": self.dice.pick(&NAMESPACES)});
                if self.dice.percent(30) {
                    from["gateways"] = json!(["mesh"]);
                }
                rule["match"] = json!([from]);
            }
            _ => {}
        }
        rule
    }

    fn route(&mut self) -> Value {
        let mut rule = json!({});
        let one = self.destination();
        rule["route"] = if self.dice.percent(20) {
            let other = self.destination();
            json!([{"destination": one, "weight": 100}, {"destination": other, "weight": 0}])
        } else {
            json!([{"destination": one}])
        };
        match self.dice.below(12) {
            0 => rule["rewrite"] = json!({"uri": "/rewritten"}),
            1 => rule["rewrite"] = json!({"authority": "rewritten.example"}),
            2 => rule["fault"] = json!({"abort": {"httpStatus": 418, "percentage": {"value": 100}}}),
            3 => {
                rule["headers"] = json!({"request": {"set": {"x-by-rule": "yes"}}, "response": {"add": {"x-from-rule": "yes"}}});
            }
            4 => rule["mirror"] = self.destination(),
            5 => rule["timeout"] = json!("3s"),
            6 => rule["retries"] = json!({"attempts": 0}),
            7 => rule["corsPolicy"] = json!({"allowOrigins": [{"exact": "https://a.example"}]}),
            _ => {}
        }
        rule
    }

    fn destination(&mut self) -> Value {
        if self.dice.percent(6) {
            return json!({"host": EXTERNAL});
        }
        let Some(service) = self.http_service() else {
            return json!({"host": "nothing.shop.svc.cluster.local"});
        };
        let mut destination = json!({"host": service.host()});
        if service.ports.len() > 1 || self.dice.percent(60) {
            destination["port"] = json!({"number": service.http_port()});
        }
        if self.dice.percent(15) {
            destination["subset"] = json!("its");
        }
        destination
    }

    pub(super) fn add_destination_rule(&mut self, number: usize) {
        let services = self.services.clone();
        let service = self.dice.pick(&services).clone();
        let namespace = match self.dice.below(10) {
            0..=5 => service.namespace,
            6..=8 => HOME,
            _ => *self.dice.pick(&NAMESPACES),
        };
        let host = match self.dice.below(10) {
            0 => format!("*.{}.svc.cluster.local", service.namespace),
            1 => EXTERNAL.to_owned(),
            _ => service.host(),
        };
        let mut spec = json!({"host": host});
        if self.dice.percent(8) {
            spec["workloadSelector"] = json!({"matchLabels": {"app": "caller"}});
        }
        if self.dice.percent(60) {
            spec["subsets"] = json!([{"name": "its", "labels": {"version": service.pod.version}}]);
        }
        match self.dice.below(6) {
            // Plain text to what takes it, and to what does not.
            0 => spec["trafficPolicy"] = json!({"tls": {"mode": "DISABLE"}}),
            1 if service.pod.proxied => spec["trafficPolicy"] = json!({"tls": {"mode": "ISTIO_MUTUAL"}}),
            2 => spec["trafficPolicy"] = json!({"loadBalancer": {"consistentHash": {"useSourceIp": true}}}),
            3 if service.kind != Kind::Empty => {
                spec["trafficPolicy"] = json!({"connectionPool": {"http": {"h2UpgradePolicy": "UPGRADE"}}});
            }
            _ => {}
        }
        // One for certain pods stays in its namespace.
        if spec["workloadSelector"].is_null() {
            self.export_to(&mut spec, namespace);
        }
        let name = format!("dr{number}");
        self.objects
            .push(object(NETWORKING, "DestinationRule", namespace, &name, &spec));
    }
}
