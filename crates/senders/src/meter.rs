//! What a process has of the pool, and who uses it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mail_types::Timestamp;

use crate::limits::{Account, Limits};
use crate::pool::{Ask, LeaseError, Pool, Share};
use crate::usage::Exceeded;

/// The largest share that is asked for: asking costs the more the more often.
const WANTED_MAX: u32 = 1024;
/// Shares of an account that wait to be given back.
const SHARES_MAX: usize = 32;
/// How long an account is remembered that sends nothing, and how long nobody is told again that
/// its limit is reached.
const REST: Duration = Duration::from_secs(3600);
/// The same of a pool that does not answer.
const SILENCE: Duration = Duration::from_secs(60);
/// So many accounts may be remembered before it is looked who rests.
const SWEEP_MIN: usize = 1024;

/// Counts the recipients of all sessions of a process.
pub struct Meter {
    pool: Arc<dyn Pool>,
    accounts: Mutex<Accounts>,
}

#[derive(Default)]
struct Accounts {
    states: HashMap<Account, State>,
    /// At so many it is swept next.
    sweep_at: usize,
    /// When it was told last that the pool does not answer.
    told_at: Option<Timestamp>,
}

/// What the process has of an account.
#[derive(Default)]
struct State {
    /// The last one may be good; the others are to be given back.
    shares: Vec<Share>,
    /// The last lease.
    lent: Option<Share>,
    seen_at: Option<Timestamp>,
    told_at: Option<Timestamp>,
}

/// Why a recipient is too many.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    Exceeded {
        account: Account,
        exceeded: Exceeded,
        /// Nobody was told so within the hour.
        is_news: bool,
    },
    /// The pool does not answer.
    Unknown {
        why: String,
        /// Nobody was told so within the minute, of any account.
        is_news: bool,
    },
}

impl Meter {
    pub fn new(pool: Arc<dyn Pool>) -> Arc<Self> {
        Arc::new(Self { pool, accounts: Mutex::default() })
    }

    /// Begins to count the recipients of a transaction, each against all of these accounts that
    /// have a limit.
    pub fn tally(self: &Arc<Self>, accounts: impl IntoIterator<Item = (Account, Limits)>) -> Tally {
        let limited = accounts.into_iter().filter(|(_, limits)| !limits.is_empty());
        let counted = |(account, limits)| Counted { account, limits, taken: Vec::new() };
        Tally { meter: Arc::clone(self), accounts: limited.map(counted).collect() }
    }

    /// Counts a recipient; returns when that was, as the pool has it.
    async fn take(
        &self,
        account: &Account,
        limits: Limits,
        now: Timestamp,
    ) -> Result<Timestamp, Refusal> {
        let ask = {
            let mut accounts = self.accounts();
            accounts.sweep(now);
            let state = accounts.states.entry(account.clone()).or_default();
            state.seen_at = Some(now);
            match state.use_one(now) {
                Some(at) => return Ok(at),
                None => state.ask(limits, now),
            }
        };
        // Whoever goes away meanwhile leaves what was leased counted and unused.
        let leased = self.pool.lease(account, &ask, now).await;
        let mut accounts = self.accounts();
        let state = accounts.states.entry(account.clone()).or_default();
        match leased {
            Ok(count) => {
                state.lent = Some(Share { at: now, count });
                state.put(Share { at: now, count: count.saturating_sub(1) });
                Ok(now)
            }
            Err(error) => {
                ask.back.into_iter().for_each(|share| state.put(share));
                Err(match error {
                    LeaseError::Unknown(why) => {
                        let is_news = is_news(&mut accounts.told_at, now, SILENCE);
                        Refusal::Unknown { why, is_news }
                    }
                    LeaseError::Exceeded(exceeded) => {
                        let is_news = is_news(&mut state.told_at, now, REST);
                        Refusal::Exceeded { account: account.clone(), exceeded, is_news }
                    }
                })
            }
        }
    }

