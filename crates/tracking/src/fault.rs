//! What is answered instead of a result, in MLflow's words and with its statuses.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// MLflow's error codes, as far as this API gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    InvalidParameterValue,
    ResourceDoesNotExist,
    ResourceAlreadyExists,
    EndpointNotFound,
    PermissionDenied,
    Unauthenticated,
    TemporarilyUnavailable,
    NotImplemented,
    InternalError,
}

impl Code {
    fn name(self) -> &'static str {
        match self {
            Code::InvalidParameterValue => "INVALID_PARAMETER_VALUE",
            Code::ResourceDoesNotExist => "RESOURCE_DOES_NOT_EXIST",
            Code::ResourceAlreadyExists => "RESOURCE_ALREADY_EXISTS",
            Code::EndpointNotFound => "ENDPOINT_NOT_FOUND",
            Code::PermissionDenied => "PERMISSION_DENIED",
            Code::Unauthenticated => "UNAUTHENTICATED",
            Code::TemporarilyUnavailable => "TEMPORARILY_UNAVAILABLE",
            Code::NotImplemented => "NOT_IMPLEMENTED",
            Code::InternalError => "INTERNAL_ERROR",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Code::InvalidParameterValue | Code::ResourceAlreadyExists => StatusCode::BAD_REQUEST,
            Code::ResourceDoesNotExist | Code::EndpointNotFound => StatusCode::NOT_FOUND,
            Code::PermissionDenied => StatusCode::FORBIDDEN,
            Code::Unauthenticated => StatusCode::UNAUTHORIZED,
            Code::TemporarilyUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            Code::NotImplemented => StatusCode::NOT_IMPLEMENTED,
            Code::InternalError => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    pub code: Code,
    pub message: String,
}

impl Fault {
    pub fn new(code: Code, message: impl Into<String>) -> Fault {
        Fault { code, message: message.into() }
    }

    pub fn invalid(message: impl Into<String>) -> Fault {
        Fault::new(Code::InvalidParameterValue, message)
    }

    pub fn missing(message: impl Into<String>) -> Fault {
        Fault::new(Code::ResourceDoesNotExist, message)
    }

    pub fn exists(message: impl Into<String>) -> Fault {
        Fault::new(Code::ResourceAlreadyExists, message)
    }

    pub fn denied(message: impl Into<String>) -> Fault {
        Fault::new(Code::PermissionDenied, message)
    }

    /// A fault of ours: logged here, where its cause is known, and told without it.
    pub fn internal(error: &dyn std::error::Error) -> Fault {
        tracing::error!(%error, "a tracking request failed");
        Fault::new(Code::InternalError, "the control plane failed to answer this; its log says why")
    }
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Fault {
        Fault::internal(&error)
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let body = Json(json!({ "error_code": self.code.name(), "message": self.message }));
        let mut response = (self.code.status(), body).into_response();
        if self.code == Code::TemporarilyUnavailable {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
