//! What is asked of every process that serves next hops, and answered by each for itself.
//!
//! Unlike a question about jobs, which the owner of a partition answers, it may be about what a
//! process did before a partition went to another. The queue knows neither question nor answer.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Message;
use futures::future::BoxFuture;
use futures::stream::StreamExt;
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
pub(crate) async fn ask(shared: &Shared, text: String) -> Result<Vec<String>, Cause> {
    let mut others: HashSet<String> = ownership::members(shared).await?;
    others.remove(&shared.writer);
    if others.is_empty() {
        return Ok(Vec::new());
    }
    // Where owners answer: roles do not hear what others are answered.
    let inbox = format!("postrider.answer.{:016x}", rand::random::<u64>());
    let client = &shared.broker.client;
    let mut answers = client.subscribe(inbox.clone()).await?;
    let said = Said { process: shared.writer.clone(), text };
    client.publish_with_reply(SUBJECT, inbox, serde_json::to_vec(&said)?.into()).await?;
    let deadline = Instant::now() + PATIENCE;
    let mut heard = Vec::new();
    while !others.is_empty() {
        let Ok(Some(message)) = timeout_at(deadline, answers.next()).await else { break };
        let Said { process, text } = serde_json::from_slice(&message.payload)?;
        if others.remove(&process) {
            heard.push(text);
        }
    }
    if !others.is_empty() {
        tracing::debug!(silent = others.len(), "not everybody answered");
    }
    Ok(heard)
}
