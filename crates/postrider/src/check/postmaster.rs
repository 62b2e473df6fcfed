//! Who reads what is written to postmaster.

use domains::{Destination, Resolution, Table};
use mail_types::{Domain, ForwardPath};

use super::Site;
use super::finding::{Finding, Level, What};

const WELL_MAX: usize = 5;

/// Where a role address leads.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Reader {
    /// A mailbox here, beside others or not, or whoever reads it at the domain's own server.
    Here(String),
    /// Other servers only.
    Elsewhere(String),
    Nobody,
}

pub(super) fn findings(site: &Site) -> Vec<Finding> {
    // That there is none was said before.
    let Some(table) = &site.table else { return Vec::new() };
    let domains = table.hosted_domains();
    let of_domain = domains.iter().map(|domain| {
        let address = format!("postmaster@{domain}");
        judge(&address, &reader_of(table, "postmaster", domain))
    });
    let of_none = judge("<postmaster>", &reader(table, &ForwardPath::Postmaster));
    let mut findings = shortened([of_none].into_iter().chain(of_domain));
    let is_read = |domain: &Domain| reader_of(table, "abuse", domain) != Reader::Nobody;
    let without_abuse: Vec<&Domain> =
        domains.into_iter().filter(|domain| !is_read(domain)).collect();
    if !without_abuse.is_empty() {
        findings.push(hint_abuse(&without_abuse));
    }
    findings
}

/// What is well is told of the first few only.
fn shortened(findings: impl Iterator<Item = Finding>) -> Vec<Finding> {
    let (well, mut told): (Vec<Finding>, Vec<Finding>) =
        findings.partition(|finding| finding.level == Level::Ok);
    let more = well.len().saturating_sub(WELL_MAX);
    if more > 0 {
        told.push(What::Postmaster.ok(format!("{more} more domains have one, too")));
    }
    well.into_iter().take(WELL_MAX).chain(told).collect()
}

fn reader_of(table: &Table, role: &str, domain: &Domain) -> Reader {
    ForwardPath::parse(&format!("{role}@{domain}"))
        .map_or(Reader::Nobody, |path| reader(table, &path))
}

fn reader(table: &Table, path: &ForwardPath) -> Reader {
    let destinations = match table.resolve(path) {
        Resolution::Local(destinations) => destinations,
        Resolution::CallAhead { address, .. } => return Reader::Here(address.to_string()),
        Resolution::Remote(_) | Resolution::UnknownRecipient => return Reader::Nobody,
    };
    let here = destinations.iter().find_map(|destination| match destination {
        Destination::Mailbox { address } | Destination::Gateway { address } => {
            Some(Reader::Here(address.to_string()))
        }
        Destination::Remote { .. } => None,
    });
    let elsewhere = destinations.iter().find_map(|destination| match destination {
        Destination::Remote { address } => Some(Reader::Elsewhere(address.to_string())),
        Destination::Mailbox { .. } | Destination::Gateway { .. } => None,
    });
    here.or(elsewhere).unwrap_or(Reader::Nobody)
}

fn judge(address: &str, reader: &Reader) -> Finding {
    match reader {
        Reader::Here(mailbox) => What::Postmaster.ok(format!("{address} leads to {mailbox}")),
        Reader::Elsewhere(mailbox) => What::Postmaster.warning(
            format!("{address} leads to {mailbox} only, on another server"),
            "add a mailbox here: mail that cannot leave is what postmaster hears of",
        ),
        Reader::Nobody => What::Postmaster.error(
            format!("{address} goes nowhere (RFC 5321 §4.5.1)"),
            "add an alias: {match: postmaster, to: [an address]}",
        ),
    }
}

/// No more than a hint: no standard demands it, and complaints go there first.
fn hint_abuse(domains: &[&Domain]) -> Finding {
    let first = domains.first().map_or("", |domain| domain.as_str());
    let more = match domains.len() {
        1 => String::new(),
        count => format!(" and {} other domains", count - 1),
    };
    What::Postmaster.ok(format!("hint: abuse@{first}{more} would be of use, too (RFC 2142 §2)"))
}

#[cfg(test)]
mod tests {
    use domains::Settings;

    use super::*;

    fn table(aliases: &str) -> Table {
        let domain = format!(
            "apiVersion: postrider.dev/v1alpha1\nkind: MailDomain\nmetadata: {{name: a}}\n\
             spec:\n  domain: a.example\n  inbound:\n    aliases:\n{aliases}---\n\
             apiVersion: postrider.dev/v1alpha1\nkind: Mailbox\nmetadata: {{name: b}}\n\
             spec:\n  address: b@a.example\n"
        );
        Table::from_yaml([("a.yaml", domain.as_str())], &Settings::default()).unwrap()
    }

    #[test]
    fn somebody_reads_it() {
        let domain = Domain::parse("a.example").unwrap();
        let here = table("    - {match: postmaster, to: [c@c.example, b@a.example]}\n");
        let reader = reader_of(&here, "postmaster", &domain);
        assert_eq!(reader, Reader::Here("b@a.example".into()));
        assert_eq!(judge("postmaster@a.example", &reader).level, Level::Ok);
        assert_eq!(reader_of(&here, "abuse", &domain), Reader::Nobody);
        let away = table("    - {match: postmaster, to: [c@c.example]}\n");
        let reader = super::reader(&away, &ForwardPath::Postmaster);
        assert_eq!(judge("<postmaster>", &reader).level, Level::Warning);
        assert_eq!(judge("<postmaster>", &Reader::Nobody).level, Level::Error);
    }

    #[test]
    fn many_domains_are_not_many_lines() {
        let well = |n| What::Postmaster.ok(format!("d{n}"));
        let bad = What::Postmaster.error("goes nowhere", "add one");
        let findings = shortened((0..9).map(well).chain([bad]));
        assert_eq!(findings.len(), WELL_MAX + 2);
        assert_eq!(findings[WELL_MAX].level, Level::Error);
        assert_eq!(findings[WELL_MAX + 1].detail, "4 more domains have one, too");
    }

    #[test]
    fn abuse_is_a_hint() {
        let [a, b] = ["a.example", "b.example"].map(|name| Domain::parse(name).unwrap());
        let hint = hint_abuse(&[&a, &b]);
        assert_eq!(hint.level, Level::Ok);
        assert!(hint.detail.contains("abuse@a.example and 1 other domains"), "{hint}");
    }
}
