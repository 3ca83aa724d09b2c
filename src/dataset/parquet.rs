//! Rows as a Parquet file. Its columns are what the rows have in common, so the rows are read twice.
//!
//! A field is a boolean, a whole number, a number, a text, a list or a record, and may be missing. A field that is of
//! different kinds in different rows, or a record without fields, which Parquet cannot express, is a text: its JSON. Nested
//! values are written as the Dremel paper does (Melnik et al. 2010): each leaf is a column, with levels that say which of its
//! ancestors are there and where lists begin.

use std::path::Path;
use std::sync::Arc;

use parquet::basic::{ConvertedType, LogicalType, Repetition, Type as Physical};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::types::{Type, TypePtr};
use serde_json::{Map, Value};

use crate::{Error, Result, files};

/// Rows that are in memory at the same time.
const GROUP: usize = 4096;

/// Writes rows, which `rows` gives twice alike, to the file at `path`.
pub(super) fn write<R: Iterator<Item = Result<Value>>>(path: &Path, mut rows: impl FnMut() -> Result<R>) -> Result<()> {
    let mut shape = Shape::Record(Vec::new());
    for row in rows()? {
        shape = shape.with(&row?);
    }
    let Shape::Record(fields) = &shape else { return Err(Error::internal("a row that is not a record")) };
    let failed = |e: ParquetError| {
        Error::new(crate::ErrorKind::Io, format!("{} cannot be written: {e}", path.display())).with_source(e)
    };
    let types = fields.iter().map(|(name, shape)| shape.column(name)).collect::<Result<Vec<_>, _>>();
    let schema = types.and_then(|types| Type::group_type_builder("row").with_fields(types).build()).map_err(failed)?;
    let again = rows()?;
    files::replace(path, |out| {
        let properties = Arc::new(WriterProperties::builder().build());
        let mut file = SerializedFileWriter::new(out, Arc::new(schema), properties).map_err(failed)?;
        let mut again = again.peekable();
        while again.peek().is_some() {
            let mut columns = Vec::new();
            fields.iter().for_each(|(_, shape)| shape.leaves(&mut columns));
            for row in again.by_ref().take(GROUP) {
                let row = row?;
                let mut left = &mut columns[..];
                for (name, shape) in fields {
                    left = shape.add(row.get(name), Levels::default(), left);
                }
            }
            let mut group = file.next_row_group().map_err(failed)?;
            for column in &columns {
                let missing = || Error::internal("a column that the schema lacks");
                let writer = group.next_column().map_err(failed)?.ok_or_else(missing)?;
                column.write(writer).map_err(failed)?;
            }
            group.close().map_err(failed)?;
        }
        file.close().map(drop).map_err(failed)
    })
}

/// What the values of a field have in common.
#[derive(Debug, Clone, PartialEq)]
enum Shape {
    /// Nothing but nulls so far.
    Nothing,
    Bool,
    Int,
    Float,
    Text,
    List(Box<Shape>),
    Record(Vec<(String, Shape)>),
    /// JSON in a text.
    Mixed,
}

impl Shape {
    fn of(value: &Value) -> Self {
        match value {
            Value::Null => Shape::Nothing,
            Value::Bool(_) => Shape::Bool,
            Value::Number(number) if number.is_i64() => Shape::Int,
            Value::Number(_) => Shape::Float,
            Value::String(_) => Shape::Text,
            Value::Array(items) => {
                Shape::List(Box::new(items.iter().fold(Shape::Nothing, |shape, item| shape.with(item))))
            }
            Value::Object(_) => Shape::Record(Vec::new()).with(value),
        }
    }

    /// The shape that also has `value`.
    fn with(self, value: &Value) -> Self {
        match (self, value) {
            (shape, Value::Null) => shape,
            (Shape::Nothing, value) => Shape::of(value),
            (Shape::List(shape), Value::Array(items)) => {
                Shape::List(Box::new(items.iter().fold(*shape, |shape, item| shape.with(item))))
            }
            (Shape::Record(fields), Value::Object(object)) => Shape::Record(record(fields, object)),
            (shape, value) => match (shape, Shape::of(value)) {
                (Shape::Int, Shape::Float) | (Shape::Float, Shape::Int) => Shape::Float,
                (shape, other) if shape == other => shape,
                _ => Shape::Mixed,
            },
        }
    }

