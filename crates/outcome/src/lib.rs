//! From what an attempt found out to what the queue records: shared by the roles that deliver.
//!
//! ```text
//! role: [Verdict] ─▶ Settler::attempt ─▶ Plan ─┬─▶ Plan::news       (the role logs them)
//!                    Settler::deadline         └─▶ Plan::settlement ─▶ queue
//!                    Settler::cancellation              ▲
//!                                           Original ───┘ (read only if a DSN returns it)
//! ```
//!
//! Here it is decided whether a recipient is tried again, expires or is done, and who hears of it
//! by DSN (RFC 3461). It knows neither SMTP nor mailboxes, nor where a DSN goes: that is [`Route`].
//!
//! Failure behaviour: what cannot be reported (null sender, a reverse-path that goes nowhere) is
//! in [`Plan::double_bounces`], for the log. Content that cannot be read at an attempt is a reason
//! to quarantine, never to drop; a DSN whose original cannot be read goes without it.

mod due;
mod original;
mod plan;
mod report;
mod verdict;

pub use due::due_recipients;
pub use original::{Original, OriginalPart};
pub use plan::{Effort, Fate, News, Plan, Settler, expires};
pub use report::Route;
pub use verdict::{Delivery, Outcome, Verdict};
