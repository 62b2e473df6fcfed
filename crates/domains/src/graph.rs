//! Aliases as a graph: none leads back to itself, too deep or too wide.

use mail_types::Mailbox;

use crate::resolve::DESTINATIONS_MAX;
use crate::table::{Table, Target};

/// How many aliases may lead to one another in a row.
const DEPTH_MAX: usize = 10;

/// What is wrong with the ways from an alias.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Astray {
    #[error("leads back to itself")]
    Loop,
    #[error("is the first of more than {DEPTH_MAX} aliases in a row")]
    Deep,
    #[error("stands for {DESTINATIONS_MAX} addresses or more")]
    Wide,
}

impl Astray {
    pub(crate) fn remedy(self) -> &'static str {
        match self {
            Self::Loop => "name a mailbox or an address elsewhere",
            Self::Deep => "name the last address of the row",
            Self::Wide => "name fewer addresses, or use a mailing list",
        }
    }
}

/// Follows the aliases from `start` to the end, in every direction.
pub(crate) fn follow(table: &Table, start: &Mailbox) -> Result<(), Astray> {
    let mut steps = DESTINATIONS_MAX;
    walk(table, start, &mut vec![table.key(start)], &mut steps)
}

/// Goes on from `address`, the last of `path`; `steps` bounds the work.
fn walk(
    table: &Table,
    address: &Mailbox,
    path: &mut Vec<String>,
    steps: &mut usize,
) -> Result<(), Astray> {
    *steps = steps.checked_sub(1).ok_or(Astray::Wide)?;
    let hosted = address.domain().filter(|domain| table.is_hosted(domain));
    let entry = hosted.and_then(|domain| table.entry(address.local_part(), domain));
    let Some(Target::Alias(targets)) = entry else { return Ok(()) };
    for target in targets {
        let key = table.key(target);
        if path[0] == key {
            return Err(Astray::Loop);
        }
        if path.contains(&key) {
            continue; // a loop of others: theirs to report
        }
        if path.len() > DEPTH_MAX {
            return Err(Astray::Deep);
        }
        path.push(key);
        walk(table, target, path, steps)?;
        path.pop();
    }
    Ok(())
}
