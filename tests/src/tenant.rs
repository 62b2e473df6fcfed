//! What a tenant applies to a cluster.

use anyhow::Result;

use crate::kubectl::Kubectl;
use crate::process::PASSWORD_HASH;

/// A domain whose postmaster is somebody of it.
pub fn domain(domain: &str, postmaster: &str) -> String {
    let name = domain.replace('.', "-");
    format!(
        "apiVersion: postrider.dev/v1alpha1\nkind: MailDomain\nmetadata: {{name: {name}}}\n\
         spec:\n  domain: {domain}\n  inbound:\n    aliases:\n    - {{match: postmaster, to: \
         [{postmaster}]}}\n---\n"
    )
}

/// A mailbox with fields of its spec, such as `, sendOnly: true`.
pub fn mailbox(address: &str, more: &str) -> String {
    let name = name(address);
    format!(
        "apiVersion: postrider.dev/v1alpha1\nkind: Mailbox\nmetadata: {{name: {name}}}\nspec: \
         {{address: {address}{more}}}\n---\n"
    )
}

/// A mailbox that [`crate::process::PASSWORD`] opens, by a Secret of its name.
pub fn mailbox_with_password(address: &str) -> String {
    let name = name(address);
    let passwords = format!(", passwords: [{{name: phone, secretRef: {{name: {name}}}}}]");
    mailbox(address, &passwords) + &secret(&name, PASSWORD_HASH)
}

/// A Secret with a hash.
pub fn secret(name: &str, hash: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\nstringData: {{hash: \
         '{hash}'}}\n---\n"
    )
}

fn name(address: &str) -> String {
    address.replace(['@', '.'], "-")
}

/// Applies resources of a namespace.
pub async fn apply(kubectl: &Kubectl, namespace: &str, resources: &str) -> Result<()> {
    kubectl.apply(resources, &["--namespace", namespace]).await.map(drop)
}
