//! The rules for gateway domains: `target: relay`.

use std::sync::Arc;

use mail_types::Domain;

use super::{Compiler, tenant};
use crate::gateway::{Gateway, GatewayLogin, Server};
use crate::spec::{MailDomainSpec, MailTarget, Metadata, Relay, RelayAuth, RelayTls, RelayTlsMode};
use crate::table::Entry;
use crate::yaml::Declared;

const HOSTS_MAX: usize = 10;
const RECIPIENTS_MAX: usize = 10_000;
/// Certificates are kept in one record with the domain.
const CA_BYTES_MAX: usize = 64 * 1024;

impl Compiler<'_> {
    /// The server that a domain has of its own, and for whom it takes mail.
    pub(super) fn add_gateway(
        &mut self,
        at: &Declared,
        metadata: &Metadata,
        spec: &MailDomainSpec,
    ) {
        let Ok(domain) = Domain::parse(&spec.domain) else { return };
        let Some(relay) = self.relay(at, spec) else { return };
        self.check_inbound(at, spec, &domain);
        self.check_tls(at, &relay.tls);
        let gateway = Gateway {
            servers: self.servers(at, &relay.hosts),
            call_ahead: relay.recipients.call_ahead,
            tls: relay.tls.mode,
            authorities: relay.tls.ca.clone(),
            login: relay.auth.as_ref().and_then(|auth| self.login(at, metadata, relay, auth)),
        };
        if let Some(declaration) = self.table.domains.get_mut(&domain) {
            Arc::make_mut(declaration).gateway = Some(Arc::new(gateway));
        }
        self.add_recipients(at, relay, &domain);
    }

    /// What is said of the server, where there is to be one.
    fn relay<'a>(&mut self, at: &Declared, spec: &'a MailDomainSpec) -> Option<&'a Relay> {
        let (field, message, remedy) = match (spec.target, &spec.relay, &spec.alias_of) {
            (MailTarget::Mailboxes, None, _) => return None,
            (MailTarget::Relay, Some(relay), None) => return Some(relay),
            (_, _, Some(of)) => {
                let message = format!("its mail goes where that of {of} goes");
                ("spec.target", message, "declare the server in that domain")
            }
            (MailTarget::Mailboxes, Some(_), None) => {
                let message = "a server is named, and mail stays in mailboxes here".to_owned();
                ("spec.relay", message, "write target: relay, or remove the server")
            }
            (MailTarget::Relay, None, None) => {
                let message = "mail is to be handed to a server, and none is named".to_owned();
                let remedy = "add relay, with hosts: [a host] and recipients: {callAhead: true}";
                ("spec.target", message, remedy)
            }
        };
        self.is_partial = true;
        self.wrong(at, field, message, remedy);
        None
    }

    fn check_inbound(&mut self, at: &Declared, spec: &MailDomainSpec, domain: &Domain) {
        if !spec.inbound.enabled {
            let message = "mail that is received elsewhere is not handed over from here";
            self.wrong(at, "spec.inbound.enabled", message, "remove it, or the target");
        }
        if spec.inbound.catch_all.is_some() {
            let message = format!("the server of {domain} takes what is left, or refuses it");
            self.wrong(at, "spec.inbound.catchAll", message, "remove it");
        }
    }

    fn servers(&mut self, at: &Declared, hosts: &[String]) -> Vec<Server> {
        self.check_count(at, "spec.relay.hosts", hosts.len(), 1..=HOSTS_MAX);
        let mut servers = Vec::new();
        for (n, host) in hosts.iter().enumerate() {
            let field = format!("spec.relay.hosts[{n}]");
            match Server::parse(host) {
                Ok(server) if servers.contains(&server) => {
                    let message = format!("{host:?} is named twice");
                    self.wrong(at, &field, message, "name each host once");
                }
                Ok(server) => servers.push(server),
                Err(error) => {
                    let remedy = "write it like mail.example.org, 192.0.2.1:2525 or [2001:db8::1]";
                    self.wrong(at, &field, format!("{host:?} {error}"), remedy);
                }
            }
        }
        servers
    }

    fn check_tls(&mut self, at: &Declared, tls: &RelayTls) {
        let (field, Some(ca)) = ("spec.relay.tls.ca", &tls.ca) else { return };
        if tls.mode != RelayTlsMode::Verify {
            let message = "with this mode no certificate is looked at";
            self.wrong(at, field, message, "write mode: verify, or remove it");
        }
        if ca.contains("PRIVATE KEY-----") {
            let message = "holds a private key, which is now known to all who read this";
            self.wrong(at, field, message, "make a new key; write certificates only");
        } else if !is_pem(ca) {
            let remedy = "paste it with its lines -----BEGIN CERTIFICATE----- and -----END \
                          CERTIFICATE-----";
            self.wrong(at, field, "holds no certificate in PEM", remedy);
        } else if ca.len() > CA_BYTES_MAX {
            let message = format!("has {} octets", ca.len());
            let remedy = "write the authority of the server alone; 65536 octets at most";
            self.wrong(at, field, message, remedy);
        }
    }

    fn login(
        &mut self,
        at: &Declared,
        metadata: &Metadata,
        relay: &Relay,
        auth: &RelayAuth,
    ) -> Option<GatewayLogin> {
        if relay.tls.mode == RelayTlsMode::Opportunistic {
            let message = "with auth, a password might be sent in clear";
            self.wrong(at, "spec.relay.tls.mode", message, "write verify or required");
        }
        if !GatewayLogin::is_user(&auth.user) {
            let message = format!("{:?} is no login", auth.user);
            let remedy = "write the name by which the server knows this one";
            self.wrong(at, "spec.relay.auth.user", message, remedy);
        }
        if !GatewayLogin::is_file_name(&auth.password_file) {
            let message = format!("{:?} is not the name of a file", auth.password_file);
            let remedy = "write a name without a directory: the file is in that of the namespace, \
                          below delivery.gatewayPasswordsDir";
            self.wrong(at, "spec.relay.auth.passwordFile", message, remedy);
        }
        let password_file = format!("{}/{}", tenant(metadata), auth.password_file);
        // What is wrong with it was said, here or of the namespace.
        GatewayLogin::new(auth.user.clone(), password_file).ok()
    }

    fn add_recipients(&mut self, at: &Declared, relay: &Relay, domain: &Domain) {
        let field = "spec.relay.recipients";
        let list = &relay.recipients.list;
        match (list.is_empty(), relay.recipients.call_ahead) {
            (true, false) => {
                self.is_partial = true;
                let message = "it is not said for whom mail is taken";
                self.wrong(at, field, message, "write callAhead: true, or a list of addresses");
            }
            (false, true) => {
                let message = "there are a list and callAhead";
                self.wrong(at, field, message, "keep one of them");
            }
            (true, true) | (false, false) => {}
        }
        self.check_count(at, &format!("{field}.list"), list.len(), 0..=RECIPIENTS_MAX);
        for (n, text) in list.iter().enumerate() {
            let field = format!("{field}.list[{n}]");
            let Some(address) = self.address(at, &field, text) else { continue };
            if address.domain() == Some(domain) {
                self.add_entry(at, &field, &address, Entry::Recipient);
            } else {
                let message = format!("{address} is not in {domain}");
                self.wrong(at, &field, message, "write addresses of the domain");
            }
        }
    }
}

/// Whether it looks like one; what is in it is seen by those who connect.
fn is_pem(text: &str) -> bool {
    let (begin, end) = ("-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----");
    text.find(begin).is_some_and(|at| text[at..].contains(end))
}
