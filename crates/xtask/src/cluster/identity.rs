//! Who is who in the cluster: authorities, certificates and kubeconfigs.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;

use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};

use super::place::{API_SERVICE, NODE, NODE_ADDRESS, Place};

type Authority = CertifiedIssuer<'static, KeyPair>;

/// A certificate, whose key and chain are in files of this name.
struct Subject {
    file: &'static str,
    user: &'static str,
    group: Option<&'static str>,
    /// Whom it serves as, if it serves.
    serves: &'static [&'static str],
}

const SUBJECTS: [Subject; 10] = [
    Subject { serves: &["localhost", "127.0.0.1"], ..client("etcd", "etcd", None) },
    Subject {
        serves: &[
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            "localhost",
            "127.0.0.1",
            NODE_ADDRESS,
            API_SERVICE,
        ],
        ..client("apiserver", "kube-apiserver", None)
    },
    client("apiserver-etcd", "apiserver-etcd", None),
    client("apiserver-kubelet", "kube-apiserver-kubelet-client", None),
    client("controller-manager", "system:kube-controller-manager", None),
    client("scheduler", "system:kube-scheduler", None),
    client("proxy", "system:kube-proxy", None),
    Subject {
        serves: &[NODE, NODE_ADDRESS, "127.0.0.1"],
        ..client("kubelet", "system:node:node", Some("system:nodes"))
    },
    client("admin", "admin", Some("system:masters")),
    client("cloud", "test-cloud", None),
];

/// Those that find the API server by a kubeconfig.
const USERS: [&str; 6] = ["controller-manager", "scheduler", "proxy", "kubelet", "admin", "cloud"];

const fn client(file: &'static str, user: &'static str, group: Option<&'static str>) -> Subject {
    Subject { file, user, group, serves: &[] }
}

pub(super) fn write(place: &Place) -> Result<()> {
    // Whoever reads it rules the cluster.
    fs::set_permissions(place.identity(""), fs::Permissions::from_mode(0o700))?;
    let authority = write_authority(place, "ca", "kubernetes-ca")?;
    for subject in &SUBJECTS {
        write_certificate(place, subject, &authority)?;
    }
    // Whom the API server speaks for to extensions.
    let front = write_authority(place, "front-ca", "front-proxy-ca")?;
    write_certificate(place, &client("front", "front-proxy-client", None), &front)?;
    let accounts = KeyPair::generate()?;
    fs::write(place.identity("accounts.key"), accounts.serialize_pem())?;
    fs::write(place.identity("accounts.pub"), accounts.public_key_pem())?;
    for user in USERS {
        write_kubeconfig(place, user)?;
    }
    Ok(())
}

fn write_authority(place: &Place, file: &str, name: &str) -> Result<Authority> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    fs::write(place.identity(&format!("{file}.crt")), authority.pem())?;
    fs::write(place.identity(&format!("{file}.key")), authority.key().serialize_pem())?;
    Ok(authority)
}

fn write_certificate(place: &Place, subject: &Subject, authority: &Authority) -> Result<()> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, subject.user);
    if let Some(group) = subject.group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    for name in subject.serves {
        params.subject_alt_names.push(match name.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName((*name).try_into()?),
        });
    }
    if !subject.serves.is_empty() {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, authority)?;
    let file = subject.file;
    fs::write(place.identity(&format!("{file}.crt")), certificate.pem())?;
    fs::write(place.identity(&format!("{file}.key")), key.serialize_pem())?;
    Ok(())
}

fn write_kubeconfig(place: &Place, user: &str) -> Result<()> {
    let read =
        |file: String| Ok::<_, anyhow::Error>(STANDARD.encode(fs::read(place.identity(&file))?));
    let config = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": {
            "server": format!("https://{NODE_ADDRESS}:6443"),
            "certificate-authority-data": read("ca.crt".to_owned())?,
        }}],
        "users": [{"name": "test", "user": {
            "client-certificate-data": read(format!("{user}.crt"))?,
            "client-key-data": read(format!("{user}.key"))?,
        }}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    });
    Ok(fs::write(place.identity(&format!("{user}.conf")), config.to_string())?)
}