    /// The column of a field.
    fn column(&self, name: &str) -> Result<TypePtr, ParquetError> {
        let optional = |physical, text: bool| {
            let column = Type::primitive_type_builder(name, physical).with_repetition(Repetition::OPTIONAL);
            match text {
                true => {
                    column.with_logical_type(Some(LogicalType::String)).with_converted_type(ConvertedType::UTF8).build()
                }
                false => column.build(),
            }
        };
        let column = match self {
            Shape::Bool => optional(Physical::BOOLEAN, false)?,
            Shape::Int => optional(Physical::INT64, false)?,
            Shape::Float => optional(Physical::DOUBLE, false)?,
            Shape::List(item) => {
                let list = Type::group_type_builder("list")
                    .with_repetition(Repetition::REPEATED)
                    .with_fields(vec![item.column("element")?]);
                let logical = Some(LogicalType::List);
                let group = Type::group_type_builder(name).with_repetition(Repetition::OPTIONAL);
                let group = group.with_logical_type(logical).with_converted_type(ConvertedType::LIST);
                group.with_fields(vec![Arc::new(list.build()?)]).build()?
            }
            Shape::Record(fields) if !fields.is_empty() => {
                let columns = fields.iter().map(|(name, shape)| shape.column(name)).collect::<Result<_, _>>()?;
                Type::group_type_builder(name).with_repetition(Repetition::OPTIONAL).with_fields(columns).build()?
            }
            Shape::Nothing | Shape::Text | Shape::Mixed | Shape::Record(_) => optional(Physical::BYTE_ARRAY, true)?,
        };
        Ok(Arc::new(column))
    }

    /// Adds an empty column for each leaf.
    fn leaves(&self, columns: &mut Vec<Leaf>) {
        let values = match self {
            Shape::List(item) => return item.leaves(columns),
            Shape::Record(fields) if !fields.is_empty() => {
                return fields.iter().for_each(|(_, shape)| shape.leaves(columns));
            }
            Shape::Bool => Values::Bool(Vec::new()),
            Shape::Int => Values::Int(Vec::new()),
            Shape::Float => Values::Float(Vec::new()),
            Shape::Nothing | Shape::Text => Values::Text(Vec::new()),
            Shape::Mixed | Shape::Record(_) => Values::Json(Vec::new()),
        };
        columns.push(Leaf { values, defined: Vec::new(), repeated: Vec::new() });
    }

    /// Adds a value to the first columns, which are those of its leaves. Returns the others.
    fn add<'a>(&self, value: Option<&Value>, levels: Levels, columns: &'a mut [Leaf]) -> &'a mut [Leaf] {
        let value = value.filter(|value| !value.is_null());
        match (self, value) {
            (Shape::List(item), Some(Value::Array(items))) if !items.is_empty() => {
                let count = item.width();
                let (own, others) = columns.split_at_mut(count);
                for (at, value) in items.iter().enumerate() {
                    let depth = levels.depth + 1;
                    let repeated = if at == 0 { levels.repeated } else { depth };
                    item.add(Some(value), Levels { defined: levels.defined + 2, repeated, depth }, own);
                }
                others
            }
            // An empty list is there, and has nothing in it.
            (Shape::List(item), value) => {
                let defined = levels.defined + i16::from(value.is_some());
                let (own, others) = columns.split_at_mut(item.width());
                own.iter_mut().for_each(|leaf| leaf.skip(Levels { defined, ..levels }));
                others
            }
            (Shape::Record(fields), Some(Value::Object(object))) if !fields.is_empty() => {
                let inside = Levels { defined: levels.defined + 1, ..levels };
                fields.iter().fold(columns, |left, (name, shape)| shape.add(object.get(name), inside, left))
            }
            (Shape::Record(fields), _) if !fields.is_empty() => {
                let (own, others) = columns.split_at_mut(self.width());
                own.iter_mut().for_each(|leaf| leaf.skip(levels));
                others
            }
            (_, value) => {
                let (own, others) = columns.split_at_mut(1);
                own[0].push(value, levels);
                others
            }
        }
    }

    /// The number of its leaves.
    fn width(&self) -> usize {
        match self {
            Shape::List(item) => item.width(),
            Shape::Record(fields) if !fields.is_empty() => fields.iter().map(|(_, shape)| shape.width()).sum(),
            _ => 1,
        }
    }
}

/// The fields of both, in the order in which they first appear.
fn record(mut fields: Vec<(String, Shape)>, object: &Map<String, Value>) -> Vec<(String, Shape)> {
    for (name, value) in object {
        match fields.iter_mut().find(|(known, _)| known == name) {
            Some((_, shape)) => *shape = std::mem::replace(shape, Shape::Nothing).with(value),
            None => fields.push((name.clone(), Shape::of(value))),
        }
    }
    fields
}

/// Where a value stands.
#[derive(Clone, Copy, Default)]
struct Levels {
    /// How many of its ancestors that may be missing are there.
    defined: i16,
    /// The innermost list that it goes on with; 0 at the beginning of a row.
    repeated: i16,
    /// How many lists it is in.
    depth: i16,
}

enum Values {
    Bool(Vec<bool>),
    Int(Vec<i64>),
    Float(Vec<f64>),
    Text(Vec<ByteArray>),
    Json(Vec<ByteArray>),
}

