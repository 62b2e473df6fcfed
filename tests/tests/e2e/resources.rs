//! What the API server takes and refuses, by the schema of `crds/`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::bad_specs;
use tests::kubectl::{Kubectl, crds};
use tests::wait;

const LIMIT: Duration = Duration::from_secs(60);

const DOMAIN: &str = "apiVersion: postrider.dev/v1alpha1\nkind: MailDomain\nmetadata: {name: \
good}\n\
                      spec: {domain: example.org}\n";
const MAILBOX: &str = "apiVersion: postrider.dev/v1alpha1\nkind: Mailbox\nmetadata: {name: good}\n\
                       spec: {address: alice@example.org}\n";
/// Everything that may be said, by way of example.
const RICH: &str = "\
apiVersion: postrider.dev/v1alpha1
kind: MailDomain
metadata: {name: rich}
spec:
  domain: bücher.example
  target: relay
  relay:
    hosts: [mail.example.org, \"192.0.2.1:2525\", \"[2001:db8::1]\"]
    recipients: {list: [carol@bücher.example]}
    tls: {mode: required}
  inbound:
    aliases:
    - {match: info, to: [carol@bücher.example, dave@elsewhere.example]}
    subAddressSeparators: \"+-\"
    maxMessageSizeBytes: 1000000
  sendingLimits: {recipientsPerHour: 100, recipientsPerDay: 1000}
  tls: {secretRef: {name: mail-tls}}
  deletionPolicy: Retain
---
apiVersion: postrider.dev/v1alpha1
kind: Mailbox
metadata: {name: rich}
spec:
  address: alice@example.org
  aliases: [alice.smith@example.org]
  identities: [\"*@example.org\", sales@example.org]
  passwords:
  - {name: phone, secretRef: {name: alice}}
  - {name: laptop, secretRef: {name: alice, key: laptop}}
  quota: {bytes: 5368709120, onFull: reject}
  sendingLimits: {recipientsPerDay: 200}
";

/// A cluster that knows our resources.
async fn cluster() -> Result<Kubectl> {
    let kubectl = Kubectl::find()?;
    kubectl.apply(&crds()?, &[]).await?;
    wait::until("the resources to be served", LIMIT, async || {
        kubectl.run(&["get", "maildomains,mailboxes", "--all-namespaces"]).await.ok()
    })
    .await?;
    Ok(kubectl)
}

#[tokio::test]
async fn the_api_server_refuses_what_the_check_refuses() -> Result<()> {
    let kubectl = cluster().await?;
    for (n, bad) in bad_specs::all().iter().enumerate() {
        let resource = bad.resource(&format!("bad-{n}"));
        let refusal = kubectl.apply(&resource, &["--dry-run=server"]).await.err();
        let refusal = refusal.with_context(|| format!("it is taken: {bad:?}"))?.to_string();
        ensure!(bad.is_told_by(&refusal), "{bad:?}: {refusal}");
    }
    Ok(())
}

#[tokio::test]
async fn what_is_right_is_taken_and_has_its_defaults() -> Result<()> {
    let kubectl = cluster().await?;
    for resource in [DOMAIN, MAILBOX, RICH] {
        kubectl.apply(resource, &["--dry-run=server"]).await?;
    }
    let shown = kubectl.apply(DOMAIN, &["--dry-run=server", "--output=json"]).await?;
    let shown: serde_json::Value = serde_json::from_str(&shown)?;
    let spec = &shown["spec"];
    ensure!(spec["target"] == "mailboxes" && spec["deletionPolicy"] == "Retain", "{spec}");
    let inbound = &spec["inbound"];
    ensure!(inbound["enabled"] == true && inbound["subAddressSeparators"] == "+", "{spec}");
    Ok(())
}

/// Whose mail it is does not change; and the columns tell what it is.
#[tokio::test]
async fn a_resource_is_of_one_name_for_good() -> Result<()> {
    let kubectl = cluster().await?;
    for (resource, own, other, field) in [
        (DOMAIN, "domain: example.org", "domain: example.net", "spec.domain"),
        (MAILBOX, "address: alice@", "address: bob@", "spec.address"),
    ] {
        kubectl.apply(resource, &[]).await?;
        let refusal = kubectl.apply(&resource.replace(own, other), &[]).await.err();
        let refusal = refusal.context("it is taken")?.to_string();
        ensure!(refusal.contains(field) && refusal.contains("for good"), "{refusal}");
    }
    let listed = kubectl.run(&["get", "md,mb"]).await?;
    ensure!(listed.contains("DOMAIN") && listed.contains("alice@example.org"), "{listed}");
    kubectl.run(&["delete", "md/good", "mb/good"]).await.map(drop)
}
