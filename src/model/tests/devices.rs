//! Graphs for CUDA, held to ONNX Runtime's own definition of its operators. No kernel is needed for that: a graph that
//! breaks a definition is refused before kernels are looked for.

use std::path::Path;

use super::*;
use crate::export::Quantize;
use crate::model::layout::PreparedGraph;
use crate::model::rewrite::{PagedGraph, precision};
use crate::model::target::{Cache, Target};
use crate::model::{CacheType, OpenOptions};
use crate::runtime::session::{Graph, Session, Values};
use crate::runtime::{Provider, ProviderReport};
use crate::testing;

/// What ONNX Runtime says against a graph on the CPU.
fn refusal(bytes: &[u8], paged: &PagedGraph, folder: &Path) -> String {
    let memory = (!paged.converted.is_empty())
        .then(|| (precision::LOCATION, Arc::new(Values(paged.converted.read(folder).expect("weights")))));
    let report = &ProviderReport::only(Provider::Cpu);
    let graph = Graph { bytes, folder, memory, loops: false, name: "m", report };
    Session::open_plain(&graph, &testing::runtime(1)).err().expect("there is no kernel on the CPU").to_string()
}

#[test]
fn graphs_for_cuda_fit_the_definition_of_its_attention() {
    // Windows and soft caps, norms of queries and keys, tables by length, tables of a part of the head, quantised products.
    for (name, quantize) in [
        ("gemma2", Quantize::None),
        ("gemma3", Quantize::None),
        ("qwen3", Quantize::None),
        ("phi3-longrope", Quantize::None),
        ("phi3-partial", Quantize::None),
        ("qwen2-window", Quantize::Int4),
        ("llama-reward", Quantize::None),
    ] {
        let (_files, to) = testing::exported(name, quantize);
        for (cache_type, precision) in [(CacheType::Auto, "Float16"), (CacheType::Bfloat16, "Bfloat16")] {
            let options = OpenOptions { cache_type, ..OpenOptions::default() };
            let folder = ModelFolder::open_for(&to, options, Target::of(Provider::Cuda)).expect("the model opens");
            let PreparedGraph::Paged(paged) = folder.runner() else { panic!("{name} is not paged") };
            let Cache::Device(found) = paged.cache else { panic!("{name} is not for a device") };
            assert_eq!(format!("{found:?}"), precision, "{name}");
            let said = refusal(&paged.bytes, paged, &folder.file().data_folder);
            assert!(
                said.contains("NOT_IMPLEMENTED") || said.contains("Could not find an implementation"),
                "{name}: {said}"
            );
        }
    }
}

/// The test above can fail: a graph that breaks the definition is told apart.
#[test]
fn what_breaks_a_definition_is_refused_for_that() {
    use crate::onnx::ModelProto;
    use prost::Message as _;
    let (_files, to) = testing::exported("llama", Quantize::None);
    let folder =
        ModelFolder::open_for(&to, OpenOptions::default(), Target::of(Provider::Cuda)).expect("the model opens");
    let PreparedGraph::Paged(paged) = folder.runner() else { panic!("it is not paged") };
    let mut model = ModelProto::decode(&*paged.bytes).expect("a model");
    let nodes = &mut model.graph.as_mut().expect("a graph").node;
    let attention = nodes.iter_mut().find(|node| node.op_type() == "PagedAttention").expect("attention");
    attention.input.swap(5, 7);
    attention.input[16] = attention.input[0].clone();
    let said = refusal(&model.encode_to_vec(), paged, &folder.file().data_folder);
    assert!(!said.contains("Could not find an implementation"), "{said}");
}
