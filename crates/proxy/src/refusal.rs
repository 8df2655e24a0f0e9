//! Why a client is not served, told in answer to its first request: drivers show it where they say that they find no server.

use bson::rawdoc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wire::{Flags, FrameReader, Header, OpCode, Section, encode_msg};

use crate::{gate::Denied, stream::Stream};

/// Reads the first request and answers it; a client that sends none, or nothing that is one, is told nothing.
pub(crate) async fn tell(client: &mut Stream, denied: Denied) -> std::io::Result<()> {
    let mut frames = FrameReader::default();
    let header = loop {
        match frames.head().map_err(std::io::Error::other)? {
            Some(head) if head.bytes.len() == head.header.length => break head.header,
            Some(head) if head.header.length > REQUEST_BYTES_MAX => return Ok(()),
            _ => {}
        }
        if client.read_buf(frames.buffer_mut()).await? == 0 {
            return Ok(());
        }
    };
    if let Some(answer) = answer(header, denied) {
        client.write_all(&answer).await?;
        client.flush().await?;
    }
    client.shutdown().await
}

fn answer(request: Header, denied: Denied) -> Option<Vec<u8>> {
    let (code, name) = denied.code();
    let error = rawdoc! { "ok": 0.0, "errmsg": denied.why(), "code": code, "codeName": name };
    let to = request.request_id;
    match request.opcode {
        OpCode::Msg => encode_msg(0, to, Flags::default(), &[Section::Body(&error)]).ok(),
        OpCode::Query => {
            //= OP_REPLY: int32 flags; int64 cursor; int32 starting from; int32 number returned; documents
            let body = [&8_i32.to_le_bytes()[..], &[0; 12], &1_i32.to_le_bytes(), error.as_bytes()].concat();
            let length = i32::try_from(16 + body.len()).ok()?;
            Some([&[length, 0, to, OpCode::Reply.code()].map(i32::to_le_bytes).concat(), &body[..]].concat())
        }
        _ => None,
    }
}

/// A driver's first request has some hundred bytes.
const REQUEST_BYTES_MAX: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use wire::{OpMsg, hello};

    use super::*;

    #[test]
    fn either_protocol_gets_an_answer() {
        let header = |opcode| Header { length: 100, request_id: 7, response_to: 0, opcode };
        for (denied, code) in [(Denied::Open, 13), (Denied::Unknown, 91)] {
            let said = answer(header(OpCode::Msg), denied).unwrap();
            let said = OpMsg::parse(&said).unwrap();
            assert_eq!((said.header.response_to, said.body().get_i32("code").unwrap()), (7, code));
            assert_eq!(said.body().get_str("errmsg").unwrap(), denied.why());
        }
        let said = answer(header(OpCode::Query), Denied::Unknown).unwrap();
        assert_eq!(Header::of(&said).unwrap().response_to, 7);
        assert_eq!(hello::rewrite_reply(&said, &hello::Names::only("a:1"), hello::Asked::Members), Ok(None));
        assert_eq!(answer(header(OpCode::Compressed), Denied::Open), None);
    }
}
