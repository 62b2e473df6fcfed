//! Looking at what others change meanwhile, until nothing new is found.

/// Looks at what keeps changing.
const LOOKS_MAX: usize = 4;

/// What a look found.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    Something,
}

/// Looks again as long as there is something new, but not for ever.
pub(super) fn until_nothing_new(
    mut look: impl FnMut() -> anyhow::Result<Found>,
) -> anyhow::Result<()> {
    for _ in 0..LOOKS_MAX {
        if look()? == Found::Nothing {
            break;
        }
    }
    Ok(())
}
