//! The controller is away while the mesh goes on changing: Services, namespaces and ports come and go, and
//! after each change a fenced caller gets the answer that an unscoped one gets, while both go on with what
//! they did before.
//!
//! `CHANGES` says how many changes there are; `make absence` makes as many as an hour has seconds.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use servicefence_e2e::install::{SOON, SYSTEM};
use servicefence_e2e::wait::until;
use servicefence_e2e::{Call, LoadSpec, Mesh, PodSpec, Protocol, ServiceSpec};

use crate::stopped::{alike, stop};
use crate::{shop, shutdown};

crate::steps![
    a_fenced_caller_misses_nothing_while_the_controller_is_away,
    a_fenced_caller_reaches_what_comes_from_its_first_moment_on,
];

/// A caller like `shop/web`, and not fenced.
const FREE: &str = "free/caller";

/// The pod behind Services of its namespace, in the mesh.
const APP: &str = "crowd/app";

/// The pod behind Services of other namespaces, outside of the mesh.
const BARE: &str = "crowd/bare";

/// How many changes there are without `CHANGES`.
const CHANGES: usize = 48;

/// So many Services live at once; then the oldest goes.
const MOST_ALIVE: usize = 8;

/// A Service that came.
struct Arrived {
    namespace: String,
    name: String,
    /// Its calls, all answered by `pod`.
    calls: Vec<Call>,
    pod: &'static str,
}

async fn a_fenced_caller_misses_nothing_while_the_controller_is_away(mesh: Mesh) -> Result<()> {
    let changes = match std::env::var("CHANGES") {
        Ok(changes) => changes.parse().context("CHANGES is no number")?,
        Err(_) => CHANGES,
    };
    mesh.add_pod(PodSpec::new(FREE)).await?;
    // First, so that all proxies have heard of it when calls begin.
    let steady = ServiceSpec::new("crowd/steady").selects("app");
    mesh.add_service(&steady.port(Protocol::Http, 8080)).await?;
    let app = PodSpec::new(APP).http(8080).http(18_100).grpc(18_101);
    mesh.add_app(app.tcp(18_102).tcp_server_first(18_103)).await?;
    mesh.add_app(PodSpec::new(BARE).plain().http(8080).tcp(18_104))
        .await?;
    stop(&mesh).await?;
    let result = while_away(&mesh, changes).await;
    // The steps after this one need it, whatever came of this.
    shutdown::scale(&mesh, "--replicas=1").await?;
    mesh.controller_pod().await?;
    mesh.wait_at_rest("shop").await?;
    result
}

async fn while_away(mesh: &Mesh, changes: usize) -> Result<()> {
    let mut loads = Vec::new();
    for caller in [shop::WEB, FREE] {
        // Hosts in the scope of `shop/web`, and one that it has never called.
        let load = LoadSpec::new(caller).clients(2).pause(Duration::from_millis(20));
        let load = load
            .get("http://reviews.books:8080/")
            .get("http://steady.crowd:8080/");
        loads.push((caller, mesh.start_load(&load.get("tcp://app.crowd:18102")).await?));
    }
    let mut alive = VecDeque::new();
    let mut compared = 0;
    for number in 0..changes {
        let new = arrive(mesh, number)
            .await
            .with_context(|| format!("change {number}"))?;
        // No caller reaches an address that leads nowhere yet.
        mesh.wait_endpoint(&format!("{}/{}", new.namespace, new.name))
            .await?;
        for call in &new.calls {
            alike(mesh, FREE, call, new.pod).await?;
        }
        compared += new.calls.len();
        alive.push_back(new);
        // What came some changes ago has stayed as it was.
        let older: &Arrived = &alive[number % alive.len()];
        for call in &older.calls {
            alike(mesh, FREE, call, older.pod).await?;
        }
        compared += older.calls.len();
        if alive.len() > MOST_ALIVE
            && let Some(oldest) = alive.pop_front()
        {
            compared += leave(mesh, &oldest, number % 5 == 0).await?;
        }
        if number % 6 == 0 {
            switch(mesh, number % 12 == 0).await?;
        }
    }
    for (caller, load) in loads {
        let report = load.stop().await;
        eprintln!("{changes} changes, {compared} calls compared; load from {caller}: {report}");
        ensure!(report.failed == 0 && report.calls > 0, "{caller}: {report}");
    }
    for gone in &alive {
        delete(mesh, &gone.namespace, &gone.name).await?;
    }
    // Namespaces go slowly, and the steps after this one count what the mesh has.
    until("the namespaces that came to be gone", SOON, async || {
        let namespaces = mesh.kubectl(&["get", "namespaces", "-o", "name"]).await?;
        ensure!(!namespaces.contains("passing-"), "{namespaces}");
        Ok(())
    })
    .await
}

