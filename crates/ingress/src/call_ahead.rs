//! Recipients that only a domain's own server knows: it is asked once, and what it said is
//! remembered.
//!
//! | it says | which is true for | then |
//! |---|---|---|
//! | taken | an hour | it is asked again; without an answer, taken for 7 days since it said so |
//! | absent | 5 minutes | it is asked again |
//! | nothing | 30 seconds | it is asked again; until then about nobody |
//! | what is neither | not at all | |
//!
//! Whatever has not been said is a `450`: mail for somebody who may not exist is not taken, so that
//! none has to be sent back, and mail for somebody who may exist is not refused for good.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domains::{Answer, CallAhead, Gateway};
use mail_types::Mailbox;
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::{Instant, timeout};

use crate::metrics::Metrics;
use crate::policy::Route;
use crate::replies::{self, Canned};

/// How long somebody who was taken is not asked about again.
const TAKEN: Duration = Duration::from_secs(3600);
/// How long he is taken when there is no answer, since the last one. Longer than mail is kept.
const TAKEN_UNANSWERED: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long a new mailbox may stay unknown here.
const ABSENT: Duration = Duration::from_secs(300);
/// How long a server that cannot be reached is left alone, and how long nothing more is said of one
/// that is unclear.
const PAUSE: Duration = Duration::from_secs(30);
/// How long a turn is waited for.
const TURN_MAX: Duration = Duration::from_secs(30);
/// How long an answer is waited for then: longer than who asks takes, who can tell whether there
/// was a session. A client waits 5 minutes for the reply to RCPT (RFC 5321 §4.5.3.2.3).
const ANSWER_MAX: Duration = Duration::from_secs(75);
/// Questions put to a server at the same time.
const OF_SERVER_MAX: usize = 5;
/// The same over all servers.
const OF_ALL_MAX: usize = 100;
/// Answers of each kind that are surely remembered, the last ones; at most twice as many are.
const REMEMBERED: usize = 50_000;
/// Servers of which something is kept; beyond, those of which it says nothing are forgotten.
const SERVERS_MAX: usize = 1_000;

/// Who is asked about whom.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Question {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) address: Mailbox,
}

impl Hash for Question {
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash_short(&self.gateway, state);
        self.address.hash(state);
    }
}

/// A gateway to find what is kept of it.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Key(Arc<Gateway>);

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash_short(&self.0, state);
    }
}

/// Without the certificates, which are long: a gateway is looked for several times at each RCPT,
/// while others wait. Gateways that differ in nothing else are few.
fn hash_short<H: Hasher>(gateway: &Gateway, state: &mut H) {
    gateway.servers.hash(state);
}

/// All that has been asked.
pub(crate) struct CallAheads {
    servers: Arc<dyn CallAhead>,
    turns: Semaphore,
    known: Mutex<Known>,
    metrics: Metrics,
}

/// What is known, and what is being asked.
#[derive(Default)]
struct Known {
    taken: Recent,
    absent: Recent,
    flights: HashMap<Question, Arc<OnceCell<Answer>>>,
    servers: HashMap<Key, Arc<Server>>,
}

/// What is kept of a server.
struct Server {
    turns: Semaphore,
    /// As long as it is left alone.
    down: Pause,
    /// As long as it is not told again that it is unclear.
    unclear: Pause,
}

/// [`PAUSE`] of something, if it has begun.
#[derive(Default)]
struct Pause(Mutex<Option<Instant>>);

/// When something was said, and with which limit of size.
#[derive(Clone, Copy)]
struct Said {
    at: Instant,
    size_max: Option<u64>,
}

impl CallAheads {
    pub(crate) fn new(servers: Arc<dyn CallAhead>, metrics: Metrics) -> Self {
        Self { servers, turns: Semaphore::new(OF_ALL_MAX), known: Mutex::default(), metrics }
    }

    /// The route, if the recipient's own server takes mail for him; or why none is taken.
    pub(crate) async fn answer_for(&self, route: Route) -> Result<Route, Canned> {
        let Some(question) = &route.question else { return Ok(route) };
        let size_max = self.judge(question).await?;
        Ok(Route { size_max: route.size_max.into_iter().chain(size_max).min(), ..route })
    }

