//! Blocks of keys and values as they are handed in and out: plain rows, `[heads][block_size][size]` a block and cache.

use crate::model::layout::CacheTensor;
use crate::runtime::memory::Buffer;
use crate::{Error, ErrorKind, Result};

/// The blocks of all caches.
pub(super) struct Pool {
    bytes: Buffer,
    caches: Vec<Cache>,
}

/// Where one cache's blocks lie, and how wide its rows are.
struct Cache {
    start: usize,
    heads: usize,
    /// Bytes of one token's row of one head.
    row: usize,
    /// Tokens of a block.
    block_size: usize,
}

impl Cache {
    fn block_bytes(&self) -> usize {
        self.heads * self.block_size * self.row
    }

    /// Where a token's row of a head begins.
    fn at(&self, block: usize, head: usize, row: usize) -> usize {
        self.start + block * self.block_bytes() + (head * self.block_size + row) * self.row
    }
}

impl Pool {
    /// Reserves `blocks` blocks of `block_size` tokens for each of `caches`.
    pub(super) fn new(caches: &[CacheTensor], blocks: usize, block_size: usize) -> Result<Self> {
        let mut total = 0_usize;
        let mut placed = Vec::with_capacity(caches.len());
        for cache in caches {
            let cache = Cache { start: total, heads: cache.heads, row: cache.size * cache.element_bytes(), block_size };
            let end = blocks.checked_mul(cache.block_bytes()).and_then(|bytes| total.checked_add(bytes));
            total = end.ok_or_else(|| {
                Error::new(ErrorKind::MemoryBudget, "the key-value cache is larger than the address space")
            })?;
            placed.push(cache);
        }
        Ok(Pool { bytes: Buffer::reserve(total)?, caches: placed })
    }

    /// Copies a block's contents in every cache.
    pub(super) fn copy_block(&mut self, from: u32, to: u32) {
        for cache in &self.caches {
            let (from, to) = (cache.at(from as usize, 0, 0), cache.at(to as usize, 0, 0));
            self.bytes.copy_within(from, to, cache.block_bytes());
        }
    }

    /// Writes the `past` rows of the sequence with block table `table` to `dense`, `[heads][padded][row]`, after zeros.
    pub(super) fn gather(&self, cache: usize, table: &[i32], past: usize, padded: usize, dense: &mut [u8]) {
        let cache = &self.caches[cache];
        for (head, dense) in dense.chunks_exact_mut((padded * cache.row).max(1)).enumerate() {
            let (zeros, rows) = dense.split_at_mut((padded - past) * cache.row);
            zeros.fill(0);
            for (rows, &block) in rows.chunks_mut(cache.block_size * cache.row).zip(table) {
                let from = cache.at(block as usize, head, 0);
                rows.copy_from_slice(&self.bytes.bytes()[from..from + rows.len()]);
            }
        }
    }

    /// Stores the last rows of `present`, `[heads][total][row]`, in `slots`; -1 leaves a row out.
    pub(super) fn scatter(&mut self, cache: usize, slots: &[i32], total: usize, present: &[u8]) {
        let cache = &self.caches[cache];
        for (head, rows) in present.chunks_exact(total * cache.row).enumerate() {
            let new = rows.chunks_exact(cache.row).skip(total - slots.len());
            for (row, slot) in new.zip(slots).filter_map(|(row, &slot)| Some((row, usize::try_from(slot).ok()?))) {
                let to = cache.at(slot / cache.block_size, head, slot % cache.block_size);
                self.bytes.bytes_mut()[to..to + row.len()].copy_from_slice(row);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn fill(&mut self, byte: u8) {
        self.bytes.fill(byte);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::tensor_proto::DataType;

    #[test]
    fn rows_come_back_as_they_were_stored() {
        let cache = |heads, size| CacheTensor {
            past: String::new(),
            present: String::new(),
            heads,
            size,
            element: DataType::Float16,
        };
        let mut pool = Pool::new(&[cache(2, 3), cache(1, 2)], 4, 16).expect("a pool");
        pool.fill(0xff);
        // 20 tokens in blocks 2 and 0; the row of token t and head h is filled with 10 · h + t.
        let slots: Vec<i32> = (0..20).map(|t| if t < 16 { 32 + t } else { t - 16 }).collect();
        let present: Vec<u8> = (0..2).flat_map(|h| (0..20).flat_map(move |t| [10 * h + t; 6])).collect();
        pool.scatter(0, &slots, 20, &present);
        pool.scatter(1, &slots[18..], 20, &[7; 80]);
        let mut dense = vec![1; 2 * 22 * 6];
        pool.gather(0, &[2, 0], 20, 22, &mut dense);
        for head in 0..2 {
            let rows = &dense[head * 22 * 6..][..22 * 6];
            assert_eq!(rows[..12], [0; 12], "left padding");
            assert_eq!(rows[12..], present[head * 120..][..120]);
        }
        pool.copy_block(2, 3);
        let mut copied = vec![0; 2 * 16 * 6];
        pool.gather(0, &[3], 16, 16, &mut copied);
        assert_eq!(copied[..96], present[..96]);
        let mut last = vec![0; 20 * 4];
        pool.gather(1, &[2, 0], 20, 20, &mut last);
        assert_eq!(last[..72], [0xff; 72], "rows that are left out stay as they were");
        assert_eq!(last[72..], [7; 8]);
    }
}
