//! Connections to the API server that die without a word, as when the load balancer before it goes: what is
//! learned meanwhile is written over others, and watches are opened anew.

use anyhow::{Result, ensure};
use servicefence_e2e::install::SOON;
use servicefence_e2e::{Mesh, Protocol, ServiceSpec};

use crate::shutdown::call_until_learned;

crate::steps![connections_that_die_without_a_word_hold_up_nothing];

async fn connections_that_die_without_a_word_hold_up_nothing(mesh: Mesh) -> Result<()> {
    let pod = mesh.pod(&mesh.controller_pod().await?)?;
    let table = pod.netns().run("cat", &["/proc/net/tcp"], "")?;
    let ports = of_the_api_server(&table);
    ensure!(
        ports.len() > 10,
        "each watch has a connection of its own: {table}"
    );
    let each = |change: &str| {
        ports.iter().try_for_each(|port| {
            for rule in [["OUTPUT", "--sport"], ["INPUT", "--dport"]] {
                let rule = [change, rule[0], "-p", "tcp", rule[1], port, "-j", "DROP"];
                pod.netns().run("iptables", &rule, "")?;
            }
            anyhow::Ok(())
        })
    };
    each("-I")?;
    let learned = learns_what_is_new(&mesh).await;
    each("-D").and(learned)
}

/// A write brings the learned host, and a watch the Service.
async fn learns_what_is_new(mesh: &Mesh) -> Result<()> {
    let service = ServiceSpec::new("books/silence").selects("reviews");
    mesh.add_service(&service.port(Protocol::Http, 8080)).await?;
    mesh.wait_endpoint("books/silence").await?;
    call_until_learned(mesh, "silence", SOON).await
}

/// Our ports of the connections to 10.96.0.1:443 that are open, from `/proc/net/tcp`.
fn of_the_api_server(table: &str) -> Vec<String> {
    let port = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        let (ours, theirs, state) = (fields.next()?, fields.next()?, fields.next()?);
        let (_, port) = ours.split_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        (theirs == "0100600A:01BB" && state == "01").then(|| port.to_string())
    };
    table.lines().filter_map(port).collect()
}
