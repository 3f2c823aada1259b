//! The body of every error of the API: problem details as in RFC 9457.

use serde::{Deserialize, Serialize};

/// Served as `application/problem+json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Problem {
    /// A stable word for programs, such as `not-found`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What happened, in one line.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// The kind of an error whose body is no problem: something else answered.
pub const UNKNOWN: &str = "unknown";

pub const CONTENT_TYPE: &str = "application/problem+json";

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.title)?;
        if let Some(detail) = &self.detail {
            write!(f, ": {detail}")?;
        }
        Ok(())
    }
}
