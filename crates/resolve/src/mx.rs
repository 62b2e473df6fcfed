//! The order in which a domain's mail exchangers are tried (RFC 5321 §5.1).

use rand::Rng;
use rand::seq::SliceRandom;

use crate::host_name::HostName;

/// An MX record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MxRecord {
    /// Lower is tried first.
    pub preference: u16,
    /// `None` for `.`: the domain takes no mail (RFC 7505 §3).
    pub exchange: Option<HostName>,
}

/// What a domain's MX records come to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MxPlan {
    /// In the order to try them; at least one.
    Hosts(Vec<HostName>),
    /// The domain says that it takes no mail (RFC 7505 §3).
    NullMx,
    /// We are the best host ourselves, and do not know the domain.
    Loop,
}

/// Sorts by preference with equals in random order, and drops ourselves and all that is worse.
pub fn mx_plan(
    records: Vec<MxRecord>,
    rng: &mut impl Rng,
    is_own: impl Fn(&HostName) -> bool,
) -> MxPlan {
    if records.iter().all(|record| record.exchange.is_none()) {
        return MxPlan::NullMx;
    }
    let named = records.into_iter().filter_map(|r| r.exchange.map(|host| (r.preference, host)));
    let mut hosts: Vec<(u16, HostName)> = named.collect();
    hosts.shuffle(rng);
    hosts.sort_by_key(|(preference, _)| *preference);
    let ours = hosts.iter().find(|(_, host)| is_own(host));
    if let Some(limit) = ours.map(|(preference, _)| *preference) {
        hosts.retain(|(preference, _)| *preference < limit);
    }
    if hosts.is_empty() {
        return MxPlan::Loop;
    }
    MxPlan::Hosts(hosts.into_iter().map(|(_, host)| host).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn record(preference: u16, exchange: &str) -> MxRecord {
        MxRecord { preference, exchange: HostName::parse(exchange).ok() }
    }

    fn plan(records: Vec<MxRecord>, seed: u64) -> MxPlan {
        let own = ["own.example", "also.example"].map(|name| HostName::parse(name).unwrap());
        mx_plan(records, &mut StdRng::seed_from_u64(seed), |host| own.contains(host))
    }

    #[test]
    fn null_mx_means_no_mail() {
        assert_eq!(plan(vec![record(0, ".")], 1), MxPlan::NullMx);
        // RFC 7505 §3: a null MX beside others is none.
        let both = plan(vec![record(0, "."), record(5, "a.example")], 1);
        assert_eq!(both, MxPlan::Hosts(vec![HostName::parse("a.example").unwrap()]));
    }

    #[test]
    fn we_do_not_send_to_ourselves() {
        assert_eq!(plan(vec![record(5, "OWN.example."), record(9, "b.example")], 1), MxPlan::Loop);
        let records =
            vec![record(5, "a.example"), record(9, "own.example"), record(9, "b.example")];
        assert_eq!(plan(records, 1), MxPlan::Hosts(vec![HostName::parse("a.example").unwrap()]));
        let by_other_names = vec![record(9, "own.example"), record(5, "also.example")];
        assert_eq!(plan(by_other_names, 1), MxPlan::Loop);
    }

    #[test]
    fn equals_take_turns() {
        let records = || vec![record(5, "a.example"), record(5, "b.example")];
        let first = |seed| match plan(records(), seed) {
            MxPlan::Hosts(hosts) => hosts[0].as_str().to_owned(),
            MxPlan::NullMx | MxPlan::Loop => panic!("has hosts"),
        };
        let firsts: std::collections::BTreeSet<String> = (0..50).map(first).collect();
        assert_eq!(firsts.len(), 2);
    }

    proptest! {
        #[test]
        fn better_hosts_come_first(preferences in prop::collection::vec(0u16..4, 1..8), seed: u64) {
            let records: Vec<MxRecord> = preferences
                .iter()
                .enumerate()
                .map(|(n, preference)| record(*preference, &format!("h{n}-p{preference}.example")))
                .collect();
            let MxPlan::Hosts(hosts) = plan(records, seed) else { panic!("has hosts") };
            prop_assert_eq!(hosts.len(), preferences.len());
            let shown = |host: &HostName| host.as_str().split('p').nth(1).unwrap()[..1].to_owned();
            let order: Vec<String> = hosts.iter().map(shown).collect();
            prop_assert!(order.is_sorted(), "{:?}", order);
        }
    }
}