    fn give_back(&self, account: &Account, shares: impl IntoIterator<Item = Share>) {
        let mut accounts = self.accounts();
        let state = accounts.states.entry(account.clone()).or_default();
        shares.into_iter().for_each(|share| state.put(share));
    }

    /// A panic while counting leaves counts, not broken ones.
    fn accounts(&self) -> MutexGuard<'_, Accounts> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Accounts {
    fn sweep(&mut self, now: Timestamp) {
        if self.states.len() < self.sweep_at.max(SWEEP_MIN) {
            return;
        }
        let rests = |state: &State| state.seen_at.is_none_or(|at| now.since(at) > REST);
        self.states.retain(|_, state| !rests(state));
        self.sweep_at = self.states.len() * 2;
    }
}

impl State {
    /// Uses one recipient of a share that is still good.
    fn use_one(&mut self, now: Timestamp) -> Option<Timestamp> {
        let good = |share: &&mut Share| share.is_good(now) && share.count > 0;
        let share = self.shares.iter_mut().find(good)?;
        share.count -= 1;
        Some(share.at)
    }

    /// Asks for more with each lease of a step, and gives back what is no longer good.
    fn ask(&mut self, limits: Limits, now: Timestamp) -> Ask {
        let before = self.lent.filter(|lent| lent.is_good(now)).map_or(0, |lent| lent.count);
        let wanted = before.saturating_mul(2).clamp(1, WANTED_MAX);
        let back = std::mem::take(&mut self.shares);
        Ask { limits, wanted, back }
    }

    fn put(&mut self, share: Share) {
        put(&mut self.shares, share);
        if self.shares.len() > SHARES_MAX {
            // It stays counted.
            self.shares.remove(0);
        }
    }
}

/// Whether what was told last is longer ago than this; it is told now then.
fn is_news(told_at: &mut Option<Timestamp>, now: Timestamp, pause: Duration) -> bool {
    let is_news = told_at.is_none_or(|at| now.since(at) > pause);
    if is_news {
        *told_at = Some(now);
    }
    is_news
}

/// Shares of one step are one.
fn put(shares: &mut Vec<Share>, share: Share) {
    match shares.iter_mut().find(|same| same.is_good(share.at)) {
        Some(same) => same.count = same.count.saturating_add(share.count),
        None if share.count > 0 => shares.push(share),
        None => {}
    }
}

/// The recipients of a transaction. Dropped, they count no more, unless they are kept.
pub struct Tally {
    meter: Arc<Meter>,
    accounts: Vec<Counted>,
}

struct Counted {
    account: Account,
    limits: Limits,
    taken: Vec<Share>,
}

impl Tally {
    /// Counts a recipient.
    ///
    /// # Errors
    /// It is too many for one of the accounts, and counts for none.
    pub async fn take(&mut self, now: Timestamp) -> Result<(), Refusal> {
        for n in 0..self.accounts.len() {
            let Counted { account, limits, .. } = &self.accounts[n];
            match self.meter.take(account, *limits, now).await {
                Ok(at) => put(&mut self.accounts[n].taken, Share { at, count: 1 }),
                Err(refusal) => {
                    let counted = self.accounts.iter_mut().take(n);
                    counted.for_each(|counted| counted.give_one_back(&self.meter));
                    return Err(refusal);
                }
            }
        }
        Ok(())
    }

    /// The message is accepted: what was counted stays counted.
    pub fn keep(&mut self) {
        self.accounts.iter_mut().for_each(|counted| counted.taken.clear());
    }
}