/// A column.
struct Leaf {
    values: Values,
    defined: Vec<i16>,
    repeated: Vec<i16>,
}

impl Leaf {
    /// A place without a value.
    fn skip(&mut self, levels: Levels) {
        self.defined.push(levels.defined);
        self.repeated.push(levels.repeated);
    }

    fn push(&mut self, value: Option<&Value>, levels: Levels) {
        let Some(value) = value else { return self.skip(levels) };
        match &mut self.values {
            Values::Bool(values) => values.push(value.as_bool().unwrap_or_default()),
            Values::Int(values) => values.push(value.as_i64().unwrap_or_default()),
            Values::Float(values) => values.push(value.as_f64().unwrap_or_default()),
            Values::Text(values) => values.push(value.as_str().unwrap_or_default().into()),
            Values::Json(values) => values.push(value.to_string().as_str().into()),
        }
        self.skip(Levels { defined: levels.defined + 1, ..levels });
    }

    fn write(&self, mut writer: SerializedColumnWriter<'_>) -> Result<(), ParquetError> {
        let (defined, repeated) = (Some(&self.defined[..]), Some(&self.repeated[..]));
        match &self.values {
            Values::Bool(values) => writer.typed::<BoolType>().write_batch(values, defined, repeated)?,
            Values::Int(values) => writer.typed::<Int64Type>().write_batch(values, defined, repeated)?,
            Values::Float(values) => writer.typed::<DoubleType>().write_batch(values, defined, repeated)?,
            Values::Text(values) | Values::Json(values) => {
                writer.typed::<ByteArrayType>().write_batch(values, defined, repeated)?
            }
        };
        writer.close()
    }
}

#[cfg(test)]
mod tests {
    use parquet::file::reader::{FileReader as _, SerializedFileReader};
    use parquet::record::{Field, Row};
    use serde_json::json;

    use super::*;

    /// What Parquet's own reader reads.
    fn value(field: &Field) -> Value {
        match field {
            Field::Null => Value::Null,
            Field::Bool(value) => json!(value),
            Field::Long(value) => json!(value),
            Field::Double(value) => json!(value),
            Field::Str(value) => json!(value),
            Field::Group(row) => object(row),
            Field::ListInternal(list) => list.elements().iter().map(value).collect(),
            other => panic!("{other:?}"),
        }
    }

    fn object(row: &Row) -> Value {
        row.get_column_iter().map(|(name, field)| (name.clone(), value(field))).collect::<Map<String, Value>>().into()
    }

    fn read_back(rows: &[Value]) -> Vec<Value> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.parquet");
        write(&path, || Ok(rows.iter().cloned().map(Ok))).unwrap();
        let reader = SerializedFileReader::new(std::fs::File::open(&path).unwrap()).unwrap();
        reader.get_row_iter(None).unwrap().map(|row| object(&row.unwrap())).collect()
    }

    #[test]
    fn nested_rows_come_back() {
        let message = |role: &str, text: &str| json!({"role": role, "content": text});
        let rows = [
            json!({"id": "a", "score": 1, "turns": [{"prompt": [message("user", "ü\n“q”")], "responses": []},
                   {"prompt": [message("user", "x"), message("assistant", "y")], "responses": [{"score": 0.5, "note": "n"}]}],
                   "flag": true, "none": null, "empty": {}, "odd": 3, "deep": [[1, 2], [], [3]]}),
            json!({"id": "b", "score": 0.25, "turns": [], "flag": null, "none": null, "empty": {}, "odd": "three", "deep": []}),
            json!({"id": null, "score": -3, "turns": null, "odd": [1], "deep": [null, [null, 9]], "late": {"x": 1}}),
        ];
        let first = json!({"prompt": [message("user", "ü\n“q”")], "responses": []});
        let responses = json!([{"score": 0.5, "note": "n"}]);
        let second = json!({"prompt": [message("user", "x"), message("assistant", "y")], "responses": responses});
        let expected = [
            json!({"id": "a", "score": 1.0, "turns": [first, second], "flag": true, "none": null, "empty": "{}", "odd": "3",
                   "deep": [[1, 2], [], [3]], "late": null}),
            json!({"id": "b", "score": 0.25, "turns": [], "flag": null, "none": null, "empty": "{}", "odd": "\"three\"", "deep": [],
                   "late": null}),
            json!({"id": null, "score": -3.0, "turns": null, "flag": null, "none": null, "empty": null, "odd": "[1]",
                   "deep": [null, [null, 9]], "late": {"x": 1}}),
        ];
        for (found, expected) in read_back(&rows).iter().zip(&expected) {
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn many_rows_take_several_groups() {
        let rows: Vec<Value> = (0..GROUP + 3).map(|at| json!({"at": at, "list": vec![at; at % 4]})).collect();
        assert_eq!(read_back(&rows), rows);
        assert_eq!(read_back(&rows[..1]), rows[..1]);
    }
}
