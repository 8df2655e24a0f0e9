//! The one envelope of `/api/sync`: success with data, or an error with what to do about it.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::system::Refusal;

/// What a handler of `/api/sync` returns.
pub(crate) type Answer<T> = Result<Success<T>, Failure>;

/// `{"success":true,"data":…}`.
#[derive(Debug)]
pub(crate) struct Success<T>(pub(crate) T);

impl<T: Serialize> IntoResponse for Success<T> {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Envelope<T> {
            success: bool,
            data: T,
        }
        Json(Envelope { success: true, data: self.0 }).into_response()
    }
}

/// `{"success":false,"error":{"code","message","action"}}`.
#[derive(Debug)]
pub(crate) struct Failure {
    status: StatusCode,
    code: &'static str,
    message: String,
    action: String,
    challenge: Option<&'static str>,
}

impl Failure {
    /// An error with a stable code for scripts, a sentence, and what to do.
    pub(crate) fn new(
        status: StatusCode,
        code: &'static str,
        message: impl Into<String>,
        action: impl Into<String>,
    ) -> Failure {
        Failure { status, code, message: message.into(), action: action.into(), challenge: None }
    }

    /// Adds a `WWW-Authenticate` header (RFC 6750, section 3).
    pub(crate) fn challenge(self, challenge: &'static str) -> Failure {
        Failure { challenge: Some(challenge), ..self }
    }

    /// A request that cannot be understood.
    pub(crate) fn bad_request(message: impl Into<String>, action: impl Into<String>) -> Failure {
        Failure::new(StatusCode::BAD_REQUEST, "BAD_REQUEST", message, action)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let error = serde_json::json!({ "code": self.code, "message": self.message, "action": self.action });
        let body = Json(serde_json::json!({ "success": false, "error": error }));
        let mut response = (self.status, body).into_response();
        if let Some(challenge) = self.challenge {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        response
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        match refusal {
            Refusal::WrongState { message, action } => {
                Failure::new(StatusCode::CONFLICT, "WRONG_STATE", message, action)
            }
            Refusal::Invalid { message, action } => Failure::bad_request(message, action),
            Refusal::Unknown { message, action } => {
                Failure::new(StatusCode::NOT_FOUND, "NOT_FOUND", message, action)
            }
            Refusal::Failed { message, action } => {
                Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "FAILED", message, action)
            }
        }
    }
}

/// Reads a JSON body, whatever its content type says; `expected` is shown when it is not that.
pub(crate) fn body<T: DeserializeOwned>(
    bytes: Result<Bytes, BytesRejection>,
    expected: &'static str,
) -> Result<T, Failure> {
    let bytes = bytes.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Failure::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "BODY_TOO_LARGE",
            "the body is larger than this port takes",
            format!("send {expected}"),
        ),
        _ => Failure::bad_request("the body ended early", format!("send {expected}")),
    })?;
    serde_json::from_slice(&bytes).map_err(|error| {
        Failure::bad_request(format!("the body does not fit: {error}"), format!("send {expected}"))
    })
}
