//! The chart, installed by Helm as a user does it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use crate::kubectl::Kubectl;
use crate::tools;

/// Where mail for the rest of the world goes: a server of the tests, which pods reach by the
/// address of their node.
pub const WORLD_PORT: u16 = 2600;

/// An installation of the chart.
#[derive(Debug)]
pub struct Release {
    pub kubectl: Kubectl,
    pub namespace: &'static str,
}

/// The name of the release, of its namespace, and of all that is of it.
pub const RELEASE: &str = "postrider";

impl Release {
    /// The one that tests share: installed or upgraded now, and ready.
    pub async fn shared() -> Result<Self> {
        let kubectl = Kubectl::find()?;
        let node = "jsonpath={.items[0].status.addresses[?(@.type==\"InternalIP\")].address}";
        let node = kubectl.run(&["get", "nodes", "--output", node]).await?;
        install(&node).await?;
        Ok(Self { kubectl, namespace: RELEASE })
    }

    /// `kubectl` in the namespace of the installation.
    pub async fn run(&self, args: &[&str]) -> Result<String> {
        self.kubectl.run(&[&["--namespace", self.namespace], args].concat()).await
    }

    /// What `postrider` says where operators run it.
    pub async fn postrider(&self, args: &[&str]) -> Result<String> {
        let admin = format!("deploy/{RELEASE}-admin");
        self.run(&[&["exec", &admin, "--", "postrider"], args].concat()).await
    }

    /// Where a Service listens.
    pub async fn address(&self, part: &str, port: u16) -> Result<SocketAddr> {
        let service = format!("service/{RELEASE}-{part}");
        let args = ["get", &service, "--output", "jsonpath={.spec.clusterIP}"];
        let address = self.run(&args).await?;
        Ok(SocketAddr::new(address.parse().context(address)?, port))
    }
}

/// Mail for the rest of the world goes to this node.
async fn install(node: &str) -> Result<()> {
    let routes = format!(
        "config.delivery.routes=[{{\"domain\": \"*\", \"host\": \"{node}\", \"port\": \
         {WORLD_PORT}}}]"
    );
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/postrider");
    let images = "image.repository=registry.test/postrider,image.tag=test,\
                  image.pullPolicy=Never,nats.image.repository=registry.test/nats,\
                  nats.image.tag=test,nats.image.pullPolicy=Never";
    let mut helm = Command::new(tools::path("kubernetes/bin/helm")?);
    helm.args(["upgrade", "--install", RELEASE]).arg(&chart);
    helm.args(["--namespace", RELEASE, "--create-namespace"]);
    // The definitions are kept by an installation that is gone, or were applied by hand.
    helm.arg("--take-ownership").arg("--values").arg(chart.join("ci/small.yaml"));
    helm.args(["--set", images, "--set-json", &routes, "--wait", "--timeout", "180s"]);
    let output = helm.kill_on_drop(true).stdin(Stdio::null()).output().await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "helm: {said}");
    Ok(())
}