    /// The largest message that the server takes, in octets, if it says so.
    async fn judge(&self, question: &Question) -> Result<Option<u64>, Canned> {
        if let Some(said) = self.taken(question, TAKEN) {
            self.metrics.called_ahead("taken", "memory");
            return Ok(said.size_max);
        }
        if self.is_absent(question) {
            self.metrics.called_ahead("absent", "memory");
            return Err(replies::NO_SUCH_USER);
        }
        let (result, refusal) = match self.ask(question).await {
            Answer::Taken { size_max } => {
                self.metrics.called_ahead("taken", "server");
                return Ok(size_max);
            }
            Answer::Absent => {
                self.metrics.called_ahead("absent", "server");
                return Err(replies::NO_SUCH_USER);
            }
            Answer::Unclear(_) => ("unclear", replies::RECIPIENT_UNCLEAR),
            Answer::Unreachable(_) => ("unreachable", replies::SERVER_UNREACHABLE),
        };
        if let Some(said) = self.taken(question, TAKEN_UNANSWERED) {
            self.metrics.called_ahead("taken", "memory_unanswered");
            return Ok(said.size_max);
        }
        self.metrics.called_ahead(result, "server");
        Err(refusal)
    }

    fn taken(&self, question: &Question, within: Duration) -> Option<Said> {
        self.known().taken.get(question).filter(|said| said.at.elapsed() < within)
    }

    fn is_absent(&self, question: &Question) -> bool {
        self.known().absent.get(question).is_some_and(|said| said.at.elapsed() < ABSENT)
    }

    /// Asks, or waits for the answer to the same question.
    async fn ask(&self, question: &Question) -> Answer {
        let flight = Flight::join(self, question);
        // Who asks may go away: then one of those who wait asks.
        flight.cell.get_or_init(|| self.put(question)).await.clone()
    }

    /// Puts the question when it is its turn, and remembers the answer.
    async fn put(&self, question: &Question) -> Answer {
        let server = self.server(&question.gateway);
        let answer = self.answer(question, &server).await;
        match &answer {
            Answer::Taken { size_max } => {
                let said = Said { at: Instant::now(), size_max: *size_max };
                let mut known = self.known();
                known.absent.remove(question);
                known.taken.put(question.clone(), said);
            }
            Answer::Absent => {
                let said = Said { at: Instant::now(), size_max: None };
                let mut known = self.known();
                known.taken.remove(question);
                known.absent.put(question.clone(), said);
            }
            Answer::Unclear(reason) => {
                if server.unclear.begin() {
                    let recipient = question.address.to_string();
                    tracing::warn!(event = "call_ahead_unclear", recipient, reason);
                }
            }
            Answer::Unreachable(reason) => {
                if server.down.begin() {
                    let domain = question.address.host();
                    tracing::warn!(event = "call_ahead_unreachable", %domain, reason);
                }
            }
        }
        answer
    }

    async fn answer(&self, question: &Question, server: &Server) -> Answer {
        let left_alone = || Answer::Unreachable("it could not be reached a moment ago".to_owned());
        if server.down.is_on() {
            return left_alone();
        }
        // That of the server first: who waits for a slow one is in nobody else's way.
        let turn =
            timeout(TURN_MAX, async { (server.turns.acquire().await, self.turns.acquire().await) });
        let Ok((Ok(_of_server), Ok(_of_all))) = turn.await else {
            return Answer::Unclear("too many questions wait for an answer".to_owned());
        };
        if server.down.is_on() {
            return left_alone();
        }
        let asked = self.servers.ask(&question.gateway, &question.address);
        // May be dropped: nothing but a connection is lost.
        let late = |_| Answer::Unreachable("there was no answer in time".to_owned());
        timeout(ANSWER_MAX, asked).await.unwrap_or_else(late)
    }

    fn server(&self, gateway: &Arc<Gateway>) -> Arc<Server> {
        let mut known = self.known();
        if known.servers.len() >= SERVERS_MAX {
            known.servers.retain(|_, it| Arc::strong_count(it) > 1 || it.is_paused());
        }
        Arc::clone(known.servers.entry(Key(Arc::clone(gateway))).or_default())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // A panic while holding it left whole maps behind.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Server {
    fn default() -> Self {
        let turns = Semaphore::new(OF_SERVER_MAX);
        Self { turns, down: Pause::default(), unclear: Pause::default() }
    }
}

impl Server {
    fn is_paused(&self) -> bool {
        self.down.is_on() || self.unclear.is_on()
    }
}

impl Pause {
    fn is_on(&self) -> bool {
        self.until().is_some_and(|until| Instant::now() < until)
    }

