//! Who should have which partitions: the same answer in every process that sees the same members.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::names::Partition;

/// What `me` should have. Each member gets as many as any other, or one less; a member that comes
/// or goes moves few of the others' partitions (rendezvous hashing with a bound).
pub(super) fn share(
    members: &BTreeSet<String>,
    partitions: &[Partition],
    me: &str,
) -> HashSet<Partition> {
    if members.is_empty() {
        return HashSet::new();
    }
    let each = partitions.len() / members.len();
    let mut more = partitions.len() % members.len();
    let mut pairs: Vec<(u64, &str, Partition)> = members
        .iter()
        .flat_map(|member| partitions.iter().map(move |p| (score(member, *p), &**member, *p)))
        .collect();
    pairs.sort_unstable_by(|a, b| b.cmp(a));
    let mut taken = HashSet::new();
    let mut counts: HashMap<&str, usize> = HashMap::new();
    let mut mine = HashSet::new();
    for (_, member, partition) in pairs {
        let count = counts.entry(member).or_default();
        let has_room = *count < each || (*count == each && more > 0);
        if taken.contains(&partition) || !has_room {
            continue;
        }
        more -= usize::from(*count == each);
        *count += 1;
        taken.insert(partition);
        if member == me {
            mine.insert(partition);
        }
    }
    mine
}

/// How much a member and a partition suit each other.
fn score(member: &str, partition: Partition) -> u64 {
    let text = format!("{member} {partition}");
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, b| {
        (hash ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)
    });
    // FNV alone hardly mixes the last octets into the high bits.
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use queue::HopKind;

    use super::*;

    fn members(count: usize) -> BTreeSet<String> {
        (0..count).map(|n| format!("member-{n}")).collect()
    }

    fn all(count: u16) -> Vec<Partition> {
        Partition::all(HopKind::Smtp, count).collect()
    }

    proptest! {
        #[test]
        fn every_partition_has_one_owner_and_shares_are_even(
            count in 1usize..20,
            partitions in 1u16..40,
        ) {
            let (members, partitions) = (members(count), all(partitions));
            let mut owned = Vec::new();
            for me in &members {
                let mine = share(&members, &partitions, me);
                let even = partitions.len() / count;
                prop_assert!(mine.len() == even || mine.len() == even + 1);
                owned.extend(mine);
            }
            owned.sort_unstable();
            prop_assert_eq!(owned, partitions);
        }
    }

    #[test]
    fn who_is_no_member_gets_nothing() {
        assert!(share(&members(2), &all(4), "stranger").is_empty());
        assert!(share(&BTreeSet::new(), &all(4), "stranger").is_empty());
    }

    #[test]
    fn a_newcomer_moves_few() {
        let (before, after, partitions) = (members(4), members(5), all(40));
        let moved: usize = before
            .iter()
            .map(|me| {
                let had = share(&before, &partitions, me);
                had.difference(&share(&after, &partitions, me)).count()
            })
            .sum();
        assert!((8..=16).contains(&moved), "{moved} of 40 moved; 8 must");
    }
}
