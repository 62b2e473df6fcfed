//! The server of a gateway domain, asked whether it takes mail for a recipient.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use domains::{Answer, CallAhead, Gateway};
use handover::Connection;
use mail_types::{Host, LocalPart, Mailbox, Recipient, Reply};
use prometheus_client::registry::Registry;
use resolve::Resolver;
use smtp::client::{RecipientResult, SessionError, SizeLimit, Step};

use crate::Live;
use crate::config::{Config, ConfigError, Purpose, Settings};
use crate::failure::HopFailure;
use crate::metrics::Metrics;
use crate::session::{Opener, Session};
use crate::stream::Stream;
use crate::targets::{Finder, Targets};

/// How long a connection, and each answer, may take: a client waits meanwhile.
const STEP_MAX: Duration = Duration::from_secs(10);
const PURPOSE: Purpose = Purpose::Visit { step: STEP_MAX };

/// Asks as a delivery would hand over, by the same hosts, TLS and login, and sends no mail.
pub struct Inquirer {
    settings: Arc<ArcSwap<Settings>>,
    resolver: Arc<dyn Resolver>,
    name: Host,
    metrics: Metrics,
}

impl Inquirer {
    /// `name` is ours.
    ///
    /// # Errors
    /// The configuration makes no sense.
    pub fn new(
        config: Config,
        resolver: Arc<dyn Resolver>,
        name: Host,
    ) -> Result<Self, ConfigError> {
        let settings = Arc::new(ArcSwap::from_pointee(PURPOSE.settings(config)?));
        let metrics = Metrics::register(&mut Registry::default());
        Ok(Self { settings, resolver, name, metrics })
    }

    /// By which its configuration is changed.
    pub fn live(&self) -> Live {
        Live { settings: Arc::clone(&self.settings), purpose: PURPOSE }
    }

    /// A session with the first host that takes one.
    async fn open(&self, gateway: &Arc<Gateway>, domain: &Host) -> Result<Session, HopFailure> {
        let settings = self.settings.load_full();
        let passwords = settings.config.gateway_passwords_dir.as_deref();
        let route = settings.route(domain).to_gateway(gateway, passwords);
        let opener = Opener {
            settings: &settings,
            name: &self.name,
            metrics: &self.metrics,
            // As DSNs of the domain would come: what it says of us holds for those as well.
            sender: &domain.to_string(),
        };
        let finder =
            Finder { config: &settings.config, resolver: &*self.resolver, name: &self.name };
        let mut targets = Targets::of_servers(finder, domain.to_string(), &gateway.servers)?;
        let mut last = HopFailure::HostUnknown(domain.to_string());
        while let Some(target) = targets.next(finder).await {
            let opened = match target {
                Ok(target) => opener.open(&target, &route).await,
                Err(failure) => Err(failure),
            };
            match opened {
                Ok(session) => return Ok(session),
                Err(failure) => last = failure,
            }
        }
        Err(last)
    }
}

#[async_trait]
impl CallAhead for Inquirer {
    async fn ask(&self, gateway: &Arc<Gateway>, address: &Mailbox) -> Answer {
        let mut session = match self.open(gateway, address.host()).await {
            Ok(session) => session,
            Err(failure) => return Answer::Unreachable(failure.to_string()),
        };
        let answer = asked(&mut session.connection, &session.host, address).await;
        session.connection.quit().await;
        answer
    }
}

/// Asks on an open session.
async fn asked(connection: &mut Connection<Stream>, host: &str, address: &Mailbox) -> Answer {
    let offered = *connection.capabilities();
    if !address.is_ascii() && !offered.smtputf8 {
        return Answer::Unclear(format!("{host} does not accept internationalised addresses"));
    }
    let (step, reply) = match ask(connection, address).await {
        Ok(RecipientResult::Accepted(_)) => {
            let size_max = match offered.size {
                SizeLimit::Octets(octets) => Some(octets),
                SizeLimit::NotOffered | SizeLimit::Unlimited => None,
            };
            return Answer::Taken { size_max };
        }
        Ok(RecipientResult::Refused { step, reply }) => (step, reply),
        Ok(RecipientResult::Unanswered) => {
            return Answer::Unclear(format!("{host} did not answer"));
        }
        // It has something against us or the recipient: who is not well does not greet.
        Err(error @ SessionError::Closing { .. }) => {
            return Answer::Unclear(format!("{host}: {error}"));
        }
        Err(error) => return Answer::Unreachable(format!("{host}: {error}")),
    };
    let is_absent = match meaning(step, &reply) {
        Meaning::Absent => true,
        Meaning::AbsentOrForeign => has_postmaster(connection, address).await,
        Meaning::Other => false,
    };
    if is_absent {
        return Answer::Absent;
    }
    Answer::Unclear(format!("{host} at {}: {reply}", step.as_str()))
}

