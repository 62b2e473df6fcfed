//! The resources as the compiler of domains takes them: the same fields, by the same names.

use domains::Resource;
use domains::spec::{MailDomainSpec, MailboxSpec, Metadata, Password};
use kube::core::ObjectMeta;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::mail_domain::MailDomainSpec as DomainOfApi;
use super::mailbox::{MailboxSpec as MailboxOfApi, SecretRef};

/// What a spec says of a domain. `None` when the compiler does not know a field: that would be a
/// fault of ours.
pub(crate) fn mail_domain(metadata: &ObjectMeta, spec: &DomainOfApi) -> Option<Resource> {
    let spec: MailDomainSpec = without(spec, &["deletionPolicy", "tls"])?;
    Some(Resource::MailDomain { metadata: named(metadata), spec })
}

/// What a spec says of a mailbox, with the hashes that `hash` finds; a password whose hash is not
/// found lets nobody in.
pub(crate) fn mailbox(
    metadata: &ObjectMeta,
    spec: &MailboxOfApi,
    hash: impl Fn(&SecretRef) -> Option<String>,
) -> Option<Resource> {
    let passwords = spec.passwords.iter().filter_map(|password| {
        let hash = hash(&password.secret_ref)?;
        Some(Password { name: password.name.clone(), hash })
    });
    let passwords = passwords.collect();
    let spec = MailboxSpec { passwords, ..without(spec, &["passwords"])? };
    Some(Resource::Mailbox { metadata: named(metadata), spec })
}

fn without<T: DeserializeOwned>(spec: &impl Serialize, fields: &[&str]) -> Option<T> {
    let mut value = serde_json::to_value(spec).ok()?;
    let object = value.as_object_mut()?;
    fields.iter().for_each(|field| drop(object.remove(*field)));
    serde_json::from_value::<T>(value).ok()
}

fn named(metadata: &ObjectMeta) -> Metadata {
    Metadata {
        name: metadata.name.clone().unwrap_or_default(),
        namespace: metadata.namespace.clone(),
    }
}

/// A spec as it is kept in a status.
pub(crate) fn kept<T: Serialize>(spec: &T) -> Option<Value> {
    serde_json::to_value(spec).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata() -> ObjectMeta {
        let text = "{\"name\": \"rich\", \"namespace\": \"team\"}";
        serde_json::from_str(text).unwrap()
    }

    /// Every field of the API is one that the compiler knows, whatever it is set to.
    #[test]
    fn nothing_of_a_domain_is_lost() {
        let text = r#"{"domain": "a.example", "aliasOf": "b.example", "target": "relay",
            "relay": {"hosts": ["mx.a.example"], "recipients": {"list": ["x@a.example"]},
                "tls": {"mode": "required", "ca": "PEM"}},
            "inbound": {"enabled": false, "catchAll": "x@a.example", "aliases":
                [{"match": "i", "to": ["x@a.example"]}], "subAddressSeparators": "-",
                "maxMessageSizeBytes": 70000},
            "quota": {"bytes": 70000, "onFull": "reject"},
            "sendingLimits": {"recipientsPerHour": 3, "recipientsPerDay": 4},
            "tls": {"secretRef": {"name": "s"}}, "deletionPolicy": "Retain"}"#;
        let spec: DomainOfApi = serde_json::from_str(text).unwrap();
        let Some(Resource::MailDomain { metadata, spec }) = mail_domain(&metadata(), &spec) else {
            panic!("it is not taken")
        };
        assert_eq!((metadata.name.as_str(), metadata.namespace.as_deref()), ("rich", Some("team")));
        let mut shown = serde_json::to_value(&spec).unwrap();
        shown["deletionPolicy"] = "Retain".into();
        shown["tls"] = serde_json::json!({"secretRef": {"name": "s"}});
        assert_eq!(shown, serde_json::from_str::<Value>(text).unwrap());
    }

    #[test]
    fn nothing_of_a_mailbox_is_lost() {
        let text = r#"{"address": "a@a.example", "aliases": ["b@a.example"],
            "identities": ["*@a.example"], "sendOnly": true, "suspended": true,
            "quota": {"bytes": 70000, "onFull": "defer"}, "storageId": "00",
            "sendingLimits": {"recipientsPerDay": 4}}"#;
        let with = |passwords: &str| {
            let text = text.replacen('{', &format!("{{\"passwords\": {passwords}, "), 1);
            serde_json::from_str::<MailboxOfApi>(&text).unwrap()
        };
        let both = with(
            r#"[{"name": "phone", "secretRef": {"name": "s"}},
                {"name": "lost", "secretRef": {"name": "s", "key": "none"}}]"#,
        );
        let hash = |at: &SecretRef| (at.key == "hash").then(|| format!("of {}", at.name));
        let Some(Resource::Mailbox { spec, .. }) = mailbox(&metadata(), &both, hash) else {
            panic!("it is not taken")
        };
        let mut shown = serde_json::to_value(&spec).unwrap();
        let passwords = shown.as_object_mut().unwrap().remove("passwords").unwrap();
        assert_eq!(passwords, serde_json::json!([{"name": "phone", "hash": "of s"}]));
        assert_eq!(shown, serde_json::from_str::<Value>(text).unwrap());
    }
}