    /// Whether it was not on already.
    fn begin(&self) -> bool {
        let is_news = !self.is_on();
        if is_news {
            *self.until() = Some(Instant::now() + PAUSE);
        }
        is_news
    }

    fn until(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A question that is being asked, with all who wait for the answer.
struct Flight<'a> {
    all: &'a CallAheads,
    question: &'a Question,
    cell: Arc<OnceCell<Answer>>,
}

impl<'a> Flight<'a> {
    fn join(all: &'a CallAheads, question: &'a Question) -> Self {
        let mut known = all.known();
        let cell = Arc::clone(known.flights.entry(question.clone()).or_default());
        Self { all, question, cell }
    }
}

impl Drop for Flight<'_> {
    /// The last one takes it away.
    fn drop(&mut self) {
        let mut known = self.all.known();
        // That of the map and this one.
        if known.flights.get(self.question).is_some_and(|cell| Arc::strong_count(cell) <= 2) {
            known.flights.remove(self.question);
        }
    }
}

/// What was said last, bounded: when there is enough that is new, what is old and was not needed
/// since is forgotten.
#[derive(Default)]
struct Recent {
    new: HashMap<Question, Said>,
    old: HashMap<Question, Said>,
}

impl Recent {
    fn get(&mut self, question: &Question) -> Option<Said> {
        if let Some((question, said)) = self.old.remove_entry(question) {
            self.put(question, said);
        }
        self.new.get(question).copied()
    }

    fn put(&mut self, question: Question, said: Said) {
        if self.new.len() >= REMEMBERED && !self.new.contains_key(&question) {
            self.old = std::mem::take(&mut self.new);
        }
        self.old.remove(&question);
        self.new.insert(question, said);
    }

    fn remove(&mut self, question: &Question) {
        self.new.remove(question);
        self.old.remove(question);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use async_trait::async_trait;
    use domains::{Settings, Table};
    use futures::future::join_all;
    use mail_types::Domain;
    use prometheus_client::registry::Registry;
    use tokio::sync::Notify;

    use super::*;

    /// A server that says what it is told to, one answer after the other, when it is let.
    struct Scripted {
        answers: Mutex<VecDeque<Option<Answer>>>,
        asked: Mutex<Vec<String>>,
        at_once: Mutex<(usize, usize)>,
        go: Option<Arc<Notify>>,
    }

    impl Scripted {
        /// `None` never answers; when the script is over, everybody is taken.
        fn new(answers: impl IntoIterator<Item = Option<Answer>>) -> Arc<Self> {
            Arc::new(Self {
                answers: Mutex::new(answers.into_iter().collect()),
                asked: Mutex::default(),
                at_once: Mutex::default(),
                go: None,
            })
        }

        fn waiting(go: &Arc<Notify>) -> Arc<Self> {
            let Ok(mut new) = Arc::try_unwrap(Self::new([])) else { unreachable!() };
            new.go = Some(Arc::clone(go));
            Arc::new(new)
        }

        fn asked(&self) -> usize {
            self.asked.lock().unwrap().len()
        }
    }

    /// One that is being asked.
    struct Busy<'a>(&'a Scripted);

    impl<'a> Busy<'a> {
        fn new(scripted: &'a Scripted) -> Self {
            let mut at_once = scripted.at_once.lock().unwrap();
            at_once.0 += 1;
            at_once.1 = at_once.1.max(at_once.0);
            Self(scripted)
        }
    }

    impl Drop for Busy<'_> {
        fn drop(&mut self) {
            self.0.at_once.lock().unwrap().0 -= 1;
        }
    }

    #[async_trait]
    impl CallAhead for Scripted {
        async fn ask(&self, _: &Arc<Gateway>, address: &Mailbox) -> Answer {
            self.asked.lock().unwrap().push(address.to_string());
            let _busy = Busy::new(self);
            if let Some(go) = &self.go {
                go.notified().await;
            }
            let answer = self.answers.lock().unwrap().pop_front();
            match answer {
                None => TAKES,
                Some(Some(answer)) => answer,
                Some(None) => std::future::pending().await,
            }
        }
    }