/// All along: before any proxy has heard of it, and while the fallback gateway gets its cluster and its
/// routes. The gateways' nodes know its address before, and go on knowing it, so no call depends on how fast
/// nodes are.
async fn a_fenced_caller_reaches_what_comes_from_its_first_moment_on(mesh: Mesh) -> Result<()> {
    mesh.wait_at_rest("shop").await?;
    let app = mesh.pod(APP)?.ip;
    let mut loads = Vec::new();
    for number in 0..8 {
        let name = format!("first-{number}");
        let address = format!("10.96.0.{}", 200 + number);
        for (port, target) in [("8080", "18100"), ("9000", "18102")] {
            let to = format!("{app}:{target}");
            let rule = ["-I", "OUTPUT", "-p", "tcp", "-d", &address, "--dport", port, "-j"];
            for gateway in mesh.gateway_pods() {
                let rule = [&["-t", "nat"], &rule[..], &["DNAT", "--to-destination", &to]].concat();
                gateway.netns().run("iptables", &rule, "")?;
            }
        }
        let call = Call::get(&format!("http://{address}:8080/")).host(&format!("{name}.crowd:8080"));
        let load = LoadSpec::new(shop::WEB)
            .clients(2)
            .pause(Duration::from_millis(5));
        let load = load.call(call).get(&format!("tcp://{address}:9000"));
        let load = mesh.start_load(&load).await?;
        load.more(20).await?;
        let service = ServiceSpec::new(&format!("crowd/{name}")).selects("app");
        let service = service.cluster_ip(&address).named_port("http", 8080, 18_100);
        mesh.add_service(&service.named_port("tcp", 9000, 18_102)).await?;
        loads.push((name, load));
    }
    for (name, load) in loads {
        until(format!("a route to {name}"), SOON, async || {
            let rules = shop::object(&mesh, SYSTEM, "virtualservice", "fallback-crowd").await?;
            ensure!(rules.to_string().contains(&name), "there is none");
            Ok(())
        })
        .await?;
        load.more(200).await?;
        let report = load.stop().await;
        ensure!(report.failed == 0 && report.calls > 0, "{name}: {report}");
        delete(&mesh, "crowd", &name).await?;
    }
    Ok(())
}

/// The next Service: in an old namespace or a new one, on a port number that the mesh knows or a new one, of
/// each protocol.
async fn arrive(mesh: &Mesh, number: usize) -> Result<Arrived> {
    let name = format!("new-{number}");
    let port = u16::try_from(20_000 + number % 10_000)?;
    let of_app = |ports: &[(&str, u16, u16)]| {
        let service = ServiceSpec::new(&format!("crowd/{name}")).selects("app");
        ports.iter().fold(service, |service, (name, port, target)| {
            service.named_port(name, *port, *target)
        })
    };
    let call = |scheme: &str, port: u16| Call::get(&format!("{scheme}://{name}.crowd:{port}/"));
    let (service, calls) = match number % 6 {
        0 => (of_app(&[("http", 8080, 18_100)]), vec![call("http", 8080)]),
        1 => {
            let full = format!("http://{name}.crowd.svc.cluster.local:{port}/");
            let service = of_app(&[("http", port, 8080)]);
            (service, vec![Call::get(&full), call("h2", port)])
        }
        2 => (of_app(&[("grpc", port, 18_101)]), vec![call("grpc", port)]),
        3 => {
            let both = [("tcp", port, 18_102), ("tcp-greets", 8081, 18_103)];
            (
                of_app(&both),
                vec![call("tcp", port), call("tcp-server-first", 8081)],
            )
        }
        // A port comes to a Service that was there.
        4 => {
            mesh.add_service(&of_app(&[("http", 8080, 8080)])).await?;
            mesh.wait_endpoint(&format!("crowd/{name}")).await?;
            alike(mesh, FREE, &call("http", 8080), APP).await?;
            let both = [("http", 8080, 8080), ("http-more", port, 18_100)];
            mesh.add_service(&of_app(&both)).await?;
            soon(mesh, &call("http", port), APP).await?;
            (of_app(&both), vec![call("http", port), call("http", 8080)])
        }
        _ => return arrive_in_new_namespace(mesh, number).await,
    };
    mesh.add_service(&service).await?;
    Ok(Arrived {
        namespace: "crowd".to_owned(),
        name,
        calls,
        pod: APP,
    })
}

