//! The server of a gateway domain, asked whether it takes mail for a recipient.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domains::{Answer, CallAhead, Gateway};
use handover::Connection;
use mail_types::{Host, LocalPart, Mailbox, Recipient, Reply};
use queue::NextHop;
use resolve::Resolver;
use smtp::client::{RecipientResult, SessionError, SizeLimit, Step};
use tokio::time::timeout;

use crate::Live;
use crate::config::{Config, ConfigError};
use crate::session::Session;
use crate::stream::Stream;
use crate::visit::{Visit, Visitor};

/// How long a connection, and each answer, may take: a client waits meanwhile.
const STEP_MAX: Duration = Duration::from_secs(10);
/// How long it may take until some host has taken a session.
const OPENING_MAX: Duration = Duration::from_secs(30);
/// How long the answer may take then, with all that is asked for it.
const ASKING_MAX: Duration = Duration::from_secs(30);

/// Asks as a delivery would hand over, by the same hosts, TLS and login, and sends no mail. It
/// takes no more than a minute.
pub struct Inquirer(Visitor);

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
        Visitor::new(config, resolver, name, STEP_MAX).map(Self)
    }

    /// By which its configuration is changed.
    pub fn live(&self) -> Live {
        self.0.live()
    }

    /// A session with the first host that takes one, or what the last one had against it.
    async fn open(&self, gateway: &Arc<Gateway>, domain: &Host) -> Result<Session, String> {
        let settings = self.0.settings();
        let visit = Visit {
            settings: &settings,
            hop: &NextHop::smtp(domain),
            route: &settings.route_to_gateway(domain, gateway),
            // As DSNs of the domain would come: what it says of us holds for those as well.
            sender: &domain.to_string(),
            tries_max: usize::MAX,
        };
        let failures = match timeout(OPENING_MAX, self.0.open(visit)).await {
            Ok(Ok(session)) => return Ok(session),
            Ok(Err(failures)) => failures,
            Err(_) => return Err(format!("no session in {} seconds", OPENING_MAX.as_secs())),
        };
        Err(failures.last().map_or_else(|| format!("{domain} has no host"), ToString::to_string))
    }
}

#[async_trait]
impl CallAhead for Inquirer {
    async fn ask(&self, gateway: &Arc<Gateway>, address: &Mailbox) -> Answer {
        let mut session = match self.open(gateway, address.host()).await {
            Ok(session) => session,
            Err(reason) => return Answer::Unreachable(reason),
        };
        let asking = asked(&mut session.connection, &session.host, address);
        let Ok(answer) = timeout(ASKING_MAX, asking).await else {
            return Answer::Unclear(format!("{} did not answer in time", session.host));
        };
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
        Err(error) => return Answer::Unclear(format!("{host}: {error}")),
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
    connection.ask(&Recipient::new(address.clone()), ASKING_MAX).await
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
