//! The nodes of quantised matrices.

use super::super::quantize::{Layout, Names};
use super::Builder;
use crate::onnx::nodes::{MICROSOFT, int};

impl Builder<'_> {
    /// The rows of the packed table `weight` that `ids` name.
    pub(super) fn quantised_rows(&mut self, weight: &str, layout: Layout, path: &str, ids: &str) -> String {
        let names = Names::of(weight);
        let attributes = vec![
            int("bits", layout.bits as i64),
            int("block_size", layout.block as i64),
            int("gather_axis", 0),
            int("quantize_axis", 1),
        ];
        let inputs = [&names.table, ids, &names.scales];
        self.op(MICROSOFT, "GatherBlockQuantized", &format!("{path}/GatherBlockQuantized"), &inputs, attributes)
    }

    /// The product of `input`, [batch, sequence, columns], and the packed matrix `weight`.
    pub(super) fn quantised_product(&mut self, weight: &str, layout: Layout, path: &str, input: &str) -> String {
        let names = Names::of(weight);
        let attributes = vec![
            int("K", layout.inner() as i64),
            int("N", layout.rows as i64),
            int("bits", layout.bits as i64),
            int("block_size", layout.block as i64),
            // Inputs are in 8 bits too, and each block has its own scale. This is quick, and gives equal bits in any
            // batch.
            int("accuracy_level", 4),
        ];
        let name = format!("{path}/MatMulNBits");
        if !layout.minima {
            return self.op(MICROSOFT, "MatMulNBits", &name, &[input, &names.quants, &names.scales], attributes);
        }
        let summed = self.with_block_sums(input, layout, path);
        let inputs = [summed.as_str(), &names.quants, &names.scales, &names.zero_points];
        self.op(MICROSOFT, "MatMulNBits", &name, &inputs, attributes)
    }

    /// `input`, followed by the sum of each block of its columns. It is made once for all products that take it.
    fn with_block_sums(&mut self, input: &str, layout: Layout, path: &str) -> String {
        let key = (input.to_owned(), layout.block);
        if let Some(known) = self.summed.get(&key) {
            return known.clone();
        }
        let shape = self.integers(&[0, 0, layout.blocks() as i64, layout.block as i64]);
        let axis = self.integers(&[-1]);
        let path = format!("{path}/block_sums");
        let blocks = self.op("", "Reshape", &format!("{path}/Reshape"), &[input, &shape], vec![]);
        let keep = vec![int("keepdims", 0)];
        let sums = self.op("", "ReduceSum", &format!("{path}/ReduceSum"), &[&blocks, &axis], keep);
        let summed = self.op("", "Concat", &format!("{path}/Concat"), &[input, &sums], vec![int("axis", -1)]);
        self.summed.insert(key, summed.clone());
        summed
    }
}
