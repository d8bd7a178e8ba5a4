//! `mesh call`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;

use super::WhichMesh;
use crate::call::Call;

#[derive(Debug, clap::Args)]
pub(super) struct CallOptions {
    /// The pod to call from: NAMESPACE/NAME
    pod: String,
    /// http://, h2://, grpc://, ws://, tcp://, tcp-server-first:// or tls://, then HOST:PORT and a path
    url: String,
    /// Send this Host instead of the URL's
    #[arg(long)]
    host: Option<String>,
    /// Send this header
    #[arg(long, value_name = "NAME: VALUE")]
    header: Vec<String>,
    /// Send this body (by POST)
    #[arg(long)]
    data: Option<String>,
    /// Call this many times
    #[arg(long, default_value_t = 1)]
    times: u32,
    /// Give up after this many milliseconds
    #[arg(long, default_value_t = 10_000)]
    timeout: u64,
    /// Print the answer's body too
    #[arg(long)]
    body: bool,
    #[command(flatten)]
    mesh: WhichMesh,
}

impl CallOptions {
    pub(super) async fn run(self) -> Result<ExitCode> {
        let mesh = self.mesh.attach().await?;
        let mut call = match &self.data {
            Some(data) => Call::post(&self.url, data.clone()),
            None => Call::get(&self.url),
        };
        call = call.timeout(Duration::from_millis(self.timeout));
        if let Some(host) = &self.host {
            call = call.host(host);
        }
        for (name, value) in self.header.iter().filter_map(|header| header.split_once(':')) {
            call = call.header(name.trim(), value.trim());
        }
        let proxies = if mesh.pod(&self.pod)?.proxied {
            vec![self.pod.as_str()]
        } else {
            Vec::new()
        };
        let mut failures = 0;
        for _ in 0..self.times {
            let (reply, taken) = mesh.call_seen_by(&self.pod, &call, &proxies).await?;
            print!("{reply}");
            for way in taken {
                print!("  [{way}]");
            }
            println!();
            if self.body {
                println!("{}", reply.text().trim_end());
            }
            failures += u32::from(!reply.is_ok());
        }
        Ok(if failures == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}
