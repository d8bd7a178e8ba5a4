//! Services of all kinds.

use serde_json::{Value, json};

use super::super::pool::{DESTINATIONS, Destination, EXTERNAL, HOME, NAMESPACES, SERVED};
use super::{Making, object};
use crate::pod::Protocol;

/// A Service as the rest of the generator needs it.
#[derive(Clone, Debug)]
pub(super) struct Service {
    pub(super) namespace: &'static str,
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) ports: Vec<Port>,
    /// The pod behind it.
    pub(super) pod: Destination,
}

/// Of what kind a Service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    ClusterIp,
    Headless,
    /// With an EndpointSlice of its own.
    WithoutSelector,
    /// It selects no pod.
    Empty,
    /// It stands for an earlier Service, or for the external host.
    ExternalName,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Port {
    pub(super) protocol: Protocol,
    pub(super) number: u16,
    pub(super) target: u16,
}

impl Service {
    /// The host in Istio's registry.
    pub(super) fn host(&self) -> String {
        format!("{}.{}.svc.cluster.local", self.name, self.namespace)
    }

    /// Its first port that HTTP rules concern.
    pub(super) fn http_port(&self) -> Option<u16> {
        let http = |port: &&Port| matches!(port.protocol, Protocol::Http | Protocol::Grpc);
        self.ports.iter().find(http).map(|port| port.number)
    }

    /// What the namespace/name placeholder of its address is.
    pub(super) fn address(&self) -> String {
        format!("{{service {}/{}}}", self.namespace, self.name)
    }
}

impl Making {
    pub(super) fn add_service(&mut self, number: usize) {
        let kind = self.dice.weighted(&[
            (52, Kind::ClusterIp),
            (13, Kind::Headless),
            (13, Kind::WithoutSelector),
            (7, Kind::Empty),
            (15, Kind::ExternalName),
        ]);
        let pod = *self.dice.pick(&DESTINATIONS);
        let namespace = match kind {
            Kind::ClusterIp | Kind::Headless => pod.namespace,
            _ => *self.dice.pick(&NAMESPACES),
        };
        // To callers of its own namespace the names below it are those of that namespace's Services too.
        let like_namespace = kind == Kind::Headless && namespace == HOME && self.dice.percent(25);
        let is_taken = self.services.iter().any(|service| service.name == "books");
        let mut service = Service {
            namespace,
            name: if like_namespace && !is_taken {
                "books".to_owned()
            } else {
                format!("s{number}")
            },
            kind,
            ports: self.ports(kind),
            pod,
        };
        let mut spec = json!({"ports": self.port_objects(&service)});
        match kind {
            Kind::ClusterIp => spec["selector"] = self.selector(pod),
            Kind::Headless => {
                spec["selector"] = json!({"app": pod.name});
                spec["clusterIP"] = json!("None");
            }
            Kind::Empty => spec["selector"] = json!({"app": "nothing"}),
            Kind::WithoutSelector => {}
            Kind::ExternalName => self.stand_for(&mut service, &mut spec),
        }
        if matches!(kind, Kind::ClusterIp | Kind::Headless) && self.dice.percent(10) {
            spec["publishNotReadyAddresses"] = json!(true);
        }
        let mut written = object("v1", "Service", namespace, &service.name, &spec);
        let to = self
            .dice
            .weighted(&[(84, ""), (4, "*"), (4, "."), (4, "~"), (4, "shop")]);
        if !to.is_empty() {
            written["metadata"]["annotations"] = json!({"networking.istio.io/exportTo": to});
        }
        self.objects.push(written);
        if kind == Kind::WithoutSelector {
            self.add_slice(&service);
        }
        self.services.push(service);
    }

    /// By the one label, or by two.
    fn selector(&mut self, pod: Destination) -> Value {
        if self.dice.percent(25) {
            json!({"app": pod.name, "version": pod.version})
        } else {
            json!({"app": pod.name})
        }
    }

    /// One to three, of numbers that are not taken.
    fn ports(&mut self, kind: Kind) -> Vec<Port> {
        let mut ports: Vec<Port> = Vec::new();
        for _ in 0..self.dice.weighted(&[(60, 1), (25, 2), (15, 3)]) {
            let at = self.dice.weighted(&[(60, 0), (15, 1), (11, 2), (6, 3), (8, 4)]);
            let (protocol, target) = SERVED[at];
            let numbers: &[u16] = match protocol {
                Protocol::Http => &[8080, 80, 8081, 9000],
                Protocol::Grpc => &[9090, 50051, 8080],
                Protocol::Tcp => &[9000, 3306, 8080],
                Protocol::TcpServerFirst => &[9001, 25],
                Protocol::Tls => &[8443, 443],
            };
            // Calls to a headless Service dial its pods as they are.
            let number = if kind == Kind::Headless {
                target
            } else {
                *self.dice.pick(numbers)
            };
            if ports.iter().all(|port| port.number != number) {
                ports.push(Port {
                    protocol,
                    number,
                    target,
                });
            }
        }
        ports
    }

    fn port_objects(&mut self, service: &Service) -> Vec<Value> {
        let alone = service.ports.len() == 1;
        let ports = service.ports.clone();
        ports
            .iter()
            .map(|port| {
                let prefix = port.protocol.port_prefix();
                let mut written = json!({"port": port.number, "targetPort": port.target, "protocol": "TCP"});
                let way = self.dice.below(100);
                // A server that speaks first must be declared: a proxy waits for the client's first bytes.
                let declared = port.protocol == Protocol::TcpServerFirst;
                if way < 15 && alone && !declared {
                    return written;
                }
                if way < 25 && !declared {
                    written["name"] = json!(format!("p{}", port.number));
                } else if way < 45 {
                    written["name"] = json!(format!("p{}", port.number));
                    written["appProtocol"] = json!(prefix);
                } else {
                    written["name"] = json!(format!("{prefix}-{}", port.number));
                }
                written
            })
            .collect()
    }

    fn stand_for(&mut self, service: &mut Service, spec: &mut Value) {
        spec["type"] = json!("ExternalName");
        let known = self.services.clone();
        if known.is_empty() || self.dice.percent(20) {
            spec["externalName"] = json!(EXTERNAL);
            service.ports = vec![Port {
                protocol: Protocol::Http,
                number: 80,
                target: 80,
            }];
        } else {
            let of = self.dice.pick(&known);
            spec["externalName"] = json!(of.host());
            service.ports.clone_from(&of.ports);
            service.pod = of.pod;
        }
        if self.dice.percent(30) {
            spec.as_object_mut().map(|fields| fields.remove("ports"));
        } else {
            spec["ports"] = json!(self.port_objects(service));
        }
    }

    fn add_slice(&mut self, service: &Service) {
        let written = self.objects.last().cloned().unwrap_or_default();
        let ports: Vec<Value> = service
            .ports
            .iter()
            .zip(written["spec"]["ports"].as_array().into_iter().flatten())
            .map(|(port, written)| {
                json!({"name": written["name"].as_str().unwrap_or_default(), "port": port.target, "protocol": "TCP"})
            })
            .collect();
        let name = &service.name;
        self.objects.push(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": name, "namespace": service.namespace, "labels": {"kubernetes.io/service-name": name}},
            "endpoints": [{"addresses": [format!("{{pod {}}}", service.pod.full_name())], "conditions": {"ready": true}}],
            "ports": ports,
        }));
    }
}
