//! The chart, installed by Helm as a user does it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
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
    node: String,
    helm: PathBuf,
}

/// The name of the release, and of all that is of it.
pub const RELEASE: &str = "postrider";

impl Release {
    /// The one that tests share; it is there afterwards, and ready.
    pub async fn shared() -> Result<Self> {
        let release = Self::of("postrider").await?;
        release.install(&[]).await?;
        Ok(release)
    }

    /// One in a namespace of its own; nothing is installed.
    pub async fn of(namespace: &'static str) -> Result<Self> {
        let kubectl = Kubectl::find()?;
        let node = "jsonpath={.items[0].status.addresses[?(@.type==\"InternalIP\")].address}";
        let node = kubectl.run(&["get", "nodes", "--output", node]).await?;
        Ok(Self { kubectl, namespace, node, helm: tools::path("kubernetes/bin/helm")? })
    }

    /// Installs or upgrades, and waits until all of it is ready.
    pub async fn install(&self, more: &[&str]) -> Result<()> {
        let routes = format!(
            "config.delivery.routes=[{{\"domain\": \"*\", \"host\": \"{}\", \"port\": \
             {WORLD_PORT}}}]",
            self.node
        );
        let chart = chart();
        let small = chart.join("ci/small.yaml");
        let images = "image.repository=registry.test/postrider,image.tag=test,\
                      image.pullPolicy=Never,nats.image.repository=registry.test/nats,\
                      nats.image.tag=test,nats.image.pullPolicy=Never";
        let mut args = vec!["upgrade", "--install", RELEASE, path(&chart)?];
        // The definitions are kept by an installation that is gone, or were applied by hand.
        args.extend([
            "--create-namespace",
            "--take-ownership",
            "--values",
            path(&small)?,
            "--set",
            images,
        ]);
        args.extend(["--set-json", &routes, "--wait", "--timeout", "180s"]);
        args.extend(more);
        self.helm(&args).await.map(drop)
    }

    pub async fn helm(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.helm);
        command.args(["--namespace", self.namespace]).args(args).kill_on_drop(true);
        let output = command.stdin(Stdio::null()).output().await?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "helm {args:?}: {said}");
        Ok(String::from_utf8(output.stdout)?)
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

/// The chart's directory.
pub fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/postrider")
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no text")
}
