//! Records as sections with checksums: what was stored is read, or known to be damaged.

use bytes::{BufMut, Bytes, BytesMut};

/// The version that is written; it and the one before are read.
const VERSION: u8 = 1;
/// Length and CRC-32C of a section.
const HEADER: usize = 8;

/// A record that cannot be understood.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("the record has version {0}, which is newer than this program: upgrade it")]
    Newer(u8),
    #[error("the record is damaged")]
    Damaged,
}

pub(crate) fn join(sections: &[&[u8]]) -> Bytes {
    let octets: usize = sections.iter().map(|section| HEADER + section.len()).sum();
    let mut record = BytesMut::with_capacity(1 + octets);
    record.put_u8(VERSION);
    for section in sections {
        // A record is smaller than a message of NATS may be.
        record.put_u32(u32::try_from(section.len()).unwrap_or(u32::MAX));
        record.put_u32(crc32c::crc32c(section));
        record.put_slice(section);
    }
    record.freeze()
}

/// A section, and whether it is what was written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Section {
    pub(crate) octets: Bytes,
    pub(crate) is_intact: bool,
}

impl Section {
    pub(crate) const NONE: Self = Self::whole(Bytes::new());

    pub(crate) const fn whole(octets: Bytes) -> Self {
        Self { octets, is_intact: true }
    }

    pub(crate) fn intact(self) -> Result<Bytes, FrameError> {
        if self.is_intact { Ok(self.octets) } else { Err(FrameError::Damaged) }
    }
}

/// The sections of a record; more than are asked for were added by a later release of the version.
pub(crate) fn split<const N: usize>(record: &Bytes) -> Result<[Section; N], FrameError> {
    let (&version, _) = record.split_first().ok_or(FrameError::Damaged)?;
    if version > VERSION {
        return Err(FrameError::Newer(version));
    }
    let mut rest = record.slice(1..);
    let mut sections = [const { Section { octets: Bytes::new(), is_intact: false } }; N];
    for section in &mut sections {
        *section = take(&mut rest).ok_or(FrameError::Damaged)?;
    }
    Ok(sections)
}

fn take(rest: &mut Bytes) -> Option<Section> {
    let (length, checksum) = (number(rest, 0)?, number(rest, 4)?);
    let end = HEADER.checked_add(usize::try_from(length).ok()?)?;
    let octets = rest.get(HEADER..end).map(|section| rest.slice_ref(section))?;
    *rest = rest.slice(end..);
    let is_intact = crc32c::crc32c(&octets) == checksum;
    Some(Section { octets, is_intact })
}

fn number(octets: &[u8], at: usize) -> Option<u32> {
    let octets = octets.get(at..at + 4)?;
    Some(u32::from_be_bytes(octets.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(record: &Bytes) -> Result<[Bytes; 3], FrameError> {
        let [one, two, three] = split(record)?;
        Ok([one.intact()?, two.intact()?, three.intact()?])
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let record = join(&[b"one", b"", b"three"]);
        let [one, two, three] = whole(&record).unwrap();
        assert_eq!((&one[..], &two[..], &three[..]), (&b"one"[..], &b""[..], &b"three"[..]));
        for bit in 0..record.len() * 8 {
            let mut flipped = record.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let read = whole(&flipped.into());
            assert!(read.is_err() || bit < 8, "bit {bit}");
        }
        for end in 0..record.len() {
            assert!(whole(&record.slice(..end)).is_err(), "cut at {end}");
        }
        assert!(matches!(split::<1>(&Bytes::from_static(&[2])), Err(FrameError::Newer(2))));
    }
}
