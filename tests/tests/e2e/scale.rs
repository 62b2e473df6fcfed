//! Many domains: what the operator needs for them, and how long a change takes then.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::stream::{self, StreamExt, TryStreamExt};
use tests::client::Client;
use tests::helm::Release;
use tests::{tenant, wait};

const MAILBOXES: usize = 10;
/// Domains of one namespace.
const NAMESPACE: usize = 100;
/// `kubectl` at once.
const WRITERS: usize = 6;
const LIMIT: Duration = Duration::from_secs(1800);
const PAUSE: Duration = Duration::from_secs(1);
/// From `kubectl apply` to what ingress answers.
const VISIBLE: Duration = Duration::from_secs(2);
const MEMORY_MAX: u64 = 512 << 20;

fn resources(n: usize) -> String {
    let domain = format!("d{n}.scale.example");
    let mailboxes = (0..MAILBOXES).map(|m| tenant::mailbox(&format!("u{m}@{domain}"), ""));
    tenant::domain(&domain, &format!("u0@{domain}")) + &mailboxes.collect::<String>()
}

/// What the operator says of itself.
async fn metric(release: &Release, name: &str) -> Result<f64> {
    let pods = ["get", "pods", "--selector=app.kubernetes.io/component=operator", "--output=name"];
    let pod = release.run(&pods).await?;
    let pod = pod.trim().strip_prefix("pod/").context("no operator")?.to_owned();
    let path = format!("/api/v1/namespaces/{}/pods/{pod}:8080/proxy/metrics", release.namespace);
    let text = release.kubectl.run(&["get", "--raw", &path]).await?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(line.with_context(|| format!("no {name}"))?.parse()?)
}

/// Octets that its pod has in memory.
async fn memory(release: &Release) -> Result<u64> {
    let nodes = release.kubectl.json(&["get", "nodes"]).await?;
    let node = nodes["items"][0]["metadata"]["name"].as_str().context("no node")?.to_owned();
    let path = format!("/api/v1/nodes/{node}/proxy/stats/summary");
    let summary = release.kubectl.run(&["get", "--raw", &path]).await?;
    let summary: serde_json::Value = serde_json::from_str(&summary)?;
    let mut pods = summary["pods"].as_array().into_iter().flatten();
    let is_operator = |pod: &&serde_json::Value| {
        pod["podRef"]["name"].as_str().is_some_and(|name| name.contains("-operator-"))
    };
    let pod = pods.find(is_operator).context("no operator")?;
    pod["memory"]["rssBytes"].as_u64().context("no memory")
}

#[tokio::test]
async fn many_domains_in_bounded_memory() -> Result<()> {
    let domains: usize = if std::env::var_os("POSTRIDER_LONG").is_some() { 5000 } else { 200 };
    let release = Release::shared().await?;
    let kubectl = &release.kubectl;
    let namespaces: Vec<String> =
        (0..domains.div_ceil(NAMESPACE)).map(|n| format!("scale-{n}")).collect();
    for namespace in &namespaces {
        kubectl.namespace(namespace, true).await?;
    }
    let patches = metric(&release, "postrider_operator_status_patches_total").await?;
    let before = metric(&release, "postrider_operator_hosted_domains").await?;
    let began = Instant::now();
    let batches = (0..domains).collect::<Vec<_>>();
    let batches = batches.chunks(20).map(|batch| {
        let namespace = &namespaces[batch[0] / NAMESPACE];
        let text: String = batch.iter().map(|&n| resources(n)).collect();
        async move { tenant::apply(kubectl, namespace, &text).await }
    });
    stream::iter(batches).buffer_unordered(WRITERS).try_collect::<()>().await?;
    let written = began.elapsed();
    let wanted = before + f64::from(u32::try_from(domains)?);
    wait::until_every(PAUSE, "all domains to be in force", LIMIT, async || {
        let hosted = metric(&release, "postrider_operator_hosted_domains").await.ok()?;
        (hosted >= wanted).then_some(())
    })
    .await?;
    let last = format!("maildomain/d{}-scale-example", domains - 1);
    kubectl.wait(namespaces.last().context("no namespace")?, &last, "Ready").await?;
    let ready = began.elapsed();
    let resources = domains * (1 + MAILBOXES);
    let patches = metric(&release, "postrider_operator_status_patches_total").await? - patches;
    let memory_of_all = memory(&release).await?;

    // A change, as if nothing else was there.
    let mx = release.address("mx", 25).await?;
    let address = "new@d0.scale.example";
    tenant::apply(kubectl, &namespaces[0], &tenant::mailbox(address, "")).await?;
    let applied = Instant::now();
    wait::until("the change", LIMIT, async || {
        (Client::rcpt(mx, address).await.ok()? == 250).then_some(())
    })
    .await?;
    let visible = applied.elapsed();

    // From the beginning: nothing is written that is in force already.
    let generation = metric(&release, "postrider_operator_table_generation").await?;
    release.run(&["rollout", "restart", "deploy/postrider-operator"]).await?;
    release.run(&["rollout", "status", "deploy/postrider-operator", "--timeout=120s"]).await?;
    let restarted = Instant::now();
    wait::until_every(PAUSE, "the new operator to have read all", LIMIT, async || {
        let hosted = metric(&release, "postrider_operator_hosted_domains").await.ok()?;
        (hosted >= wanted).then_some(())
    })
    .await?;
    let again = metric(&release, "postrider_operator_table_generation").await?;
    println!(
        "{resources} resources: written in {:.1} s, all in force after {:.1} s; {patches} \
         statuses; {} MiB; a change visible after {} ms; read again in {:.1} s",
        written.as_secs_f64(),
        ready.as_secs_f64(),
        memory_of_all >> 20,
        visible.as_millis(),
        restarted.elapsed().as_secs_f64(),
    );
    for namespace in &namespaces {
        kubectl.run(&["delete", "namespace", namespace, "--wait=false"]).await?;
    }
    // A status is written once, and again for what was not ready when it was first seen.
    ensure!(patches <= 2.5 * f64::from(u32::try_from(resources)?), "{patches} statuses");
    ensure!(again <= generation, "it was published again");
    ensure!(visible < VISIBLE, "visible after {visible:?}");
    ensure!(memory_of_all < MEMORY_MAX, "{memory_of_all} octets");
    Ok(())
}
