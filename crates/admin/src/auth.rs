//! Who may do what: reading wants either token, everything else the admin token.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::config::Config;
use crate::envelope::Failure;

/// Lets a request through to a guarded route, or answers 401 or 403.
pub(crate) async fn guard(State(config): State<Arc<Config>>, request: Request, next: Next) -> Response {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    match (who(&config, request.headers()), reads) {
        (Ok(Who::Admin), _) | (Ok(Who::Reader), true) => next.run(request).await,
        (Ok(Who::Reader), false) => forbidden(&config).into_response(),
        (Err(failure), _) => failure.into_response(),
    }
}

enum Who {
    Admin,
    Reader,
}

fn who(config: &Config, headers: &HeaderMap) -> Result<Who, Failure> {
    if config.token.is_none() && config.read_token.is_none() {
        return Err(unauthorized("no token is configured, so nobody may ask", "set DUALSYNC_ADMIN_TOKEN"));
    }
    let Some(given) = bearer(headers) else {
        return Err(unauthorized("this needs a token", "send the header Authorization: Bearer <token>"));
    };
    if config.token.as_ref().is_some_and(|token| token.is(given)) {
        Ok(Who::Admin)
    } else if config.read_token.as_ref().is_some_and(|token| token.is(given)) {
        Ok(Who::Reader)
    } else {
        let failure = unauthorized("the token is not valid", "send the value of DUALSYNC_ADMIN_TOKEN");
        Err(failure.challenge("Bearer realm=\"dualsync\", error=\"invalid_token\""))
    }
}

/// The token of `Authorization: Bearer …`; the scheme's case does not matter (RFC 9110, section 11.1).
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(b"bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

fn unauthorized(message: &str, action: &str) -> Failure {
    Failure::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message, action)
        .challenge("Bearer realm=\"dualsync\"")
}

fn forbidden(config: &Config) -> Failure {
    let action = match config.token {
        Some(_) => "send the admin token",
        None => "set DUALSYNC_ADMIN_TOKEN and send it",
    };
    Failure::new(StatusCode::FORBIDDEN, "FORBIDDEN", "the read token may not change anything", action)
        .challenge("Bearer realm=\"dualsync\", error=\"insufficient_scope\"")
}
