//! What the operator makes of resources, and when it is away.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::client::Client;
use tests::helm::Release;
use tests::kubectl::Kubectl;
use tests::process::PASSWORD;
use tests::{tenant, wait};

const LIMIT: Duration = Duration::from_secs(60);

/// From `kubectl apply` to what ingress answers.
const VISIBLE: Duration = Duration::from_secs(2);

async fn answered(release: &Release, recipient: &str, code: u16, limit: Duration) -> Result<()> {
    let mx = release.address("mx", 25).await?;
    let what = format!("{recipient} to be answered {code}");
    wait::until(&what, limit, async || {
        (Client::rcpt(mx, recipient).await.ok()? == code).then_some(())
    })
    .await
}

async fn message_of(kubectl: &Kubectl, resource: &str) -> Result<String> {
    let path = "jsonpath={.status.conditions[?(@.type==\"Ready\")].message}";
    kubectl.run(&["--namespace", "changes", "get", resource, "--output", path]).await
}

#[tokio::test]
async fn a_change_is_in_force_at_once_and_a_mistake_changes_nothing() -> Result<()> {
    let release = Release::shared().await?;
    let kubectl = &release.kubectl;
    kubectl.namespace("changes", true).await?;
    let apply = async |resources: &str| tenant::apply(kubectl, "changes", resources).await;
    apply(&tenant::domain("changes.example", "alice@changes.example")).await?;
    // Its postmaster does not exist yet.
    kubectl.wait("changes", "maildomain/changes-example", "Ready=false").await?;
    let message = message_of(kubectl, "maildomain/changes-example").await?;
    ensure!(message.contains("alice@changes.example goes nowhere"), "{message}");
    apply(&tenant::mailbox("alice@changes.example", "")).await?;
    let began = Instant::now();
    answered(&release, "alice@changes.example", 250, LIMIT).await?;
    ensure!(began.elapsed() < VISIBLE, "visible after {:?}", began.elapsed());
    kubectl.wait("changes", "maildomain/changes-example", "Ready").await?;

    // A change that does not fit: what was there stays.
    let bad = tenant::mailbox("alice@changes.example", ", aliases: [a@foreign.example]");
    apply(&bad).await?;
    kubectl.wait("changes", "mailbox/alice-changes-example", "Accepted=false").await?;
    let message = message_of(kubectl, "mailbox/alice-changes-example").await?;
    ensure!(message.contains("foreign.example is not a declared domain"), "{message}");
    ensure!(message.contains("stays in force"), "{message}");
    answered(&release, "alice@changes.example", 250, VISIBLE).await?;
    let events = kubectl.run(&["--namespace", "changes", "get", "events"]).await?;
    ensure!(events.contains("Invalid") && events.contains("InForce"), "{events}");

    // The operator starts anew and finds the mistake: still nothing changes.
    release.run(&["rollout", "restart", "deploy/postrider-operator"]).await?;
    release.run(&["rollout", "status", "deploy/postrider-operator", "--timeout=60s"]).await?;
    apply(&tenant::mailbox("bob@changes.example", "")).await?;
    answered(&release, "bob@changes.example", 250, LIMIT).await?;
    answered(&release, "alice@changes.example", 250, VISIBLE).await?;

    // What is deleted is gone.
    kubectl.run(&["--namespace", "changes", "delete", "mailbox/bob-changes-example"]).await?;
    answered(&release, "bob@changes.example", 550, VISIBLE).await?;
    kubectl.run(&["--namespace", "changes", "delete", "maildomain/changes-example"]).await?;
    answered(&release, "alice@changes.example", 550, VISIBLE).await
}

#[tokio::test]
async fn a_password_follows_its_secret() -> Result<()> {
    let release = Release::shared().await?;
    let kubectl = &release.kubectl;
    kubectl.namespace("logins", true).await?;
    let resources = tenant::domain("logins.example", "alice@logins.example")
        + &tenant::mailbox_with_password("alice@logins.example");
    let (mailbox, secret) = resources.split_at(resources.find("apiVersion: v1\n").context("no")?);
    tenant::apply(kubectl, "logins", mailbox).await?;
    kubectl.wait("logins", "mailbox/alice-logins-example", "Ready=false").await?;
    let submission = release.address("submission", 587).await?;
    let login = async || Client::submission(submission, "alice@logins.example", PASSWORD).await;
    ensure!(login().await.is_err(), "a login without a password");
    tenant::apply(kubectl, "logins", secret).await?;
    kubectl.wait("logins", "mailbox/alice-logins-example", "Ready").await?;
    wait::until("the login", LIMIT, async || login().await.ok().map(drop)).await?;
    // Nothing of it is told.
    let shown = kubectl.run(&["--namespace", "logins", "get", "mb", "--output=yaml"]).await?;
    let log = release.run(&["logs", "deploy/postrider-operator"]).await?;
    ensure!(!shown.contains("$argon2id") && !log.contains("$argon2id"), "a hash is told");
    kubectl.run(&["--namespace", "logins", "delete", "secret/alice-logins-example"]).await?;
    wait::until("the end of logins", LIMIT * 2, async || login().await.err()).await.map(drop)
}

/// Mail flows, and the table stays, while nobody reads resources.
#[tokio::test]
async fn without_an_operator_nothing_changes() -> Result<()> {
    let release = Release::shared().await?;
    let kubectl = &release.kubectl;
    kubectl.namespace("away", true).await?;
    let resources =
        tenant::domain("away.example", "al@away.example") + &tenant::mailbox("al@away.example", "");
    tenant::apply(kubectl, "away", &resources).await?;
    answered(&release, "al@away.example", 250, LIMIT).await?;
    let scale = async |replicas: &str| {
        let replicas = format!("--replicas={replicas}");
        release.run(&["scale", "deploy/postrider-operator", &replicas]).await?;
        release.run(&["rollout", "status", "deploy/postrider-operator", "--timeout=60s"]).await
    };
    scale("0").await?;
    kubectl.run(&["--namespace", "away", "delete", "mb/al-away-example"]).await?;
    // An ingress that begins now reads the table, and nothing else.
    release.run(&["rollout", "restart", "deploy/postrider-mx"]).await?;
    release.run(&["rollout", "status", "deploy/postrider-mx", "--timeout=60s"]).await?;
    answered(&release, "al@away.example", 250, VISIBLE).await?;
    // A MailDomain waits for whoever can let it go.
    let delete = ["--namespace", "away", "delete", "md/away-example", "--wait=false"];
    kubectl.run(&delete).await?;
    let listed = kubectl.run(&["--namespace", "away", "get", "md"]).await?;
    ensure!(listed.contains("away-example"), "it is gone");
    scale("2").await?;
    answered(&release, "al@away.example", 550, LIMIT).await?;
    kubectl.run(&["--namespace", "away", "wait", "--for=delete", "md/away-example"]).await?;
    // One of two acts; when it is gone the other does.
    let lease = "jsonpath={.spec.holderIdentity}";
    let holder =
        async || release.run(&["get", "lease/postrider-operator", "--output", lease]).await;
    let first = wait::until("a leader", LIMIT, async || {
        holder().await.ok().filter(|holder| !holder.is_empty())
    })
    .await?;
    release.run(&["rollout", "restart", "deploy/postrider-operator"]).await?;
    release.run(&["rollout", "status", "deploy/postrider-operator", "--timeout=60s"]).await?;
    wait::until("another leader", LIMIT, async || {
        holder().await.ok().filter(|now| !now.is_empty() && *now != first)
    })
    .await?;
    tenant::apply(kubectl, "away", &resources).await?;
    answered(&release, "al@away.example", 250, LIMIT).await
}
