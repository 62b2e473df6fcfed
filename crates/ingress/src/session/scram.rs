//! Logging in by SCRAM-SHA-256: the password does not travel.

use std::sync::Arc;

use domains::scram::{self, Begun, Exchange};
use domains::{Claimant, Table};
use rand::distr::{Alphanumeric, SampleString};
use smtp::Answer;

use super::Session;
use crate::auth::Hashes;
use crate::replies;

/// Of our nonce: more than 128 bits.
const NONCE_CHARS: usize = 24;

/// A login under way.
pub(super) struct ScramLogin {
    login: String,
    claimant: Claimant,
    table: Arc<Table>,
    exchange: Exchange,
    /// Whose keys these are; `None` when nobody is let in, whatever the proof.
    hash: Option<String>,
    is_proven: bool,
}

impl Session {
    /// The client says who it is, and is told a salt: also who does not exist, or has no keys.
    pub(super) async fn begin_scram(&mut self, message: &str) -> Answer {
        self.scram = None;
        let Ok(begun) = Begun::parse(message) else {
            return self.refuse("auth", replies::BAD_RESPONSE);
        };
        if self.shared.authenticator.is_blocked(self.client) {
            return self.refuse_login(&begun.login, "blocked", replies::TOO_MANY_FAILURES);
        }
        let (table, claimant) = match self.shared.claimant(&begun.login, self.peer).await {
            Ok(found) => found,
            Err(refusal) => return self.refuse("auth", refusal),
        };
        let (keys, hash) = match Hashes::of(&claimant) {
            Hashes::Own(hashes) => scram::keys_of(&begun.login, &hashes, true),
            Hashes::StandIn(hashes) => scram::keys_of(&begun.login, &hashes, false),
        };
        let nonce = Alphanumeric.sample_string(&mut rand::rng(), NONCE_CHARS);
        let exchange = Exchange::new(&begun, keys, &nonce);
        let challenge = exchange.challenge().to_owned();
        let login = begun.login;
        let under_way = ScramLogin { login, claimant, table, exchange, hash, is_proven: false };
        self.scram = Some(Box::new(under_way));
        Answer::Challenge(challenge)
    }

    /// The client proves that it has the password, is shown that we know it, and says that it has
    /// seen that (RFC 4954 §4: success has no message of its own).
    pub(super) async fn go_on_with_scram(&mut self, message: &str) -> Answer {
        let Some(mut under_way) = self.scram.take() else {
            return self.refuse("auth", replies::BAD_RESPONSE);
        };
        match (under_way.is_proven, under_way.hash.clone()) {
            (true, Some(hash)) if message.is_empty() => {
                let ScramLogin { login, claimant, table, .. } = *under_way;
                self.log_in(claimant, hash, table);
                return Answer::AcceptWith(login);
            }
            (true, _) => return self.refuse("auth", replies::BAD_RESPONSE),
            // Others may have guessed since it began: each connection would have a guess more.
            (false, _) if self.shared.authenticator.is_blocked(self.client) => {
                let refusal = replies::TOO_MANY_FAILURES;
                return self.refuse_login(&under_way.login, "blocked", refusal);
            }
            (false, hash) => {
                let finished = under_way.exchange.finish(message);
                if let Some(signature) = finished.ok().filter(|_| hash.is_some()) {
                    under_way.is_proven = true;
                    self.scram = Some(under_way);
                    return Answer::Challenge(signature);
                }
            }
        }
        self.shared.authenticator.punish(self.client).await;
        self.refuse_login(&under_way.login, "rejected", replies::BAD_CREDENTIALS)
    }
}
