//! Calls by every form of a name and of an address.

use std::collections::BTreeSet;

use super::super::pool::{DESTINATIONS, EXTERNAL, HOME};
use super::super::world::FuzzCall;
use super::Making;
use super::services::{Port, Service};
use crate::pod::Protocol;

/// Hosts that no world has.
const UNKNOWN: [&str; 5] = [
    "nowhere",
    "nowhere.books",
    "nowhere.example",
    "API.Example.com",
    "10.96.0.1",
];

impl Making {
    pub(super) fn add_calls(&mut self) {
        for service in self.services.clone() {
            for port in service.ports.clone() {
                self.add_call(&service, port);
                if self.dice.percent(35) {
                    self.add_call(&service, port);
                }
            }
        }
        for service in self.services.clone() {
            // Rules hold there by the name, whether the Service has the port or not.
            if service.http_port().is_some() && self.dice.percent(10) {
                let url = format!("http://{}:80{}", service.host(), self.path());
                self.calls.push(FuzzCall::new(url));
            }
        }
        for _ in 0..self.dice.below(3) {
            self.call_a_pod();
        }
        self.calls.push(FuzzCall::new(format!("http://{EXTERNAL}:80/")));
        if self.dice.percent(30) {
            self.calls.push(FuzzCall::new(format!("tls://{EXTERNAL}:443/")));
        }
    }

    /// Some Services are not called before something has changed.
    pub(super) fn delay_calls(&mut self) {
        if self.changes.is_empty() {
            return;
        }
        let called: BTreeSet<String> = self.calls.iter().map(FuzzCall::called).collect();
        for name in called {
            if self.dice.percent(35) {
                let after = 1 + self.dice.below(self.changes.len());
                let calls = self.calls.iter_mut().filter(|call| call.called() == name);
                calls.for_each(|call| call.after = after);
            }
        }
    }

    /// One that rules may lead elsewhere.
    fn path(&mut self) -> &'static str {
        self.dice.weighted(&[
            (55, "/"),
            (20, "/a"),
            (15, "/a/b?c=d"),
            (5, "/status/404"),
            (5, "/redirect"),
        ])
    }

    fn add_call(&mut self, service: &Service, port: Port) {
        let name = self.name_of(service);
        let number = port.number;
        let scheme = match port.protocol {
            Protocol::Http => self.dice.weighted(&[(70, "http"), (20, "h2"), (10, "ws")]),
            Protocol::Grpc => "grpc",
            Protocol::Tcp => "tcp",
            Protocol::TcpServerFirst => "tcp-server-first",
            Protocol::Tls => "tls",
        };
        let path = self.path();
        let mut call = FuzzCall::new(match scheme {
            "http" | "h2" => format!("{scheme}://{name}:{number}{path}"),
            _ => format!("{scheme}://{name}:{number}/"),
        });
        if matches!(scheme, "http" | "h2") {
            if self.dice.percent(25) {
                call.host = Some(self.forged(service, number));
            }
            if self.dice.percent(20) {
                call.header = Some(("x-fuzz".to_owned(), "1".to_owned()));
            }
        }
        self.calls.push(call);
    }

    /// A name as an application would write it, or the address.
    fn name_of(&mut self, service: &Service) -> String {
        let (name, namespace) = (&service.name, service.namespace);
        match self.dice.below(6) {
            0 if namespace == HOME => name.clone(),
            0 | 1 => format!("{name}.{namespace}"),
            2 => format!("{name}.{namespace}.svc"),
            3 => format!("{}.", service.host()),
            4 if service.has_address() => service.address(),
            _ => service.host(),
        }
    }

    /// A Host that is not the name that is dialled.
    fn forged(&mut self, service: &Service, port: u16) -> String {
        let services = self.services.clone();
        let other = self.dice.pick(&services).clone();
        match self.dice.below(6) {
            0 => (*self.dice.pick(&UNKNOWN)).to_owned(),
            1 => format!("{}:{port}", other.host()),
            2 => format!("{}.{}:{port}", other.name, other.namespace),
            3 => service.host().to_uppercase(),
            4 => service.name.clone(),
            _ => format!("{}:{port}", service.host()),
        }
    }

    /// The address of a pod, with a Service as Host or with itself.
    fn call_a_pod(&mut self) {
        let services = self.services.clone();
        let service = self.dice.pick(&services).clone();
        let pod = *self.dice.pick(&DESTINATIONS);
        let pod = if self.dice.percent(50) { service.pod } else { pod };
        let url = format!("http://{{pod {}}}:8080/", pod.full_name());
        let mut call = FuzzCall::new(url);
        if self.dice.percent(70) {
            call.host = Some(format!("{}.{}:8080", service.name, service.namespace));
        }
        self.calls.push(call);
    }
}

impl Service {
    fn has_address(&self) -> bool {
        use super::services::Kind;
        matches!(self.kind, Kind::ClusterIp | Kind::WithoutSelector | Kind::Empty)
    }
}
