//! A tenant's own certificate: shown by name, renewed without a restart.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tests::client::Client;
use tests::helm::Release;
use tests::{tenant, wait};

const LIMIT: Duration = Duration::from_secs(120);
const NAME: &str = "mail.certified.example";

/// A certificate as DER, and the Secret that holds it.
fn certificate(names: &[&str]) -> Result<(Vec<u8>, String)> {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let made = rcgen::generate_simple_self_signed(names)?;
    let (chain, key) =
        (STANDARD.encode(made.cert.pem()), STANDARD.encode(made.signing_key.serialize_pem()));
    let secret = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: mail-tls}}\ntype: kubernetes.io/tls\n\
         data: {{tls.crt: {chain}, tls.key: {key}}}\n"
    );
    Ok((made.cert.der().to_vec(), secret))
}

async fn shown(release: &Release, part: &str, port: u16) -> Result<Vec<u8>> {
    let mut client = Client::connect(release.address(part, port).await?).await?;
    client.command("EHLO client.test", 250).await?;
    Ok(client.certificate(NAME).await?.to_vec())
}

async fn until_shown(release: &Release, wanted: &[u8]) -> Result<()> {
    for (part, port) in [("mx", 25), ("submission", 587)] {
        wait::until(part, LIMIT, async || {
            (shown(release, part, port).await.ok()? == wanted).then_some(())
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn shown_by_name_and_renewed_without_a_restart() -> Result<()> {
    let release = Release::shared().await?;
    let kubectl = &release.kubectl;
    kubectl.namespace("certified", true).await?;
    let domain = tenant::domain("certified.example", "x@elsewhere.example")
        .replace("spec:\n", "spec:\n  tls: {secretRef: {name: mail-tls}}\n");
    let apply = async |resources: &str| tenant::apply(kubectl, "certified", resources).await;
    let is = async |condition: &str| {
        kubectl.wait("certified", "maildomain/certified-example", condition).await
    };
    apply(&domain).await?;
    is("CertificateReady=false").await?;
    is("Accepted").await?;
    // For another's name it is shown to nobody.
    let (stolen, secret) = certificate(&["mail.foreign.example"])?;
    apply(&secret).await?;
    let reason = "jsonpath={.status.conditions[?(@.type==\"CertificateReady\")].reason}";
    let args = ["--namespace", "certified", "get", "md/certified-example", "--output", reason];
    wait::until_every(Duration::from_secs(1), "the mismatch", LIMIT, async || {
        (kubectl.run(&args).await.ok()? == "NameMismatch").then_some(())
    })
    .await?;
    let (first, secret) = certificate(&[NAME])?;
    ensure!(shown(&release, "mx", 25).await? != stolen, "another's name");
    apply(&secret).await?;
    is("Ready").await?;
    until_shown(&release, &first).await?;
    let pods = async || release.run(&["get", "pods", "--output=name"]).await;
    let before = pods().await?;
    let (second, secret) = certificate(&[NAME])?;
    let renewed = Instant::now();
    apply(&secret).await?;
    until_shown(&release, &second).await?;
    println!("renewed after {:.0} s", renewed.elapsed().as_secs_f64());
    // A mistake takes it from nobody.
    let (_, wrong) = certificate(&["mail.foreign.example"])?;
    apply(&wrong).await?;
    is("CertificateReady=false").await?;
    ensure!(shown(&release, "mx", 25).await? == second, "it is taken away");
    ensure!(pods().await? == before, "pods were restarted");
    kubectl.run(&["delete", "namespace", "certified", "--wait=false"]).await.map(drop)
}
