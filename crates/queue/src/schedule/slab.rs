//! Numbered places that are used again, in blocks: growth copies nothing, wastes at most a block.

use std::ops::{Index, IndexMut};

const BLOCK: usize = 1024;

pub(super) struct Slab<T> {
    blocks: Vec<Vec<Option<T>>>,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    pub(super) fn new() -> Self {
        Self { blocks: Vec::new(), free: Vec::new() }
    }

    pub(super) fn insert(&mut self, value: T) -> u32 {
        if let Some(slot) = self.free.pop() {
            *self.place(slot) = Some(value);
            return slot;
        }
        if self.blocks.last().is_none_or(|block| block.len() == BLOCK) {
            self.blocks.push(Vec::with_capacity(BLOCK));
        }
        let full = self.blocks.len() - 1;
        self.blocks[full].push(Some(value));
        // A slab of 2^32 jobs would take a terabyte.
        u32::try_from(full * BLOCK + self.blocks[full].len() - 1).expect("fewer than 2^32 slots")
    }

    pub(super) fn remove(&mut self, slot: u32) -> T {
        // Callers hold the slot of a value that is there: indexes are removed before it.
        let value = self.place(slot).take().expect("an occupied slot");
        self.free.push(slot);
        value
    }

    fn place(&mut self, slot: u32) -> &mut Option<T> {
        &mut self.blocks[slot as usize / BLOCK][slot as usize % BLOCK]
    }
}

impl<T> Index<u32> for Slab<T> {
    type Output = T;

    fn index(&self, slot: u32) -> &T {
        let place = &self.blocks[slot as usize / BLOCK][slot as usize % BLOCK];
        // As in `remove`.
        place.as_ref().expect("an occupied slot")
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, slot: u32) -> &mut T {
        // As in `remove`.
        self.place(slot).as_mut().expect("an occupied slot")
    }
}

impl<T> Slab<T> {
    pub(super) fn get(&self, slot: u32) -> Option<&T> {
        self.blocks.get(slot as usize / BLOCK)?.get(slot as usize % BLOCK)?.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_used_again() {
        let mut slab = Slab::new();
        let slots: Vec<u32> = (0..3000).map(|n| slab.insert(n)).collect();
        assert_eq!(slab[slots[2500]], 2500);
        assert_eq!(slab.remove(7), 7);
        assert_eq!(slab.get(7), None);
        assert_eq!(slab.insert(8000), 7);
        assert_eq!(slab.get(90_000), None);
    }
}
