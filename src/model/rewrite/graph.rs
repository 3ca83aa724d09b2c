//! Look-ups in a graph.

use std::collections::{HashMap, HashSet};

use crate::onnx::{
    AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto, tensor_proto, tensor_shape_proto, type_proto,
};

/// Attributes of a node by name.
pub(crate) struct Attributes<'a>(pub(crate) &'a NodeProto);

impl<'a> Attributes<'a> {
    pub(super) fn get(&self, name: &str) -> Option<&'a AttributeProto> {
        self.0.attribute.iter().find(|attribute| attribute.name() == name)
    }

    /// 0 if there is none.
    pub(crate) fn int(&self, name: &str) -> i64 {
        self.get(name).map_or(0, |attribute| attribute.i())
    }

    /// 0 if there is none.
    pub(super) fn float(&self, name: &str) -> f32 {
        self.get(name).map_or(0.0, |attribute| attribute.f())
    }

    /// Empty if there is none.
    pub(super) fn text(&self, name: &str) -> String {
        self.get(name).map_or(String::new(), |attribute| String::from_utf8_lossy(attribute.s()).into_owned())
    }
}

/// The sources of a graph's values.
pub(super) struct Values<'a> {
    /// Initialisers and Constant nodes.
    constants: HashMap<&'a str, &'a TensorProto>,
    producers: HashMap<&'a str, &'a NodeProto>,
}

impl<'a> Values<'a> {
    pub(super) fn of(graph: &'a GraphProto) -> Self {
        let mut constants: HashMap<&str, &TensorProto> = graph.initializer.iter().map(|t| (t.name(), t)).collect();
        let mut producers = HashMap::new();
        for node in &graph.node {
            producers.extend(node.output.iter().map(|output| (output.as_str(), node)));
            let value = Attributes(node).get("value").and_then(|attribute| attribute.t.as_ref());
            if let ("Constant", Some(output), Some(tensor)) = (node.op_type(), node.output.first(), value) {
                constants.insert(output, tensor);
            }
        }
        Values { constants, producers }
    }

    /// The constant tensor called `name`.
    pub(super) fn constant(&self, name: &str) -> Option<&'a TensorProto> {
        self.constants.get(name).copied()
    }

    /// The node that computes `name`.
    pub(super) fn producer(&self, name: &str) -> Option<&'a NodeProto> {
        self.producers.get(name).copied()
    }
}

/// Values that are the same in every step: initialisers, and values that are computed from them alone.
pub(super) fn constants(graph: &GraphProto) -> HashSet<&str> {
    let mut constants: HashSet<&str> = graph.initializer.iter().map(|tensor| tensor.name()).collect();
    for node in &graph.node {
        if node.input.iter().all(|input| input.is_empty() || constants.contains(input.as_str())) {
            constants.extend(node.output.iter().map(String::as_str));
        }
    }
    constants
}

/// An input's element type.
pub(super) fn element_type(value: &ValueInfoProto) -> Option<tensor_proto::DataType> {
    tensor_proto::DataType::try_from(tensor_type(value)?.elem_type()).ok()
}

/// The number of an input's dimensions, if the graph says it.
pub(super) fn rank(value: &ValueInfoProto) -> Option<usize> {
    Some(tensor_type(value)?.shape.as_ref()?.dim.len())
}

/// An input's last dimension, if it is a fixed number.
pub(super) fn last_dimension(value: &ValueInfoProto) -> Option<usize> {
    match tensor_type(value)?.shape.as_ref()?.dim.last()?.value.as_ref()? {
        tensor_shape_proto::dimension::Value::DimValue(n) => usize::try_from(*n).ok().filter(|&n| n > 0),
        tensor_shape_proto::dimension::Value::DimParam(_) => None,
    }
}

fn tensor_type(value: &ValueInfoProto) -> Option<&type_proto::Tensor> {
    match value.r#type.as_ref()?.value.as_ref()? {
        type_proto::Value::TensorType(tensor) => Some(tensor),
        _ => None,
    }
}

/// The one number in a constant of integers.
pub(super) fn integer(tensor: &TensorProto) -> Option<i64> {
    match integers(tensor)?[..] {
        [value] => Some(value),
        _ => None,
    }
}

/// The numbers in a constant of integers.
pub(super) fn integers(tensor: &TensorProto) -> Option<Vec<i64>> {
    let raw = tensor.raw_data.as_deref();
    match tensor_proto::DataType::try_from(tensor.data_type()).ok()? {
        tensor_proto::DataType::Int64 => Some(match raw {
            Some(raw) => raw.as_chunks().0.iter().map(|&bytes| i64::from_le_bytes(bytes)).collect(),
            None => tensor.int64_data.clone(),
        }),
        tensor_proto::DataType::Int32 => Some(match raw {
            Some(raw) => raw.as_chunks().0.iter().map(|&bytes| i64::from(i32::from_le_bytes(bytes))).collect(),
            None => tensor.int32_data.iter().map(|&n| i64::from(n)).collect(),
        }),
        _ => None,
    }
}
