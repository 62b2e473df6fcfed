//! What the header fields say about forwarding the message.

use mail_types::{Domain, Mailbox, ReversePath};
use message::{from, header};
use queue::NewJob;

/// Takes out what an alias would pass on for the second time (RFC 9228): it loops, and has gone
/// that way already. Returns how many jobs these were.
pub(super) fn cut_loops(jobs: &mut Vec<NewJob>, header: &[u8]) -> usize {
    let before = jobs.len();
    let passed = header::fields(header).filter(|field| field.is("Delivered-To"));
    let passed: Vec<Vec<u8>> = passed.map(|field| field.unfolded()).collect();
    jobs.retain(|job| {
        let alias = job.forward.as_ref().map(|forward| forward.delivered_to.to_string());
        let is = |value: &Vec<u8>| {
            alias.as_ref().is_some_and(|alias| value.eq_ignore_ascii_case(alias.as_bytes()))
        };
        !passed.iter().any(is)
    });
    before - jobs.len()
}

/// Takes our word from a stranger's mail. Under a path of the alias' domain SPF would vouch for a
/// From that names it or a relative of it, which DMARC takes for a proof (RFC 7489 §3.1.2), and
/// nobody has proved anything: such mail keeps the sender's own path. Where that is in a domain of
/// ours that we send for, it is no better: such mail leaves under the null one.
pub(super) fn vouch_for_no_stranger(
    jobs: &mut [NewJob],
    sender: &ReversePath,
    header: &[u8],
    is_ours: impl Fn(&Domain) -> bool,
) {
    let claims_ours = sender.mailbox().and_then(Mailbox::domain).is_some_and(is_ours);
    let own = if claims_ours { &ReversePath::Null } else { sender };
    let from = from::mailboxes(header);
    for forward in jobs.iter_mut().filter_map(|job| job.forward.as_mut()) {
        let Some(alias) = forward.delivered_to.domain() else { continue };
        let may_align = from.as_ref().map_or(true, |from| {
            from.iter().filter_map(|mailbox| mailbox.domain()).any(|it| are_relatives(it, alias))
        });
        // It is the sender's own as well where there is no key to rewrite it with.
        if may_align || forward.reverse_path == *sender {
            forward.reverse_path = own.clone();
        }
    }
}

/// Whether two domains may have one organization: taken for granted of those whose last two labels
/// are alike, which errs on the side of not vouching.
fn are_relatives(one: &Domain, other: &Domain) -> bool {
    last_labels(one.as_str()) == last_labels(other.as_str())
}

fn last_labels(domain: &str) -> &str {
    let dot = domain.rmatch_indices('.').nth(1);
    dot.map_or(domain, |(at, _)| &domain[at + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relatives() {
        let are =
            |one: &str, other: &str| are_relatives(&one.parse().unwrap(), &other.parse().unwrap());
        assert!(are("a.example", "a.example") && are("x.a.example", "a.example"));
        assert!(are("x.a.example", "y.a.example"));
        assert!(!are("a.example", "b.example") && !are("ba.example", "a.example"));
    }
}
