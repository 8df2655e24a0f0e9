//! As much of an HTTP client as the admin port needs: one request, one connection, the whole answer.
//!
//! Not here: TLS, redirects, chunked bodies (an answer that has one is an error).

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// An answer of the admin port.
#[derive(Debug, Clone)]
pub struct Response {
    /// The HTTP status code.
    pub status: u16,
    /// Header names in lower case, with their values.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: String,
}

impl Response {
    /// The body as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("not JSON: {:?}", self.body))
    }

    /// What the envelope holds: `data` of a success; a failure becomes an error with its code and message.
    pub fn data(&self) -> Result<Value> {
        let mut envelope = self.json()?;
        if envelope["success"] != true {
            let error = &envelope["error"];
            bail!("{}: {} {}", self.status, error["code"], error["message"]);
        }
        Ok(envelope["data"].take())
    }
}

/// Sends one request and reads the answer to its end.
pub(crate) async fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    token: Option<&str>,
    body: Option<&str>,
) -> Result<Response> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    if let Some(token) = token {
        head.push_str(&format!("Authorization: Bearer {token}\r\n"));
    }
    let body = body.unwrap_or_default();
    if !body.is_empty() {
        head.push_str("Content-Type: application/json\r\n");
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(head.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer = timeout(ANSWER_MAX, exchange).await.context("no answer in time").and_then(|answer| answer);
    let answer = answer.with_context(|| format!("{method} http://{address}{path}"))?;
    parse(&answer).with_context(|| format!("answer to {method} {path}"))
}

fn parse(answer: &[u8]) -> Result<Response> {
    let answer = std::str::from_utf8(answer).context("not UTF-8")?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no end of the headers")?;
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).context("no status line")?.parse()?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let header =
        |wanted: &str| headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
    if header("transfer-encoding").is_some() {
        bail!("the body is chunked");
    }
    if let Some(length) = header("content-length")
        && length.parse() != Ok(body.len())
    {
        bail!("the body has {} of {length} bytes", body.len());
    }
    Ok(Response { status, body: body.to_owned(), headers })
}

const ANSWER_MAX: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_taken_whole_or_refused() {
        let check = |answer: &str, expected: Option<(u16, &str)>| {
            let parsed = parse(answer.as_bytes()).ok();
            assert_eq!(parsed.as_ref().map(|r| (r.status, r.body.as_str())), expected, "{answer:?}");
        };
        check("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Some((200, "ok")));
        check("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n", Some((503, "")));
        check("HTTP/1.1 200 OK\r\n\r\nto the end", Some((200, "to the end")));
        check("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", None);
        check("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", None);
        check("HTTP/1.1 200 OK\r\n", None);
        check("", None);
    }

    #[test]
    fn the_envelope_opens() {
        let response = |body: &str| Response { status: 200, headers: Vec::new(), body: body.to_owned() };
        assert_eq!(response(r#"{"success":true,"data":{"a":1}}"#).data().unwrap()["a"], 1);
        let error =
            response(r#"{"success":false,"error":{"code":"NO","message":"not now","action":"wait"}}"#).data();
        assert!(error.unwrap_err().to_string().contains("not now"));
    }
}
