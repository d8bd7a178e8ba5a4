//! A real Prometheus that scrapes the mesh's proxies, as a cluster's would.
//!
//! In: what the proxies count (by its module `exporter`), and a past that a test makes up, as a block of its
//! store. Out: a server at
//! <https://10.1.0.1:9090> that wants a client certificate and a password, since stores of whole meshes usually do.

mod exporter;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use http::Request;
use kube::Client;
use kube::config::AuthInfo;
use serde_json::{Value, json};

use crate::addresses::NODE_IP;
use crate::certificates::Authority;
use crate::install::SYSTEM;
use crate::mesh::Mesh;
use crate::process::{Process, Program};
use crate::state;
use crate::tools::Tools;
use crate::wait::{LONG, until};

/// Who may ask.
const USER: &str = "servicefence";
/// With which password.
pub const PASSWORD: &str = "a password of tests";
/// The password as Prometheus wants it, of the least cost that bcrypt knows.
const HASH: &str = "$2b$04$TPISX7ZzRi/GkuF5SsA9tOiCaSTuUokdW/AmY.UK958k0ypGOj3W2";

const PORT: u16 = 9090;

/// A Prometheus of a mesh. It ends with the mesh, or when it is stopped.
pub struct Prometheus {
    program: Program,
    mesh: Mesh,
    folder: PathBuf,
    client: Client,
    process: Option<Process>,
}

impl Mesh {
    /// Starts a Prometheus that has `past`, in the text format of OpenMetrics, and scrapes every second.
    pub async fn prometheus(&self, past: &str) -> Result<Prometheus> {
        let programs = tokio::task::spawn_blocking(Tools::prometheus).await??;
        let folder = self.core().folder.join("prometheus");
        fs::create_dir_all(&folder)?;
        let server = state::load(self.id())?.server;
        let address = server
            .trim_start_matches("https://")
            .split(':')
            .next()
            .context("the address of the node")?;
        let authority = Authority::new("prometheus")?;
        authority.write(&folder)?;
        let addresses = [address, NODE_IP].map(str::to_owned);
        authority.sign(&folder, "server", "prometheus", &addresses)?;
        authority.sign(&folder, "client", USER, &[])?;
        fs::write(
            folder.join("web.yml"),
            format!(
                "tls_server_config: {{cert_file: server.crt, key_file: server.key, client_ca_file: ca.crt, client_auth_type: \
                 RequireAndVerifyClientCert}}\nbasic_auth_users: {{{USER}: {HASH}}}\n"
            ),
        )?;
        fs::write(
            folder.join("prometheus.yml"),
            format!(
                "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:\n- job_name: proxies\n  \
                 http_sd_configs: [{{url: 'http://{}/targets', refresh_interval: 1s}}]\n",
                exporter::ADDRESS
            ),
        )?;
        if !past.is_empty() {
            let text = folder.join("past.txt");
            fs::write(&text, past)?;
            let made = Command::new(programs.join("promtool"))
                .args(["tsdb", "create-blocks-from", "openmetrics", "--quiet"])
                .args([&text, &folder.join("data")])
                .output()?;
            let said = String::from_utf8_lossy(&made.stderr);
            ensure!(made.status.success(), "promtool makes no past: {said}");
        }
        let socket = self.core().sockets(&self.core().node())?.tcp().await?;
        self.spawn(exporter::serve(Arc::clone(self.core()), socket)?);
        let program = Program::new("prometheus", programs.join("prometheus"), &folder).args([
            "--config.file=prometheus.yml",
            "--web.config.file=web.yml",
            &format!("--web.listen-address=0.0.0.0:{PORT}"),
            "--storage.tsdb.path=data",
            "--storage.tsdb.retention.time=1y",
            "--log.level=warn",
        ]);
        let mut prometheus = Prometheus {
            client: client(&folder, &format!("https://{address}:{PORT}"))?,
            program,
            mesh: self.clone(),
            folder,
            process: None,
        };
        prometheus.start().await?;
        Ok(prometheus)
    }
}

fn client(folder: &Path, url: &str) -> Result<Client> {
    let file = |name: &str| folder.join(name);
    let mut config = kube::Config::new(url.parse()?);
    config.root_cert_file = Some(file("ca.crt"));
    config.auth_info = AuthInfo {
        username: Some(USER.to_owned()),
        password: Some(PASSWORD.to_owned().into()),
        client_certificate: Some(file("client.crt").to_string_lossy().into_owned()),
        client_key: Some(file("client.key").to_string_lossy().into_owned()),
        ..AuthInfo::default()
    };
    Ok(Client::try_from(config)?)
}

impl Prometheus {
    /// Puts what one needs to ask it into a Secret of the chart's namespace, and gives the values that name
    /// it.
    pub async fn chart_values(&self) -> Result<[String; 4]> {
        let encoded = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
        let file = |name: &str| Ok::<_, std::io::Error>(encoded(&fs::read(self.folder.join(name))?));
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "prometheus", "namespace": SYSTEM},
            "data": {"ca.crt": file("ca.crt")?, "tls.crt": file("client.crt")?, "tls.key": file("client.key")?,
                "password": encoded(PASSWORD.as_bytes())},
        });
        self.mesh.core().objects.namespace(SYSTEM).await?;
        self.mesh.apply(&secret).await?;
        Ok([
            format!("prometheus.url=https://{NODE_IP}:{PORT}"),
            format!("prometheus.username={USER}"),
            "prometheus.secretName=prometheus".to_owned(),
            "prometheus.secretKeys={password,ca.crt,tls.crt,tls.key}".to_owned(),
        ])
    }

    /// Starts it again, and waits until it answers.
    pub async fn start(&mut self) -> Result<()> {
        let core = self.mesh.core();
        let process = self.program.start(&core.node(), &core.logs())?;
        self.process = Some(process);
        until("Prometheus answers", LONG, async || self.query("1").await).await?;
        Ok(())
    }

    /// Ends it: nothing answers any more.
    pub async fn stop(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.terminate(Duration::from_secs(10)).await?;
        }
        Ok(())
    }

    /// The elements of an instant vector (or the one scalar) that a query gives.
    pub async fn query(&self, expression: &str) -> Result<Vec<Value>> {
        let form = format!("query={}", crate::proxy::percent(expression));
        let request = Request::post("/api/v1/query")
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form.into_bytes())?;
        let mut answer: Value = serde_json::from_str(&self.client.request_text(request).await?)?;
        let result = answer["data"]["result"].take();
        result.as_array().cloned().context("no vector")
    }
}
