//! What became of mail, from the history of this process, or of all that share the queue.

use std::sync::Arc;

use async_trait::async_trait;
use futures::FutureExt;
use history::{History, Kept, Outcomes, Past, PastError, Remains};
use mail_types::QueueId;
use queue_jetstream::{Heard, JetQueue};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::backend::Backend;

/// Octets of an answer to another process: servers pass on no more.
const ANSWER_MAX: usize = 400_000;
/// A line that nobody can read, of what is not told: the answer is not whole.
const MORE: &str = "more";

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

/// Values, one a line. There is none when the question is of a newer version, or the files cannot
/// be read.
async fn answer(history: History, asked: String) -> String {
    let said = match serde_json::from_str(&asked) {
        Ok(Question::Message(message)) => history.of(message).await.map(|k| short(&k.remains)),
        Ok(Question::Outcomes) => {
            let outcomes = history.outcomes().await;
            outcomes.map(|outcomes| serde_json::to_string(&outcomes).unwrap_or_default())
        }
        Err(_) => return MORE.to_owned(),
    };
    said.unwrap_or_else(|error| {
        tracing::warn!(event = "history_unread", %error, "another process asked for it");
        MORE.to_owned()
    })
}

/// As many as may be sent, a line each; the oldest are left out.
fn short(found: &[Remains]) -> String {
    let mut lines = Vec::new();
    let mut left = ANSWER_MAX;
    for remains in found.iter().rev() {
        let line = serde_json::to_string(remains).unwrap_or_default();
        let Some(rest) = left.checked_sub(line.len() + 1) else {
            lines.push(MORE.to_owned());
            break;
        };
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
    /// What the others say, and of how many something is missing.
    async fn ask<T: DeserializeOwned>(
        &self,
        question: &Question,
    ) -> Result<(Vec<T>, u32), PastError> {
        let question = serde_json::to_string(question).unwrap_or_default();
        let heard = self.queue.ask_everybody(question).await;
        Ok(read(&heard.map_err(|error| PastError::Others(error.into()))?))
    }
}

/// The values of answers, and of how many processes something is missing. A line that cannot be
/// read is [`MORE`], or of another version.
fn read<T: DeserializeOwned>(heard: &Heard) -> (Vec<T>, u32) {
    let (mut values, mut unheard) = (Vec::new(), heard.unheard);
    for answer in &heard.answers {
        let before = values.len();
        values.extend(answer.lines().filter_map(|line| serde_json::from_str(line).ok()));
        unheard += u32::from(values.len() - before < answer.lines().count());
    }
    (values, unheard)
}

#[async_trait]
impl Past for Everybody {
    async fn of(&self, message: QueueId) -> Result<Kept, PastError> {
        let question = Question::Message(message);
        let (own, others) = tokio::join!(self.own.of(message), self.ask(&question));
        let (mut remains, (others, unheard)) = (own?.remains, others?);
        remains.extend(others);
        remains.sort_by_key(|remains: &Remains| remains.at);
        Ok(Kept { remains, unheard })
    }

    async fn outcomes(&self) -> Result<Outcomes, PastError> {
        let own = self.own.outcomes().await?;
        let (others, unheard) = self.ask(&Question::Outcomes).await?;
        Ok(Outcomes::sum([own].into_iter().chain(others), unheard))
    }
}

#[cfg(test)]
mod tests {
    use history::What;
    use mail_types::Timestamp;
    use queue::JobId;

    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_ms(1_795_388_895_042);

    fn dropped(n: u16) -> Remains {
        let job = JobId { message: QueueId::new(NOW, 1), index: n };
        Remains { at: NOW, job, what: What::Dropped }
    }

    fn heard(answers: &[&str], unheard: u32) -> (Vec<Remains>, u32) {
        let answers = answers.iter().map(|&answer| answer.to_owned()).collect();
        read(&Heard { answers, unheard })
    }

    #[test]
    fn what_cannot_be_read_is_told_to_be_missing() {
        let own = short(&[dropped(1), dropped(2)]);
        let newer = format!("{own}\n{{\"at\": \"noon\"}}\n?");
        assert_eq!(heard(&[&own, ""], 0), (vec![dropped(1), dropped(2)], 0));
        let twice = vec![dropped(1), dropped(2), dropped(1), dropped(2)];
        assert_eq!(heard(&[&newer, MORE, &own], 1), (twice, 3));
    }

    #[test]
    fn an_answer_is_cut_and_says_so() {
        let all: Vec<Remains> = (0..10_000).map(dropped).collect();
        let said = short(&all);
        let (values, unheard) = heard(&[&said], 0);
        assert!(said.len() <= ANSWER_MAX + MORE.len(), "{}", said.len());
        assert!(values.len() < all.len() && values.ends_with(&all[9_000..]), "the newest");
        assert_eq!(unheard, 1);
    }

    #[tokio::test]
    async fn a_question_of_another_version_is_not_answered_with_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let history = History::open(dir.path(), history::Config::default(), || NOW).unwrap();
        let of = |text: &str| answer(history.clone(), text.to_owned());
        let known = serde_json::to_string(&Question::Message(QueueId::new(NOW, 1))).unwrap();
        assert_eq!(of(&known).await, "");
        assert_eq!(of("\"weather\"").await, MORE);
    }
}
