//! Shorthands for writing graphs: nodes, attributes, initialisers, and the types of inputs and outputs.

use super::tensor_proto::{DataLocation, DataType};
use super::{
    AttributeProto, GraphProto, NodeProto, StringStringEntryProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto, attribute_proto::AttributeType, tensor_shape_proto, type_proto,
};

/// The operator domain of ONNX Runtime's own operators.
pub(crate) const MICROSOFT: &str = "com.microsoft";

/// One dimension of a graph's input or output.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Dim<'a> {
    /// Known when the graph runs. Equal names mean equal sizes.
    Symbol(&'a str),
    /// Always this size.
    Size(usize),
}

/// A node. An empty input or output name leaves out that optional slot.
pub(crate) fn node(
    domain: &str,
    op_type: &str,
    name: &str,
    inputs: &[&str],
    outputs: &[&str],
    attribute: Vec<AttributeProto>,
) -> NodeProto {
    NodeProto {
        input: inputs.iter().map(|&input| input.to_owned()).collect(),
        output: outputs.iter().map(|&output| output.to_owned()).collect(),
        name: Some(name.to_owned()),
        op_type: Some(op_type.to_owned()),
        domain: (!domain.is_empty()).then(|| domain.to_owned()),
        attribute,
        ..NodeProto::default()
    }
}

/// An integer attribute.
pub(crate) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(AttributeType::Int as i32),
        i: Some(value),
        ..AttributeProto::default()
    }
}

/// An attribute of several integers.
pub(crate) fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(AttributeType::Ints as i32),
        ints: values.to_vec(),
        ..AttributeProto::default()
    }
}

/// A float attribute.
pub(crate) fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(AttributeType::Float as i32),
        f: Some(value),
        ..AttributeProto::default()
    }
}

/// A text attribute.
pub(crate) fn text(name: &str, value: &str) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(AttributeType::String as i32),
        s: Some(value.as_bytes().to_vec()),
        ..AttributeProto::default()
    }
}

/// A graph as an attribute, for nodes that run a graph.
pub(crate) fn subgraph(name: &str, graph: GraphProto) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(AttributeType::Graph as i32),
        g: Some(graph),
        ..AttributeProto::default()
    }
}

/// An initialiser of float32 values stored in the graph itself; `dims` is empty for a scalar.
pub(crate) fn float_tensor(name: &str, dims: &[usize], values: &[f32]) -> TensorProto {
    let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    TensorProto {
        name: Some(name.to_owned()),
        data_type: Some(DataType::Float as i32),
        dims: dims.iter().map(|&dim| dim as i64).collect(),
        raw_data: Some(raw.into()),
        ..TensorProto::default()
    }
}

/// An initialiser of int64 values stored in the graph itself; `dims` is empty for a scalar.
pub(crate) fn int64_tensor(name: &str, dims: &[usize], values: &[i64]) -> TensorProto {
    let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    TensorProto {
        name: Some(name.to_owned()),
        data_type: Some(DataType::Int64 as i32),
        dims: dims.iter().map(|&dim| dim as i64).collect(),
        raw_data: Some(raw.into()),
        ..TensorProto::default()
    }
}

/// An initialiser whose bytes are in another file of the model's folder.
///
/// `location` is the file's name, `offset` and `length` count bytes.
pub(crate) fn external_tensor(
    name: &str,
    data_type: DataType,
    dims: &[usize],
    location: &str,
    offset: u64,
    length: u64,
) -> TensorProto {
    let entry = |key: &str, value: String| StringStringEntryProto { key: Some(key.to_owned()), value: Some(value) };
    TensorProto {
        name: Some(name.to_owned()),
        data_type: Some(data_type as i32),
        dims: dims.iter().map(|&dim| dim as i64).collect(),
        external_data: vec![
            entry("location", location.to_owned()),
            entry("offset", offset.to_string()),
            entry("length", length.to_string()),
        ],
        data_location: Some(DataLocation::External as i32),
        ..TensorProto::default()
    }
}

/// The name, element type and shape of a graph's input or output.
pub(crate) fn value_info(name: &str, data_type: DataType, dims: &[Dim<'_>]) -> ValueInfoProto {
    let dim = dims
        .iter()
        .map(|dim| tensor_shape_proto::Dimension {
            value: Some(match *dim {
                Dim::Symbol(symbol) => tensor_shape_proto::dimension::Value::DimParam(symbol.to_owned()),
                Dim::Size(size) => tensor_shape_proto::dimension::Value::DimValue(size as i64),
            }),
            ..tensor_shape_proto::Dimension::default()
        })
        .collect();
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(type_proto::Tensor {
                elem_type: Some(data_type as i32),
                shape: Some(TensorShapeProto { dim }),
            })),
            ..TypeProto::default()
        }),
        ..ValueInfoProto::default()
    }
}
