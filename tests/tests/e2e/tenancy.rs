//! Tenants do not reach each other: at the API, and on the wire.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::client::Client;
use tests::helm::Release;
use tests::process::PASSWORD;
use tests::{tenant, wait};

const LIMIT: Duration = Duration::from_secs(60);

const ROLES: &str = "\
apiVersion: v1
kind: ServiceAccount
metadata: {name: user}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: user}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: edit}
subjects: [{kind: ServiceAccount, name: user}]
---
";

#[tokio::test]
async fn a_tenant_gets_nothing_of_another() -> Result<()> {
    let release = Release::shared().await?;
    let kubectl = &release.kubectl;
    for (namespace, is_tenant) in [("owner", true), ("thief", true), ("stranger", false)] {
        kubectl.namespace(namespace, is_tenant).await?;
        tenant::apply(kubectl, namespace, ROLES).await?;
    }
    let owned = tenant::domain("owned.example", "ann@owned.example")
        + &tenant::mailbox_with_password("ann@owned.example");
    tenant::apply(kubectl, "owner", &owned).await?;
    kubectl.wait("owner", "maildomain/owned-example", "Ready").await?;

    // As a user with the role `edit` of a namespace of his own.
    let as_user = |namespace: &str| format!("--as=system:serviceaccount:{namespace}:user");
    let thief = as_user("thief");
    let may = async |verb: &str, what: &str, namespace: &str| {
        let (what, part) = what.split_once('/').unwrap_or((what, ""));
        let part = format!("--subresource={part}");
        let args = ["auth", "can-i", verb, what, &part, "--namespace", namespace, &thief];
        kubectl.run(&args).await.is_ok_and(|answer| answer.trim() == "yes")
    };
    for (verb, what, namespace, wanted) in [
        ("create", "mailboxes.postrider.dev", "thief", true),
        ("patch", "mailboxes.postrider.dev/status", "thief", false),
        ("patch", "maildomains.postrider.dev/status", "thief", false),
        ("get", "maildomains.postrider.dev", "owner", false),
        ("create", "mailboxes.postrider.dev", "owner", false),
        ("get", "secrets", "owner", false),
        ("get", "secrets", "postrider", false),
    ] {
        let found = may(verb, what, namespace).await;
        ensure!(found == wanted, "{verb} {what} in {namespace}: {found}");
    }

    // He claims the domain, a mailbox in it, and another's Secret.
    let stolen = tenant::domain("owned.example", "eve@thief.example")
        + &tenant::domain("thief.example", "eve@thief.example")
        + &tenant::mailbox("eve@owned.example", "")
        + &tenant::mailbox(
            "eve@thief.example",
            ", identities: [ann@owned.example], passwords: [{name: p, secretRef: {name: \
             ann-owned-example}}]",
        );
    kubectl.apply(&stolen, &["--namespace", "thief", &thief]).await?;
    for (resource, condition) in [
        ("maildomain/owned-example", "Accepted=false"),
        ("mailbox/eve-owned-example", "Accepted=false"),
        ("mailbox/eve-thief-example", "Accepted=false"),
    ] {
        kubectl.wait("thief", resource, condition).await?;
    }
    let reason = "jsonpath={.status.conditions[?(@.type==\"Accepted\")].reason}";
    let args = ["--namespace", "thief", "get", "md/owned-example", "--output", reason];
    ensure!(kubectl.run(&args).await? == "DomainConflict", "another reason");
    // Without the foreign identity it is his; the Secret is still another's.
    let own = tenant::mailbox(
        "eve@thief.example",
        ", passwords: [{name: p, secretRef: {name: ann-owned-example}}]",
    );
    kubectl.apply(&own, &["--namespace", "thief", &thief]).await?;
    kubectl.wait("thief", "mailbox/eve-thief-example", "Accepted").await?;
    kubectl.wait("thief", "mailbox/eve-thief-example", "Ready=false").await?;

    // On the wire all is as its owner says.
    let (mx, submission) =
        (release.address("mx", 25).await?, release.address("submission", 587).await?);
    let rcpt = async |recipient: &str| Client::rcpt(mx, recipient).await;
    wait::until("the thief's own", LIMIT, async || {
        (rcpt("eve@thief.example").await.ok()? == 250).then_some(())
    })
    .await?;
    ensure!(rcpt("ann@owned.example").await? == 250, "ann is not there");
    ensure!(rcpt("eve@owned.example").await? == 550, "eve is there");
    ensure!(
        Client::submission(submission, "eve@thief.example", PASSWORD).await.is_err(),
        "a login by another's Secret"
    );
    Client::submission(submission, "ann@owned.example", PASSWORD).await?;

    // Who was not allowed any has none.
    let wanted = tenant::domain("unclaimed.example", "x@elsewhere.example");
    kubectl.apply(&wanted, &["--namespace", "stranger", &as_user("stranger")]).await?;
    kubectl.wait("stranger", "maildomain/unclaimed-example", "Accepted=false").await?;
    let args = ["--namespace", "stranger", "get", "md/unclaimed-example", "--output", reason];
    ensure!(kubectl.run(&args).await? == "NotAllowed", "another reason");
    // Until his namespace may: and when the owner goes, whoever waits has the domain.
    kubectl.run(&["label", "namespace", "stranger", "postrider.dev/tenant=true"]).await?;
    kubectl.wait("stranger", "maildomain/unclaimed-example", "Accepted").await?;
    kubectl.run(&["--namespace", "owner", "delete", "md/owned-example"]).await?;
    kubectl.wait("thief", "maildomain/owned-example", "Accepted").await?;
    for namespace in ["owner", "thief", "stranger"] {
        kubectl.run(&["delete", "namespace", namespace, "--wait=false"]).await?;
    }
    Ok(())
}