async fn arrive_in_new_namespace(mesh: &Mesh, number: usize) -> Result<Arrived> {
    let (namespace, name) = (format!("passing-{number}"), "app".to_owned());
    let service = ServiceSpec::new(&format!("{namespace}/{name}")).without_selector();
    let service = service
        .named_port("http", 8080, 8080)
        .named_port("tcp", 9000, 18_104);
    mesh.add_service(&service).await?;
    let address = mesh.pod(BARE)?.ip;
    mesh.apply(&json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "app-1", "namespace": namespace, "labels": {"kubernetes.io/service-name": name}},
        "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
        "ports": [{"name": "http", "port": 8080}, {"name": "tcp", "port": 18_104}],
    }))
    .await?;
    let calls = [
        "http://app.NS:8080/",
        "http://app.NS.svc:8080/",
        "tcp://app.NS:9000",
    ];
    Ok(Arrived {
        calls: calls.map(|url| Call::get(&url.replace("NS", &namespace))).into(),
        namespace,
        name,
        pod: BARE,
    })
}

/// Leads a Service to other pods than before. The fallback gateway serves it for the fenced caller, and
/// follows a second later at most.
async fn switch(mesh: &Mesh, to_app: bool) -> Result<()> {
    let (app, pod) = if to_app { ("app", APP) } else { ("bare", BARE) };
    let service = ServiceSpec::new("crowd/switched").selects(app);
    mesh.add_service(&service.port(Protocol::Http, 8080)).await?;
    soon(mesh, &Call::get("http://switched.crowd:8080/"), pod).await
}

/// Both callers reach this pod. Addresses lead to new places in one network namespace after another, as
/// kube-proxies of nodes are not equally fast, so one of them may be later.
async fn soon(mesh: &Mesh, call: &Call, pod: &str) -> Result<()> {
    let call = call.clone().timeout(Duration::from_millis(500));
    for caller in [FREE, shop::WEB] {
        mesh.eventually(caller, &call, |reply| reply.is_from(pod)).await?;
    }
    Ok(())
}

/// Takes a Service away, with its namespace where that came with it.
async fn delete(mesh: &Mesh, namespace: &str, name: &str) -> Result<()> {
    let (kind, metadata) = if namespace == "crowd" {
        ("Service", json!({"namespace": namespace, "name": name}))
    } else {
        ("Namespace", json!({"name": namespace}))
    };
    mesh.delete(&json!({"apiVersion": "v1", "kind": kind, "metadata": metadata}))
        .await
}

/// Takes a Service away, and gives how many calls to its address were compared: both callers' calls fail.
async fn leave(mesh: &Mesh, gone: &Arrived, compare: bool) -> Result<usize> {
    let service = shop::object(mesh, &gone.namespace, "service", &gone.name).await?;
    delete(mesh, &gone.namespace, &gone.name).await?;
    let (address, port) = (&service["spec"]["clusterIP"], &service["spec"]["ports"][0]);
    let is_http = port["name"].as_str().is_some_and(|name| name.starts_with("http"));
    let (Some(address), true) = (address.as_str(), is_http && compare) else {
        return Ok(0);
    };
    let call = Call::get(&format!("http://{address}:{}/", port["port"]));
    // A call before that would make a proxy open a connection to the address. It would stay open and lead to
    // the pod.
    mesh.wait_no_service(&format!("{}/{}", gone.namespace, gone.name))
        .await?;
    let host = format!("{}.{}:{}", gone.name, gone.namespace, port["port"]);
    let call = call.host(&host).timeout(Duration::from_millis(700));
    for caller in [FREE, shop::WEB] {
        mesh.eventually(caller, &call, |reply| !reply.is_ok()).await?;
    }
    Ok(1)
}