async fn ask(
    connection: &mut Connection<Stream>,
    address: &Mailbox,
) -> Result<RecipientResult, SessionError> {
    let recipient = Recipient::new(address.clone());
    // RSET may come before MAIL and RCPT.
    connection.ask(&recipient, 3 * STEP_MAX).await
}

/// Whether the server takes mail for the domain at all: every domain has a postmaster
/// (RFC 5321 §4.5.1). Where it is he who was refused, it does not.
async fn has_postmaster(connection: &mut Connection<Stream>, refused: &Mailbox) -> bool {
    let Ok(local_part) = LocalPart::parse("postmaster") else { return false };
    let postmaster = Mailbox::new(local_part, refused.host().clone());
    matches!(ask(connection, &postmaster).await, Ok(RecipientResult::Accepted(_)))
}

/// What a refusal says about a recipient.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Meaning {
    Absent,
    /// Or the server knows nothing of the domain: some say both in the same way.
    AbsentOrForeign,
    /// It is about the sender, us, a policy, the server, or may pass.
    Other,
}

fn meaning(step: Step, reply: &Reply) -> Meaning {
    if step != Step::Rcpt || !reply.is_permanent() {
        return Meaning::Other;
    }
    match reply.status.map(|status| (status.subject(), status.detail())) {
        // RFC 3463 §3.2: 2 is about the domain, 7 and 8 are about the sender.
        Some((1, 2 | 7 | 8)) => Meaning::Other,
        Some((1, _)) => Meaning::Absent,
        // RFC 3463 §3.3: disabled. A full mailbox is there.
        Some((2, 0 | 1)) => Meaning::Absent,
        // What Exchange Online says of an address that its directory does not have.
        Some((4, 1)) => Meaning::Absent,
        Some(_) => Meaning::Other,
        // RFC 5321 §4.2.3: mailbox unavailable, user not local, name not allowed.
        None if matches!(reply.code.value(), 550 | 551 | 553) => Meaning::AbsentOrForeign,
        None => Meaning::Other,
    }
}

#[cfg(test)]
mod tests {
    use mail_types::{EnhancedStatus, ReplyCode};

    use super::*;

    #[test]
    fn what_a_refusal_says_about_a_recipient() {
        use Meaning::{Absent, AbsentOrForeign, Other};
        for (code, status, want) in [
            (550, Some((5, 1, 1)), Absent),
            (550, Some((5, 1, 10)), Absent),
            (553, Some((5, 1, 3)), Absent),
            (550, Some((5, 2, 1)), Absent),
            (550, Some((5, 4, 1)), Absent),
            (550, None, AbsentOrForeign),
            (551, None, AbsentOrForeign),
            (553, None, AbsentOrForeign),
            (550, Some((5, 1, 2)), Other),
            (550, Some((5, 1, 7)), Other),
            (550, Some((5, 1, 8)), Other),
            (552, Some((5, 2, 2)), Other),
            (550, Some((5, 7, 1)), Other),
            (554, Some((5, 7, 1)), Other),
            (554, None, Other),
            (530, Some((5, 7, 0)), Other),
            (503, Some((5, 5, 1)), Other),
            (501, None, Other),
            (552, None, Other),
            (450, Some((4, 1, 1)), Other),
            (450, None, Other),
            (452, Some((4, 2, 2)), Other),
        ] {
            let status =
                status.map(|(class, subject, detail)| EnhancedStatus::new(class, subject, detail));
            let reply = Reply { code: ReplyCode::new(code), status, text: "no".to_owned() };
            assert_eq!(meaning(Step::Rcpt, &reply), want, "{reply}");
            assert_eq!(meaning(Step::Mail, &reply), Other, "{reply}");
        }
    }
}
