use std::sync::Arc;

use proptest::prelude::*;
use queue::stored::StoredMessage;

use super::*;
use crate::tests::{NOW, mail};

fn message(n: u128) -> StoredMessage {
    StoredMessage {
        id: QueueId::new(NOW, n),
        envelope: Arc::new(mail::envelope()),
        jobs: vec![mail::job()],
        prefix_bytes: 1,
        header_bytes: 2,
        body_bytes: 3,
    }
}

fn octets(record: &Record) -> Vec<u8> {
    record.parts().flatten().copied().collect()
}

#[test]
fn entries_are_read_as_they_were_written() {
    let (first, second) = (message(1), message(2));
    let job = JobId { message: first.id, index: 7 };
    let state = StoredState::fresh(&first.envelope);
    let rest = FilePart { bytes: 1 << 40, crc: 42 };
    let mut draft = Draft::new();
    draft.state(job, &state);
    draft.message(&first, &[Bytes::from_static(b"one"), Bytes::new()], FilePart::default());
    draft.message(&second, &[Bytes::from_static(b"second")], rest);
    draft.moved(&first, rest, FilePart::default());
    draft.done(job);
    let mut record = draft.finish().unwrap();
    record.place(99, 4096, 8192);
    let octets = octets(&record);
    assert_eq!(octets.len(), record.len() as usize);
    let meta = checked_meta(&octets, 99, 8192).unwrap();
    let entries: Vec<Entry<'_>> = entries(meta).collect();
    assert_eq!(entries[0], Entry::State(job, &state.encode()));
    let inline =
        |at, bytes| ContentPlace { inline_at: at, inline_bytes: bytes, ..Default::default() };
    assert_eq!(entries[1], Entry::Message(first.id, inline(0, 3), &first.encode()));
    let place = ContentPlace { rest, ..inline(3, 6) };
    assert_eq!(entries[2], Entry::Message(second.id, place, &second.encode()));
    let place = ContentPlace { front: rest, ..ContentPlace::default() };
    assert_eq!(entries[3], Entry::Moved(first.id, place, &first.encode()));
    assert_eq!(entries[4..], [Entry::Done(job)]);
    assert!(checked_meta(&octets, 99, 8200).is_none(), "a record is valid at its offset only");
    assert!(checked_meta(&octets, 98, 8192).is_none(), "and in its segment");
}

#[test]
fn any_flipped_bit_of_the_head_is_found() {
    let mut draft = Draft::new();
    draft.done(JobId { message: QueueId::new(NOW, 1), index: 0 });
    let mut record = draft.finish().unwrap();
    record.place(7, 4096, 4096);
    let octets = octets(&record);
    for bit in 0..octets.len() * 8 {
        let mut flipped = octets.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(checked_meta(&flipped, 7, 4096).is_none(), "bit {bit}");
    }
}

proptest! {
    #[test]
    fn any_octets_are_read_without_harm(meta: Vec<u8>) {
        entries(&meta).for_each(drop);
    }
}
