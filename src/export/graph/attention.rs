//! Attention: its mask, its rotary tables, its nodes.

use super::decoder::{Sizes, Writer};
use crate::Result;
use crate::onnx::GraphProto;
use crate::onnx::nodes::{Dim, MICROSOFT, float, int, node, subgraph, value_info};
use crate::onnx::tensor_proto::DataType;

/// The attention node's mask inputs.
const SEQUENCE_LENGTHS: &str = "/model/attn_mask_reformat/attn_mask_subgraph/Sub/Cast/output_0";
const TOTAL_LENGTH: &str = "/model/attn_mask_reformat/attn_mask_subgraph/Gather/Cast/output_0";
/// The longest length as int64.
const LENGTH: &str = "/model/attn_mask_reformat/attn_mask_subgraph/Gather/output_0";

impl Writer<'_, '_> {
    /// Turns the mask into what the attention takes: the last position of each sequence, and the longest length.
    pub(super) fn attention_mask(&mut self) {
        let base = "/model/attn_mask_reformat/attn_mask_subgraph";
        let int32 = || vec![int("to", i64::from(DataType::Int32 as i32))];
        let builder = &mut self.builder;
        let (one, one_axis) = (builder.integer(1), builder.integers(&[1]));
        let keep = vec![int("keepdims", 0)];
        let sum = builder.op("", "ReduceSum", &format!("{base}/ReduceSum"), &["attention_mask", &one_axis], keep);
        let last = builder.op("", "Sub", &format!("{base}/Sub"), &[&sum, &one_axis], vec![]);
        builder.op("", "Cast", &format!("{base}/Sub/Cast"), &[&last], int32());
        let shape = builder.op("", "Shape", &format!("{base}/Shape"), &["attention_mask"], vec![]);
        let length = builder.op("", "Gather", &format!("{base}/Gather"), &[&shape, &one], vec![int("axis", 0)]);
        builder.op("", "Cast", &format!("{base}/Gather/Cast"), &[&length], int32());
    }

    /// Chooses between tables that depend on the length of the longest sequence.
    pub(super) fn rotary_switches(&mut self) {
        for rope in &self.decoder.ropes {
            let Some(after) = rope.switch() else { continue };
            let tables = rope.tables(self.decoder.context_length);
            let [small, large] = tables.as_slice() else { continue };
            let base = "/model/rope_caches_subgraph";
            let after = self.builder.integer(after as i64);
            let longer = self.builder.op("", "Greater", &format!("{base}/Greater"), &[LENGTH, &after], vec![]);
            let branch = |kind: &str, table: &super::super::rope::Table<'_>| {
                let dims = [Dim::Size(table.positions), Dim::Size(table.width())];
                let mut graph =
                    GraphProto { name: Some(format!("{kind}_rotemb_caches_graph")), ..GraphProto::default() };
                for cache in [&table.cos, &table.sin] {
                    // A branch has to make its outputs, and the tables themselves are initialisers of the whole graph.
                    let output = format!("{cache}/Identity/output_0");
                    graph.node.push(node(
                        "",
                        "Identity",
                        &format!("/{kind}/{cache}/Identity"),
                        &[cache],
                        &[&output],
                        vec![],
                    ));
                    graph.output.push(value_info(&output, DataType::Float, &dims));
                }
                graph
            };
            let branches =
                vec![subgraph("then_branch", branch("large", large)), subgraph("else_branch", branch("small", small))];
            let (cos, sin) = rope.names();
            self.builder.push(node("", "If", &format!("{base}/If"), &[&longer], &[&cos, &sin], branches));
        }
    }

    pub(super) fn attention(&mut self, layer: usize, input: &str) -> Result<String> {
        let Sizes { hidden, query, .. } = self.sizes;
        let [q, k, v] = self.query_key_value(layer, input)?;
        let name = format!("/model/layers.{layer}/attn/GroupQueryAttention");
        let output = format!("{name}/output_0");
        let cache = |time: &str, kind: &str| format!("{time}.{layer}.{kind}");
        let (past_key, past_value) = (cache("past_key_values", "key"), cache("past_key_values", "value"));
        let mut inputs = vec![q.as_str(), &k, &v, &past_key, &past_value, SEQUENCE_LENGTHS, TOTAL_LENGTH];
        let tables = self.decoder.layers[layer].rope.map(|rope| self.decoder.ropes[rope].names());
        if let Some((cos, sin)) = &tables {
            inputs.extend([cos.as_str(), sin]);
        }
        let outputs = [output.as_str(), &cache("present", "key"), &cache("present", "value")];
        let attention = &self.decoder.attention;
        // A window that no sequence can outgrow is not a window.
        let window = self.decoder.layers[layer].window.filter(|&window| window < self.decoder.context_length);
        let attributes = vec![
            int("num_heads", attention.heads as i64),
            int("kv_num_heads", attention.kv_heads as i64),
            float("scale", attention.scale),
            int("local_window_size", window.map_or(-1, |window| window as i64)),
            float("softcap", attention.softcap.unwrap_or(0.0)),
            int("do_rotary", i64::from(tables.is_some())),
            int("rotary_interleaved", 0),
        ];
        self.builder.push(node(MICROSOFT, "GroupQueryAttention", &name, &inputs, &outputs, attributes));
        self.projection(layer, "self_attn.o_proj", &output, hidden, query, attention.output_bias)
    }

    /// The attention node's query, key and value. They are packed in the query if one projection gives all.
    fn query_key_value(&mut self, layer: usize, input: &str) -> Result<[String; 3]> {
        let Sizes { hidden, query, key_value, qkv, .. } = self.sizes;
        let bias = self.decoder.attention.qkv_bias;
        if self.decoder.attention.fused {
            let packed = self.projection(layer, "self_attn.qkv_proj", input, qkv, hidden, bias)?;
            return Ok([packed, String::new(), String::new()]);
        }
        let mut q = self.projection(layer, "self_attn.q_proj", input, query, hidden, bias)?;
        let mut k = self.projection(layer, "self_attn.k_proj", input, key_value, hidden, bias)?;
        let v = self.projection(layer, "self_attn.v_proj", input, key_value, hidden, bias)?;
        if self.decoder.attention.qk_norm {
            q = self.norm_of_heads(layer, "q_norm", &q, query.value)?;
            k = self.norm_of_heads(layer, "k_norm", &k, key_value.value)?;
        }
        Ok([q, k, v])
    }

    /// Normalises each head of a projection that is `width` wide.
    fn norm_of_heads(&mut self, layer: usize, name: &str, input: &str, width: usize) -> Result<String> {
        let path = format!("/model/layers.{layer}/attn/{name}");
        let head = self.sizes.head;
        let apart = self.builder.integers(&[0, -1, head.value as i64]);
        let heads = self.builder.op("", "Reshape", &format!("{path}/Reshape_1"), &[input, &apart], vec![]);
        let normed = self.norm_of(&format!("model.layers.{layer}.self_attn.{name}"), &path, head, &heads)?;
        let together = self.builder.integers(&[0, -1, width as i64]);
        Ok(self.builder.op("", "Reshape", &format!("{path}/Reshape_2"), &[&normed, &together], vec![]))
    }
}