    const TAKES: Answer = Answer::Taken { size_max: None };

    fn unclear() -> Answer {
        Answer::Unclear("450 later".to_owned())
    }

    fn unreachable() -> Answer {
        Answer::Unreachable("refused".to_owned())
    }

    fn call_aheads(server: &Arc<Scripted>) -> CallAheads {
        let server = Arc::clone(server) as Arc<dyn CallAhead>;
        CallAheads::new(server, Metrics::register(&mut Registry::default()))
    }

    fn question(address: &str) -> Question {
        of_server(address, "mail.b.example")
    }

    fn of_server(address: &str, host: &str) -> Question {
        let text = format!(
            "apiVersion: postrider.dev/v1alpha1\nkind: MailDomain\nmetadata: {{name: b}}\nspec:\n  \
             domain: b.example\n  target: relay\n  relay:\n    hosts: [{host}]\n    \
             recipients: {{callAhead: true}}\n"
        );
        let table = Table::from_yaml([("f", text.as_str())], &Settings::default()).unwrap();
        let gateway = table.gateway(&Domain::parse("b.example").unwrap()).unwrap();
        Question { gateway: Arc::clone(gateway), address: address.parse().unwrap() }
    }

    async fn wait(time: Duration) {
        tokio::time::advance(time).await;
    }

    const MOMENT: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn what_was_said_is_remembered_for_its_time() {
        let limited = Answer::Taken { size_max: Some(7) };
        let server = Scripted::new([Some(limited), Some(Answer::Absent), Some(Answer::Absent)]);
        let all = call_aheads(&server);
        let (alice, bob) = (question("alice@b.example"), question("bob@b.example"));
        for _ in 0..3 {
            assert_eq!(all.judge(&alice).await, Ok(Some(7)));
            assert_eq!(all.judge(&bob).await, Err(replies::NO_SUCH_USER));
        }
        assert_eq!(server.asked(), 2);
        wait(ABSENT - MOMENT).await;
        assert_eq!(all.judge(&bob).await, Err(replies::NO_SUCH_USER));
        assert_eq!(server.asked(), 2);
        wait(MOMENT).await;
        assert_eq!(all.judge(&bob).await, Err(replies::NO_SUCH_USER), "asked again");
        assert_eq!(server.asked(), 3);
        wait(ABSENT).await;
        assert_eq!(all.judge(&bob).await, Ok(None), "there is a mailbox now");
        wait(TAKEN - 2 * ABSENT - MOMENT).await;
        assert_eq!(all.judge(&alice).await, Ok(Some(7)));
        assert_eq!(server.asked(), 4);
        wait(MOMENT).await;
        assert_eq!(all.judge(&alice).await, Ok(None), "asked again");
        assert_eq!(server.asked(), 5);
        // Another server, another answer.
        let elsewhere = of_server("alice@b.example", "other.b.example");
        assert_eq!(all.judge(&elsewhere).await, Ok(None));
        assert_eq!(server.asked(), 6);
    }

