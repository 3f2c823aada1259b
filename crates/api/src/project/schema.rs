//! The JSON Schema of project files, for editors.

use serde_json::{Map, Value, json};

use super::table::{self, Key, Shape, Table};

/// The JSON Schema (draft 2020-12) of `tombolo.yaml`. It says less than [`super::parse`]: references, cycles and
/// residency are beyond it.
pub fn json_schema() -> Value {
    let mut schema = object(&table::PROJECT);
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("Tombolo project");
    schema["description"] = json!("What runs, on which data, within which rules: tombolo.yaml.");
    schema["anyOf"] = json!([{ "required": ["stages"] }, { "required": ["services"] }]);
    schema
}

fn object(table: &Table) -> Value {
    let properties: Map<String, Value> = table.keys().map(|key| (key.name.to_owned(), property(key))).collect();
    let required: Vec<&str> = table.keys().filter(|key| key.required).map(|key| key.name).collect();
    let mut schema = json!({ "type": "object", "additionalProperties": false, "properties": properties });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    if !table.one_of.is_empty() {
        schema["oneOf"] = table.one_of.iter().map(|name| json!({ "required": [name] })).collect();
    }
    schema
}

fn property(key: &Key) -> Value {
    let mut schema = shape(&key.shape);
    schema["description"] = json!(key.about);
    let example: Value = serde_json::from_str(key.example).expect("the table's examples are JSON");
    schema["examples"] = json!([example]);
    schema
}

fn shape(of: &Shape) -> Value {
    match of {
        Shape::Text => json!({ "type": "string", "minLength": 1 }),
        Shape::Scalar => json!({ "type": ["string", "number", "boolean"] }),
        Shape::Name => json!({ "type": ["string", "integer"], "pattern": "^[a-z0-9][a-z0-9_-]{0,62}$" }),
        Shape::Size => json!({ "type": ["string", "integer"], "minimum": 1,
            "pattern": "^[0-9]+(\\.[0-9]+)? *([kKmMgGtTpP][iI]?)?[bB]?$" }),
        Shape::Duration => json!({ "type": "string", "pattern": "^([0-9]+(\\.[0-9]+)? *(ms|s|m|h|d) *)+$" }),
        Shape::Cpus => json!({ "type": "number", "exclusiveMinimum": 0, "maximum": table::CPUS_MAX }),
        Shape::Whole { min, max } => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Shape::Number { min: f64::MIN, max: f64::MAX } => json!({ "type": "number" }),
        Shape::Number { min, max } => json!({ "type": "number", "minimum": min, "maximum": max }),
        Shape::Choice(words) => json!({ "enum": words }),
        Shape::List(item) => json!({ "type": "array", "items": shape(item) }),
        Shape::Map(value) => json!({ "type": "object", "additionalProperties": shape(value) }),
        Shape::Object(table) => object(table),
        Shape::OneOf(shapes) => json!({ "anyOf": shapes.iter().map(shape).collect::<Vec<_>>() }),
        Shape::Flag => json!({ "type": "boolean" }),
        Shape::Nothing => json!({ "type": "null" }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::amount;
    use super::*;

    /// Whether a value has the shape that the schema would let through, by the reader's own rules.
    fn fits(value: &Value, of: &Shape) -> bool {
        match of {
            Shape::Text => value.is_string(),
            Shape::Scalar => value.is_string() || value.is_number() || value.is_boolean(),
            Shape::Name => value.as_str().is_some_and(|text| tombolo_core::Name::new(text).is_ok()),
            Shape::Size => value.as_str().is_some_and(|text| amount::size(text).is_ok()),
            Shape::Duration => value.as_str().is_some_and(|text| amount::duration(text).is_ok()),
            Shape::Cpus => value.as_f64().is_some_and(|cpus| cpus > 0.0),
            Shape::Whole { min, max } => value.as_i64().is_some_and(|n| (*min..=*max).contains(&n)),
            Shape::Number { min, max } => value.as_f64().is_some_and(|n| (*min..=*max).contains(&n)),
            Shape::Choice(words) => value.as_str().is_some_and(|text| words.contains(&text)),
            Shape::List(item) => value.as_array().is_some_and(|items| items.iter().all(|v| fits(v, item))),
            Shape::Map(each) => value.as_object().is_some_and(|map| map.values().all(|v| fits(v, each))),
            Shape::Object(table) => value.as_object().is_some_and(|map| {
                map.iter().all(|(name, v)| table.keys().any(|key| key.name == name && fits(v, &key.shape)))
                    && table.keys().all(|key| !key.required || map.contains_key(key.name))
            }),
            Shape::OneOf(shapes) => shapes.iter().any(|shape| fits(value, shape)),
            Shape::Flag => value.is_boolean(),
            Shape::Nothing => value.is_null(),
        }
    }

    #[test]
    fn every_example_has_its_own_shape() {
        let tables = [&table::PROJECT, &table::DATA, &table::STAGE, &table::SERVICE, &table::PYTHON];
        let expects = [&table::EXPECT, &table::ROWS, &table::COLUMN];
        for table in tables.into_iter().chain([&table::RESOURCES, &table::GATE, &table::READY]).chain(expects) {
            for key in table.keys() {
                let example: Value = serde_json::from_str(key.example).unwrap();
                assert!(fits(&example, &key.shape), "{}: {example}", key.name);
            }
        }
    }
}
