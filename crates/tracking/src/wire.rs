//! What MLflow's clients send and are answered (`service.proto` of MLflow 3.17), as JSON.
//!
//! Clients may say 64-bit integers and doubles as numbers or as strings, and `null` for what they leave out.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// A double, which JSON can't always say as a number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Double(pub f64);

impl<'de> Deserialize<'de> for Double {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Double, D::Error> {
        let bad = |value: &Value| serde::de::Error::custom(format!("{value} is no number"));
        match Value::deserialize(deserializer)? {
            Value::Number(number) => number.as_f64().map(Double).ok_or_else(|| bad(&Value::Number(number))),
            Value::String(text) => match text.as_str() {
                "NaN" => Ok(Double(f64::NAN)),
                "Infinity" => Ok(Double(f64::INFINITY)),
                "-Infinity" => Ok(Double(f64::NEG_INFINITY)),
                text => text.parse().map(Double).map_err(|_| bad(&Value::String(text.to_owned()))),
            },
            other => Err(bad(&other)),
        }
    }
}

impl Serialize for Double {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            value if value.is_nan() => serializer.serialize_str("NaN"),
            f64::INFINITY => serializer.serialize_str("Infinity"),
            f64::NEG_INFINITY => serializer.serialize_str("-Infinity"),
            value => serializer.serialize_f64(value),
        }
    }
}

/// A 64-bit integer that may come as a string, as protobuf's JSON says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize)]
#[serde(transparent)]
pub struct Int(pub i64);

impl<'de> Deserialize<'de> for Int {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Int, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let read = match &value {
            // Some clients compute times as floats.
            Value::Number(number) => {
                let whole = |number: f64| (number.fract() == 0.0 && number.abs() < 9.0e18).then_some(number as i64);
                number.as_i64().or_else(|| number.as_f64().and_then(whole))
            }
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        read.map(Int).ok_or_else(|| serde::de::Error::custom(format!("{value} is no 64-bit integer")))
    }
}

/// A text; a number is taken for its text, as in experiments' ids.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize)]
#[serde(transparent)]
pub struct Text(pub String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Text, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(text) => Ok(Text(text)),
            Value::Number(number) => Ok(Text(number.to_string())),
            other => Err(serde::de::Error::custom(format!("{other} is no string"))),
        }
    }
}

/// A key with its value: of a tag, a parameter.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Pair {
    pub key: String,
    pub value: Text,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    #[serde(default)]
    pub key: Option<String>,
    #[serde(default)]
    pub value: Option<Double>,
    #[serde(default)]
    pub timestamp: Option<Int>,
    #[serde(default)]
    pub step: Option<Int>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset_digest: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Experiment {
    pub experiment_id: String,
    pub name: String,
    pub artifact_location: String,
    pub lifecycle_stage: &'static str,
    pub last_update_time: i64,
    pub creation_time: i64,
    pub tags: Vec<Pair>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunInfo {
    pub run_id: String,
    pub run_uuid: String,
    pub run_name: String,
    pub experiment_id: String,
    pub user_id: String,
    pub status: String,
    pub start_time: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_time: Option<i64>,
    pub artifact_uri: String,
    pub lifecycle_stage: &'static str,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Run {
    pub info: RunInfo,
    pub data: RunData,
    pub inputs: RunInputs,
    pub outputs: RunOutputs,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct RunData {
    pub metrics: Vec<Metric>,
    pub params: Vec<Pair>,
    pub tags: Vec<Pair>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct RunInputs {
    pub dataset_inputs: Vec<DatasetInput>,
    pub model_inputs: Vec<ModelLink>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct RunOutputs {
    pub model_outputs: Vec<ModelLink>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelLink {
    pub model_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<Int>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DatasetInput {
    #[serde(default)]
    pub tags: Vec<Pair>,
    pub dataset: Dataset,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dataset {
    pub name: String,
    pub digest: String,
    pub source_type: String,
    pub source: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Model {
    pub info: ModelInfo,
    pub data: ModelData,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelInfo {
    pub model_id: String,
    pub experiment_id: String,
    pub name: String,
    pub creation_timestamp_ms: i64,
    pub last_updated_timestamp_ms: i64,
    pub artifact_uri: String,
    pub status: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub model_type: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub source_run_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub status_message: String,
    pub tags: Vec<Pair>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ModelData {
    pub params: Vec<Pair>,
    pub metrics: Vec<Metric>,
}