    #[tokio::test(start_paused = true)]
    async fn without_an_answer_only_who_was_taken_is_taken() {
        for (answer, refusal) in [
            (Some(unclear()), replies::RECIPIENT_UNCLEAR),
            (Some(unreachable()), replies::SERVER_UNREACHABLE),
            (None, replies::SERVER_UNREACHABLE),
        ] {
            let later = [answer.clone(), answer.clone(), answer.clone(), answer];
            let server = Scripted::new([Some(TAKES)].into_iter().chain(later));
            let all = call_aheads(&server);
            let (alice, bob) = (question("alice@b.example"), question("bob@b.example"));
            assert_eq!(all.judge(&alice).await, Ok(None));
            wait(TAKEN).await;
            assert_eq!(all.judge(&alice).await, Ok(None), "{refusal:?}");
            wait(PAUSE).await;
            assert_eq!(all.judge(&bob).await, Err(refusal));
            // More than the questions have taken.
            let rest = 3 * (ANSWER_MAX + PAUSE);
            wait(TAKEN_UNANSWERED - TAKEN - rest).await;
            assert_eq!(all.judge(&alice).await, Ok(None), "{refusal:?}");
            wait(rest).await;
            assert_eq!(all.judge(&alice).await, Err(refusal));
            assert_eq!(server.asked(), 5);
            wait(PAUSE).await;
            assert_eq!(all.judge(&bob).await, Ok(None), "it is back");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_cannot_be_reached_is_left_alone() {
        let server = Scripted::new([Some(unreachable())]);
        let all = call_aheads(&server);
        for name in ["a", "b", "c"] {
            let question = question(&format!("{name}@b.example"));
            assert_eq!(all.judge(&question).await, Err(replies::SERVER_UNREACHABLE));
        }
        assert_eq!(server.asked(), 1);
        let elsewhere = of_server("a@b.example", "other.b.example");
        assert_eq!(all.judge(&elsewhere).await, Ok(None), "others are asked");
        wait(PAUSE).await;
        assert_eq!(all.judge(&question("a@b.example")).await, Ok(None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_unclear_is_told_of_once_in_a_while_and_asked_each_time() {
        let server = Scripted::new([Some(unclear()), Some(unclear())]);
        let all = call_aheads(&server);
        let is_told = || all.server(&question("a@b.example").gateway).unclear.is_on();
        assert!(!is_told());
        for name in ["a", "b"] {
            let question = question(&format!("{name}@b.example"));
            assert_eq!(all.judge(&question).await, Err(replies::RECIPIENT_UNCLEAR));
            assert!(is_told());
            wait(PAUSE / 2).await;
        }
        assert_eq!(server.asked(), 2);
        assert!(!is_told(), "the second did not make it longer");
    }

    /// A table that is compiled again has the same gateways in other places.
    #[tokio::test(start_paused = true)]
    async fn what_was_said_outlasts_the_table() {
        let server = Scripted::new([]);
        let all = call_aheads(&server);
        for _ in 0..2 {
            assert_eq!(all.judge(&question("a@b.example")).await, Ok(None));
        }
        assert_eq!(server.asked(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn one_question_is_asked_once_however_many_ask() {
        let go = Arc::new(Notify::new());
        let server = Scripted::waiting(&go);
        let all = call_aheads(&server);
        let alice = question("alice@b.example");
        {
            // Who asked first goes away.
            let mut first = Box::pin(all.judge(&alice));
            assert!(futures::poll!(&mut first).is_pending());
        }
        let many = join_all((0..20).map(|_| all.judge(&alice)));
        let (answers, ()) = tokio::join!(many, async { go.notify_one() });
        assert!(answers.iter().all(|answer| *answer == Ok(None)));
        assert_eq!(server.asked(), 2);
        assert!(all.known().flights.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn few_questions_at_once() {
        let go = Arc::new(Notify::new());
        let server = Scripted::waiting(&go);
        let all = call_aheads(&server);
        let questions: Vec<_> = (0..20).map(|n| question(&format!("a{n}@b.example"))).collect();
        let many = join_all(questions.iter().map(|question| all.judge(question)));
        let answers = tokio::join!(many, async {
            for _ in 0..20 {
                go.notify_one();
                tokio::task::yield_now().await;
            }
        });
        assert!(answers.0.iter().all(|answer| *answer == Ok(None)));
        assert_eq!(server.at_once.lock().unwrap().1, OF_SERVER_MAX);
        // Nobody is answered: who waits for a turn is told to come again.
        let questions: Vec<_> = (0..20).map(|n| question(&format!("b{n}@b.example"))).collect();
        let answers = join_all(questions.iter().map(|question| all.judge(question))).await;
        assert!(answers.iter().all(|answer| answer.is_err_and(Canned::is_transient)));
        assert_eq!(server.asked(), 20 + OF_SERVER_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded_and_what_is_used_stays() {
        let said = Said { at: Instant::now(), size_max: None };
        let mut recent = Recent::default();
        let used = question("used@b.example");
        recent.put(used.clone(), said);
        let gateway = &used.gateway;
        for n in 0..3 * REMEMBERED {
            let address = format!("a{n}@b.example").parse().unwrap();
            recent.put(Question { gateway: Arc::clone(gateway), address }, said);
            if n % (REMEMBERED / 2) == 0 {
                assert!(recent.get(&used).is_some(), "{n}");
            }
            assert!(recent.new.len() <= REMEMBERED && recent.old.len() <= REMEMBERED);
        }
        assert!(recent.get(&question("a0@b.example")).is_none());
        recent.remove(&used);
        assert!(recent.get(&used).is_none());
    }
}
