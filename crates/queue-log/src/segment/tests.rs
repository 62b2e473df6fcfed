use mail_types::QueueId;
use proptest::prelude::*;
use queue::JobId;

use super::*;
use crate::record::Draft;
use crate::tests::NOW;

const MARK: u64 = 0x0123_4567_89ab_cdef;
const HEADER: SegmentHeader = SegmentHeader {
    sequence: 5,
    mark: MARK,
    previous: 4,
    previous_valid_to: 8192,
    previous_end: End::Torn,
};

/// A segment of `count` records in one batch, and where they begin.
fn segment(count: usize, content: &'static [u8]) -> (Vec<u8>, Vec<usize>) {
    let mut bytes = HEADER.encode();
    let mut starts = Vec::new();
    for n in 0..count {
        let mut draft = Draft::new();
        draft.done(JobId { message: QueueId::new(NOW, n as u128), index: 0 });
        draft.with_content(content);
        let mut record = draft.finish().unwrap();
        starts.push(bytes.len());
        record.place(MARK, DATA_START, u32::try_from(bytes.len()).unwrap());
        bytes.extend(record.parts().flatten());
    }
    bytes.resize(bytes.len() + 5000, 0);
    (bytes, starts)
}

fn scan_all(bytes: &[u8]) -> (Vec<usize>, Vec<(usize, usize)>) {
    let (mut records, mut gaps) = (Vec::new(), Vec::new());
    for piece in scan(bytes, MARK, DATA_START as usize) {
        match piece {
            Piece::Record(found) => records.push(found.range.start),
            Piece::Gap(gap) => gaps.push((gap.start, gap.end)),
        }
    }
    (records, gaps)
}

#[test]
fn either_header_will_do() {
    let bytes = HEADER.encode();
    assert_eq!(SegmentHeader::decode(&bytes), Ok(HEADER));
    for at in [0, 9, 20, 39] {
        let mut one = bytes.clone();
        one[at] ^= 1;
        assert_eq!(SegmentHeader::decode(&one), Ok(HEADER));
        one[COPY_AT + at] ^= 4;
        assert_eq!(SegmentHeader::decode(&one), Err(SegmentError::Damaged));
    }
    assert_eq!(SegmentHeader::decode(&[0; 4096]), Err(SegmentError::Unused));
    assert_eq!(SegmentHeader::decode(&[]), Err(SegmentError::Unused));
}

#[test]
fn reading_goes_on_behind_damage() {
    let (whole, starts) = segment(5, b"content of some length");
    assert_eq!(scan_all(&whole), (starts.clone(), vec![]));
    let mut damaged = whole.clone();
    damaged[starts[2] + 13] ^= 0x40;
    let (records, gaps) = scan_all(&damaged);
    assert_eq!(records, [starts[0], starts[1], starts[3], starts[4]]);
    assert_eq!(gaps, vec![(starts[2], starts[3])]);
    let mut torn = whole;
    torn.truncate(starts[4] + 20);
    assert_eq!(scan_all(&torn).1, [(starts[4], starts[4] + 20)]);
}

#[test]
fn content_that_looks_like_a_record_is_none() {
    // A whole segment as the content of a message, with another mark: what a sender can know.
    let mut forged = Draft::new();
    forged.done(JobId { message: QueueId::new(NOW, 1), index: 0 });
    let mut forged = forged.finish().unwrap();
    forged.place(1, DATA_START, DATA_START);
    let content: Vec<u8> = forged.parts().flatten().copied().collect();
    let (mut bytes, starts) = segment(2, content.leak());
    bytes[starts[0]] ^= 1;
    assert_eq!(scan_all(&bytes).0, [starts[1]]);
}

/// Version N reads N-1: this segment was written by version 1.
#[test]
fn version_1_is_read() {
    let segment = include_bytes!("../../tests/fixtures/segment-v1.seg");
    assert_eq!(crate::scan_records(segment), 5);
}

proptest! {
    #[test]
    fn any_octets_are_scanned_to_their_end(mut data: Vec<u8>, flips: Vec<(u16, u8)>) {
        let (mut bytes, _) = segment(3, b"abc");
        for (at, bits) in flips {
            let at = usize::from(at) % bytes.len();
            bytes[at] ^= bits;
        }
        scan(&bytes, MARK, DATA_START as usize).for_each(drop);
        crate::scan_records(&bytes);
        data.splice(..0, HEADER.encode());
        crate::scan_records(&data);
    }
}
