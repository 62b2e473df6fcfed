//! What is asked of every process that serves next hops, and answered by each for itself.
//!
//! Unlike a question about jobs, which the owner of a partition answers, it may be about what a
//! process did before a partition went to another. The queue knows neither question nor answer.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Message;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{Stream, StreamExt};
use queue::contract::Cause;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};

use crate::ownership;
use crate::shared::Shared;

const SUBJECT: &str = "postrider.everybody";
/// How long the slowest is waited for.
const PATIENCE: Duration = Duration::from_secs(3);
/// Questions that are answered at once.
const ANSWERS: usize = 4;
const RETRY: Duration = Duration::from_millis(300);

/// What a process answers to a question.
pub type Answer = Arc<dyn Fn(String) -> BoxFuture<'static, String> + Send + Sync>;

/// What came of a question.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Heard {
    pub answers: Vec<String>,
    /// Processes that did not answer in time, or not so that it can be read.
    pub unheard: u32,
}

#[derive(Serialize, Deserialize)]
struct Said {
    process: String,
    text: String,
}

/// Answers others until the queue is closed.
pub(crate) async fn answer(shared: Arc<Shared>, answer: Answer) {
    let work = async {
        loop {
            if let Err(error) = listen(&shared, &answer).await {
                tracing::debug!(%error, "what everybody is asked is not heard");
            }
            tokio::time::sleep(RETRY).await;
        }
    };
    shared.closed.run_until_cancelled(work).await;
}

async fn listen(shared: &Shared, answer: &Answer) -> Result<(), Cause> {
    let questions = shared.broker.client.subscribe(SUBJECT).await?;
    let answers = questions.for_each_concurrent(ANSWERS, |message| async move {
        if let Err(error) = answer_one(shared, answer, &message).await {
            tracing::debug!(%error, "a question to everybody is not answered");
        }
    });
    answers.await;
    Err("nothing is heard any more".into())
}

async fn answer_one(shared: &Shared, answer: &Answer, message: &Message) -> Result<(), Cause> {
    let Some(reply) = message.reply.clone() else { return Ok(()) };
    let Said { process, text } = serde_json::from_slice(&message.payload)?;
    if process == shared.writer {
        return Ok(());
    }
    let said = Said { process: shared.writer.clone(), text: answer(text).await };
    Ok(shared.broker.client.publish(reply, serde_json::to_vec(&said)?.into()).await?)
}

/// Asks all other processes that serve next hops; gives what those answered that did in time.
pub(crate) async fn ask(shared: &Shared, text: String) -> Result<Heard, Cause> {
    let mut others: HashSet<String> = ownership::members(shared).await?;
    others.remove(&shared.writer);
    if others.is_empty() {
        return Ok(Heard::default());
    }
    // Where owners answer: roles do not hear what others are answered.
    let inbox = format!("postrider.answer.{:016x}", rand::random::<u64>());
    let client = &shared.broker.client;
    let answers = client.subscribe(inbox.clone()).await?;
    let said = Said { process: shared.writer.clone(), text };
    client.publish_with_reply(SUBJECT, inbox, serde_json::to_vec(&said)?.into()).await?;
    Ok(hear(answers.map(|message| message.payload), others).await)
}

/// Waits for an answer of each. One that cannot be read is somebody's all the same: of another
/// version, say.
async fn hear(mut answers: impl Stream<Item = Bytes> + Unpin, mut of: HashSet<String>) -> Heard {
    let deadline = Instant::now() + PATIENCE;
    let (mut heard, mut unreadable) = (Vec::new(), 0);
    while of.len() > unreadable {
        let Ok(Some(payload)) = timeout_at(deadline, answers.next()).await else { break };
        match serde_json::from_slice(&payload) {
            Ok(Said { process, text }) if of.remove(&process) => heard.push(text),
            Ok(_) => {}
            Err(_) => unreadable += 1,
        }
    }
    Heard { answers: heard, unheard: u32::try_from(of.len()).unwrap_or(u32::MAX) }
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    fn said(process: &str) -> Bytes {
        let said = Said { process: process.to_owned(), text: format!("of {process}") };
        serde_json::to_vec(&said).unwrap().into()
    }

    async fn heard(answers: Vec<Bytes>) -> (Vec<String>, u32) {
        let of = ["a", "b", "c"].map(str::to_owned);
        // The subject stays open: what does not come is waited for.
        let answers = stream::iter(answers).chain(stream::pending());
        let Heard { answers, unheard } = hear(answers, of.into()).await;
        (answers, unheard)
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_cannot_be_read_costs_no_other() {
        let began = Instant::now();
        let other = Bytes::from_static(b"{\"process\": 7}");
        let (answers, unheard) = heard(vec![said("a"), other, said("c")]).await;
        assert_eq!((&answers[..], unheard), (&["of a".to_owned(), "of c".to_owned()][..], 1));
        assert_eq!(began.elapsed(), Duration::ZERO, "nobody is left to wait for");
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_silent_is_waited_for_and_counted() {
        let began = Instant::now();
        let (answers, unheard) = heard(vec![said("a"), said("a"), said("of no queue")]).await;
        assert_eq!((&answers[..], unheard), (&["of a".to_owned()][..], 2));
        assert_eq!(began.elapsed(), PATIENCE);
    }
}
