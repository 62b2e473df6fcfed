//! A Kubernetes by its own command line: as a user has it.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::tools;

/// `kubectl` for the cluster that `KUBECONFIG` names.
#[derive(Debug)]
pub struct Kubectl(PathBuf);

impl Kubectl {
    pub fn find() -> Result<Self> {
        ensure!(
            std::env::var_os("KUBECONFIG").is_some(),
            "KUBECONFIG names no cluster: run `cargo xtask test e2e`, or set it for one of your own"
        );
        Ok(Self(tools::path("kubernetes/bin/kubectl")?))
    }

    /// Gives what it prints; a failure has what it said.
    pub async fn run(&self, args: &[&str]) -> Result<String> {
        self.with_input(args, "").await
    }

    /// Applies resources as they are written: a field that there is not is a mistake.
    pub async fn apply(&self, resources: &str, more: &[&str]) -> Result<String> {
        let args = [&["apply", "--validate=strict", "--filename=-"], more].concat();
        self.with_input(&args, resources).await
    }

    /// What it prints, read as JSON.
    pub async fn json(&self, args: &[&str]) -> Result<serde_json::Value> {
        let shown = self.run(&[args, &["--output", "json"]].concat()).await?;
        serde_json::from_str(&shown).context(shown)
    }

    /// A namespace, allowed to have domains or not; one of that name goes first.
    pub async fn namespace(&self, name: &str, is_tenant: bool) -> Result<()> {
        self.run(&["delete", "namespace", name, "--ignore-not-found"]).await?;
        let label = if is_tenant { "{postrider.dev/tenant: \"true\"}" } else { "{}" };
        let metadata = format!("{{name: {name}, labels: {label}}}");
        let text = format!("apiVersion: v1\nkind: Namespace\nmetadata: {metadata}\n");
        self.apply(&text, &[]).await.map(drop)
    }

    /// Waits until a condition of a resource is so, such as `Ready=false`.
    pub async fn wait(&self, namespace: &str, resource: &str, condition: &str) -> Result<()> {
        let condition = format!("--for=condition={condition}");
        let args = ["--namespace", namespace, "wait", resource, &condition, "--timeout=30s"];
        let Err(error) = self.run(&args).await else { return Ok(()) };
        let found = self.run(&["--namespace", namespace, "get", resource, "--output=yaml"]).await;
        Err(error.context(found.unwrap_or_default()))
    }

    async fn with_input(&self, args: &[&str], input: &str) -> Result<String> {
        let mut command = Command::new(&self.0);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn()?;
        let mut stdin = child.stdin.take().context("no stdin")?;
        stdin.write_all(input.as_bytes()).await?;
        drop(stdin);
        let output = child.wait_with_output().await?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl {args:?}: {said}");
        Ok(String::from_utf8(output.stdout)?)
    }
}

/// The definitions of our resources, as they are published.
pub fn crds() -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds/postrider.yaml");
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}
