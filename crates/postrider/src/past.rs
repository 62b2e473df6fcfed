//! What became of mail, from the history of this process, or of all that share the queue.

use std::sync::Arc;

use async_trait::async_trait;
use futures::FutureExt;
use history::{History, Outcomes, Past, PastError, Remains};
use mail_types::QueueId;
use queue_jetstream::JetQueue;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::backend::Backend;

/// Octets of an answer to another process: servers pass on no more.
const ANSWER_MAX: usize = 400_000;

/// With the embedded log there is this process; on JetStream all answer each other.
pub(crate) fn of(backend: &Backend, history: History) -> Arc<dyn Past> {
    match backend {
        Backend::Log(_) => Arc::new(history),
        Backend::JetStream(queue) => {
            let own = history.clone();
            queue.answer_everybody(Arc::new(move |asked| answer(own.clone(), asked).boxed()));
            Arc::new(Everybody { queue: Arc::clone(queue), own: history })
        }
    }
}

/// What processes ask each other.
#[derive(Debug, Serialize, Deserialize)]
enum Question {
    Message(QueueId),
    Outcomes,
}

/// An answer is empty when the question is of a newer version, or the files cannot be read.
async fn answer(history: History, asked: String) -> String {
    let said = match serde_json::from_str(&asked) {
        Ok(Question::Message(message)) => history.of(message).await.map(|found| short(&found)),
        Ok(Question::Outcomes) => {
            let outcomes = history.outcomes().await;
            outcomes.map(|outcomes| serde_json::to_string(&outcomes).unwrap_or_default())
        }
        Err(_) => return String::new(),
    };
    said.unwrap_or_else(|error| {
        tracing::warn!(event = "history_unread", %error, "another process asked for it");
        String::new()
    })
}

/// As many as may be sent, a line each; the oldest are left out.
fn short(found: &[Remains]) -> String {
    let mut lines = Vec::new();
    let mut left = ANSWER_MAX;
    for remains in found.iter().rev() {
        let line = serde_json::to_string(remains).unwrap_or_default();
        let Some(rest) = left.checked_sub(line.len() + 1) else { break };
        left = rest;
        lines.push(line);
    }
    lines.reverse();
    lines.join("\n")
}

/// All processes that share a queue, this one included.
struct Everybody {
    queue: Arc<JetQueue>,
    own: History,
}

impl Everybody {
    /// What the others say, a value a line. What cannot be read is of another version.
    async fn ask<T: DeserializeOwned>(&self, question: &Question) -> Result<Vec<T>, PastError> {
        let question = serde_json::to_string(question).unwrap_or_default();
        let answers = self.queue.ask_everybody(question).await;
        let answers = answers.map_err(|error| PastError::Others(error.into()))?;
        let lines = answers.iter().flat_map(|answer| answer.lines());
        Ok(lines.filter_map(|line| serde_json::from_str(line).ok()).collect())
    }
}

#[async_trait]
impl Past for Everybody {
    async fn of(&self, message: QueueId) -> Result<Vec<Remains>, PastError> {
        let question = Question::Message(message);
        let (own, others) = tokio::join!(self.own.of(message), self.ask(&question));
        let mut all = own?;
        all.extend(others?);
        all.sort_by_key(|remains: &Remains| remains.at);
        Ok(all)
    }

    async fn outcomes(&self) -> Result<Outcomes, PastError> {
        let own = self.own.outcomes().await?;
        let others: Vec<Outcomes> = self.ask(&Question::Outcomes).await?;
        Ok(Outcomes::sum([own].into_iter().chain(others)))
    }
}
