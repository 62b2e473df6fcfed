//! The definitions of our resources, as the API server takes them.

use kube::CustomResourceExt;

use crate::resources::{MailDomain, Mailbox};

/// All of them, a document each.
pub(crate) fn yaml() -> anyhow::Result<String> {
    let mut text = String::new();
    for definition in [MailDomain::crd(), Mailbox::crd()] {
        text += "---\n";
        text += &serde_saphyr::to_string(&serde_json::to_value(definition)?)?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `cargo run -p operator -- crds > crds/postrider.yaml` writes it.
    #[test]
    fn what_is_committed_is_what_the_types_say() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../crds/postrider.yaml");
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        let remedy = "run `cargo run --release -p operator -- crds > crds/postrider.yaml`";
        assert!(committed == yaml().unwrap(), "{path} is out of date: {remedy}");
        let of_chart = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/postrider/files/crds.yaml");
        let copied = std::fs::read_to_string(of_chart).unwrap_or_default();
        assert!(copied == committed, "{of_chart} is out of date: copy {path} there");
    }
}