impl Counted {
    fn give_one_back(&mut self, meter: &Meter) {
        let Some(last) = self.taken.last_mut().filter(|last| last.count > 0) else { return };
        last.count -= 1;
        meter.give_back(&self.account, [Share { count: 1, ..*last }]);
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        for counted in &mut self.accounts {
            if !counted.taken.is_empty() {
                self.meter.give_back(&counted.account, counted.taken.drain(..));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::in_memory::InMemory;
    use crate::limits::{Period, Scope};
    use crate::usage::Usage;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_ms(1_795_388_700_000 + seconds * 1000)
    }

    fn account(scope: Scope, name: &str) -> Account {
        Account { scope, name: name.into() }
    }

    fn hourly(limit: u32) -> Limits {
        Limits { recipients_per_hour: Some(limit), recipients_per_day: None }
    }

    fn alice(limit: u32) -> [(Account, Limits); 1] {
        [(account(Scope::Mailbox, "alice@d.test"), hourly(limit))]
    }

    fn take(tally: &mut Tally, now: Timestamp) -> Result<(), Refusal> {
        // None of these pools waits.
        tally.take(now).now_or_never().unwrap()
    }

    fn is_exceeded(taken: &Result<(), Refusal>) -> bool {
        matches!(taken, Err(Refusal::Exceeded { .. }))
    }

    /// Counts for many processes, and can be away.
    #[derive(Default)]
    struct Shared {
        usages: Mutex<HashMap<Account, Usage>>,
        leases: Mutex<Vec<u32>>,
        is_away: Mutex<bool>,
    }

    #[async_trait::async_trait]
    impl Pool for Shared {
        async fn lease(
            &self,
            account: &Account,
            ask: &Ask,
            now: Timestamp,
        ) -> Result<u32, LeaseError> {
            if *self.is_away.lock().unwrap() {
                return Err(LeaseError::Unknown("away".to_owned()));
            }
            let mut usages = self.usages.lock().unwrap();
            let mut usage = usages.get(account).cloned().unwrap_or_default();
            let granted = ask.of(&mut usage, now)?;
            usages.insert(account.clone(), usage);
            self.leases.lock().unwrap().push(granted);
            Ok(granted)
        }
    }

    #[test]
    fn what_is_refused_does_not_count() {
        let meter = Meter::new(Arc::new(InMemory::default()));
        for _ in 0..5 {
            // Never kept: reset, refused, or cut off.
            let mut dropped = meter.tally(alice(3));
            assert!((0..3).all(|_| take(&mut dropped, at(0)).is_ok()));
            assert!(is_exceeded(&take(&mut dropped, at(0))));
        }
        let mut kept = meter.tally(alice(3));
        assert!((0..3).all(|_| take(&mut kept, at(10)).is_ok()));
        kept.keep();
        drop(kept);
        assert!(is_exceeded(&take(&mut meter.tally(alice(3)), at(3600))));
        assert!(take(&mut meter.tally(alice(3)), at(3901)).is_ok());
    }

    /// A message that took long is given back to the step that it was counted in.
    #[test]
    fn what_is_refused_late_does_not_count() {
        let meter = Meter::new(Arc::new(InMemory::default()));
        let mut slow = meter.tally(alice(3));
        assert!((0..3).all(|_| take(&mut slow, at(0)).is_ok()));
        assert!(is_exceeded(&take(&mut meter.tally(alice(3)), at(1200))));
        drop(slow);
        let mut tally = meter.tally(alice(3));
        assert!((0..3).all(|_| take(&mut tally, at(1200)).is_ok()));
        assert!(is_exceeded(&take(&mut tally, at(1200))));
    }

    #[test]
    fn a_recipient_counts_for_all_or_for_none() {
        let meter = Meter::new(Arc::new(InMemory::default()));
        let of = |name: &str, domain: u32| {
            let domain = (account(Scope::Domain, "d.test"), hourly(domain));
            meter.tally([(account(Scope::Mailbox, name), hourly(3)), domain])
        };
        let mut alice = of("alice@d.test", 4);
        assert!((0..3).all(|_| take(&mut alice, at(0)).is_ok()));
        alice.keep();
        let mut bob = of("bob@d.test", 4);
        assert!(take(&mut bob, at(0)).is_ok());
        for _ in 0..5 {
            let refused = take(&mut bob, at(0));
            let Err(Refusal::Exceeded { account, exceeded, .. }) = refused else {
                panic!("{refused:?}");
            };
            assert_eq!((account.scope, exceeded.period), (Scope::Domain, Period::Hour));
        }
        bob.keep();
        // Of his three, bob has used one: what the domain refused took none of them.
        let mut bob = of("bob@d.test", 9);
        assert!((0..2).all(|_| take(&mut bob, at(0)).is_ok()));
        assert!(is_exceeded(&take(&mut bob, at(0))));
    }

    #[test]
    fn it_is_told_once_an_hour() {
        let meter = Meter::new(Arc::new(InMemory::default()));
        let mut tally = meter.tally(alice(1));
        take(&mut tally, at(0)).unwrap();
        let mut is_news = |seconds| match take(&mut tally, at(seconds)) {
            Err(Refusal::Exceeded { is_news, .. }) => is_news,
            other => panic!("{other:?}"),
        };
        assert_eq!([is_news(0), is_news(1), is_news(3600)], [true, false, false]);
    }

    #[test]
    fn without_a_limit_nothing_is_asked() {
        let shared = Arc::new(Shared::default());
        *shared.is_away.lock().unwrap() = true;
        let meter = Meter::new(shared);
        let limits = Limits::default();
        let mut tally = meter.tally([(account(Scope::Mailbox, "alice@d.test"), limits)]);
        assert!((0..100).all(|_| take(&mut tally, at(0)).is_ok()));
    }

    #[test]
    fn a_busy_process_asks_seldom_and_gives_back() {
        let shared = Arc::new(Shared::default());
        let (one, two) = (Meter::new(shared.clone()), Meter::new(shared.clone()));
        let mut tally = one.tally(alice(1000));
        assert!((0..300).all(|_| take(&mut tally, at(0)).is_ok()));
        tally.keep();
        let leases = std::mem::take(&mut *shared.leases.lock().unwrap());
        assert!(leases.len() < 20 && leases[..4] == [1, 2, 4, 8], "{leases:?}");
        // In the next step what was not used counts no more.
        let mut tally = one.tally(alice(1000));
        take(&mut tally, at(300)).unwrap();
        tally.keep();
        let mut rest = two.tally(alice(1000));
        assert_eq!((0..1000).filter(|_| take(&mut rest, at(300)).is_ok()).count(), 699);
    }

    #[test]
    fn processes_together_keep_the_limit() {
        let shared = Arc::new(Shared::default());
        let meters = [0; 3].map(|_| Meter::new(shared.clone()));
        let mut sent = 0;
        for n in 0..200 {
            let mut tally = meters[n % 3].tally(alice(50));
            sent += usize::from(take(&mut tally, at(0)).is_ok());
            tally.keep();
        }
        // Near the limit shares are of one, so that hardly any is left over.
        assert!((48..=50).contains(&sent), "{sent}");
    }

    #[test]
    fn while_nobody_answers_the_last_share_is_what_there_is() {
        let shared = Arc::new(Shared::default());
        let meter = Meter::new(shared.clone());
        let mut tally = meter.tally(alice(1000));
        assert!((0..4).all(|_| take(&mut tally, at(0)).is_ok()));
        *shared.is_away.lock().unwrap() = true;
        // Leased were 1, 2 and 4.
        assert!((0..3).all(|_| take(&mut tally, at(0)).is_ok()));
        for (seconds, is_news) in [(0, true), (60, false), (61, true)] {
            let why = "away".to_owned();
            assert_eq!(take(&mut tally, at(seconds)), Err(Refusal::Unknown { why, is_news }));
        }
        tally.keep();
        *shared.is_away.lock().unwrap() = false;
        assert!(take(&mut tally, at(0)).is_ok());
    }

    #[test]
    fn who_rests_is_forgotten() {
        let meter = Meter::new(Arc::new(InMemory::default()));
        for n in 0..5000 {
            let name = format!("u{n}@d.test");
            let mut tally = meter.tally([(account(Scope::Mailbox, &name), hourly(1))]);
            take(&mut tally, at(n * 10)).unwrap();
            tally.keep();
        }
        assert!(meter.accounts().states.len() < 2 * SWEEP_MIN);
    }
}
