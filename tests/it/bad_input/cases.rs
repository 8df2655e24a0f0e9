//! Frames that are wrong, one way each.

use anyhow::{Context, Result};
use bson::raw::{CString, RawDocument, RawDocumentBuf, cstr};
use bson::rawdoc;

use super::raw::{
    self, CHECKSUM_PRESENT, MORE_TO_COME, OP_COMPRESSED, OP_MSG, body, frame, header, op_msg, sequence,
};

/// What is wrong with them is their name. Each connection is half closed behind them.
pub fn all() -> Result<Vec<(&'static str, Vec<u8>)>> {
    let ping = rawdoc! {"ping": 1, "$db": "admin"};
    let ping = || body(&ping);
    let whole = || op_msg(0, &ping());
    let behind = |bytes: Vec<u8>| [bytes, whole()].concat();
    let insert = |id: i32| body(&rawdoc! {"insert": "bad", "documents": [{"_id": id}], "$db": "it"});
    let bare = rawdoc! {"insert": "bad", "$db": "it"};
    let docs = [rawdoc! {"_id": 900}, rawdoc! {"_id": 901}];
    let mut lying = body(&rawdoc! {"insert": "bad", "documents": [{"_id": 902}], "$db": "it"});
    lying[1] = lying[1].wrapping_add(9);
    let mut lying_inside = insert(903);
    let array = lying_inside.windows(10).position(|window| window == b"documents\0");
    let array = array.context("no documents")? + 10;
    lying_inside[array] = lying_inside[array].wrapping_add(5);
    let not_compressed = [0xdd, 7, 0, 0, 35, 0, 0, 0, 2, 1, 2, 3];
    let hello = b"admin.$cmd\0\0\0\0\0\xff\xff\xff\xff";
    let hello = [&[0; 4], hello.as_slice(), rawdoc! {"isMaster": "text"}.as_bytes()].concat();
    let mut noisy = body(&rawdoc! {"hello": 1, "$db": "NOISE"});
    let noise = noisy.windows(5).position(|window| window == b"NOISE").context("no noise")?;
    noisy[noise] = 0xff;
    let query = |ns: &[u8], body: &RawDocument| {
        frame(2004, &[&[0; 4], ns, &[0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff], body.as_bytes()].concat())
    };
    let old_insert = frame(2002, &[&[0; 4], b"it.bad\0".as_slice(), docs[0].as_bytes()].concat());
    let selector = rawdoc! {"_id": 900};
    let old_update =
        [&[0; 4], b"it.bad\0".as_slice(), &[1, 0, 0, 0], selector.as_bytes(), docs[1].as_bytes()].concat();
    let old_delete = [&[0; 4], b"it.bad\0".as_slice(), &[0; 4], selector.as_bytes()].concat();
    let old_write = rawdoc! {"insert": "bad", "documents": [{"_id": 920}]};
    let wrapped = rawdoc! {"$query": old_write.clone()};
    Ok(vec![
        ("nothing wrong", whole()),
        ("nothing at all", Vec::new()),
        ("length 15", behind(header(15, OP_MSG))),
        ("length 0", behind(header(0, OP_MSG))),
        ("length 48,000,001", behind(header(48_000_001, OP_MSG))),
        ("a negative length", behind(header(-1, OP_MSG))),
        ("the smallest length", behind(header(i32::MIN, OP_MSG))),
        ("the largest length", behind(header(i32::MAX, OP_MSG))),
        ("a ping before a bad length", [whole(), header(15, OP_MSG)].concat()),
        ("a header and no more", header(100, OP_MSG)),
        ("half a header", header(100, OP_MSG)[..9].to_vec()),
        ("cut in the middle", whole()[..30].to_vec()),
        ("a header alone as a frame", behind(header(16, OP_MSG))),
        ("flags and no section", behind(op_msg(0, &[]))),
        ("GET / HTTP/1.1", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec()),
        ("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".repeat(30)),
        ("an unknown opcode", behind(frame(4711, &ping()))),
        ("opcode 0", behind(frame(0, &ping()))),
        ("OP_REPLY as a request", behind(frame(1, &ping()))),
        // wire-facts 1.1: closed, nothing is applied; or answered with an error.
        ("OP_INSERT", behind(old_insert.clone())),
        ("OP_INSERT, compressed", behind(raw::compressed(&old_insert))),
        ("OP_UPDATE", behind(frame(2001, &old_update))),
        ("OP_DELETE", behind(frame(2006, &old_delete))),
        ("OP_GET_MORE", behind(frame(2005, &[&[0; 4], b"it.bad\0".as_slice(), &[0; 12]].concat()))),
        ("OP_KILL_CURSORS", behind(frame(2007, &[&[0; 4], &[1, 0, 0, 0][..], &[0; 8]].concat()))),
        ("a write by OP_QUERY", behind(query(b"it.$cmd", &old_write))),
        ("a write by OP_QUERY, wrapped", behind(query(b"it.$cmd", &wrapped))),
        ("a read by OP_QUERY", behind(query(b"it.bad", &selector))),
        ("compressed twice", behind(raw::compressed(&raw::compressed(&whole())))),
        ("OP_QUERY that is no hello", behind(frame(2004, &hello))),
        ("OP_QUERY without a query", behind(frame(2004, &[0; 7]))),
        ("a hello that is none", behind(op_msg(0, &body(&rawdoc! {"hello": 1})))),
        ("a hello whose error quotes noise", behind(op_msg(0, &noisy))),
        ("a stream that is none", behind(op_msg(1 << 16, &ping()))),
        ("a command that wants no answer", behind(op_msg(MORE_TO_COME, &ping()))),
        ("no $db", behind(op_msg(0, &body(&rawdoc! {"insert": "bad", "documents": [{"_id": 904}]})))),
        ("no command", behind(op_msg(0, &body(&rawdoc! {})))),
        ("no body", behind(op_msg(0, &sequence("documents", &docs, 0)))),
        ("two bodies", behind(op_msg(0, &[insert(905), insert(906)].concat()))),
        ("two pings", behind(op_msg(0, &[ping(), ping()].concat()))),
        ("an unknown section kind", behind(op_msg(0, &[insert(907), vec![9, 1, 2, 3]].concat()))),
        // Closed without a word: nothing of it was run.
        ("an unknown required flag", behind(op_msg(1 << 5, &insert(908)))),
        ("OP_COMPRESSED that is not compressed", behind(frame(OP_COMPRESSED, &not_compressed))),
        ("an unknown optional flag", behind(op_msg(1 << 25, &ping()))),
        ("a bad checksum", behind(op_msg(CHECKSUM_PRESENT, &[insert(909), vec![1, 2, 3, 4]].concat()))),
        ("a checksum that is not there", behind(op_msg(CHECKSUM_PRESENT, &insert(910)))),
        ("a document that lies about its length", behind(op_msg(0, &lying))),
        ("an array that lies about its length", behind(op_msg(0, &lying_inside))),
        ("a document of length 4", behind(op_msg(0, b"\0\x04\0\0\0"))),
        ("a document of length -1", behind(op_msg(0, b"\0\xff\xff\xff\xff\0"))),
        (
            "a sequence that is too long",
            behind(op_msg(0, &[body(&bare), sequence("documents", &docs, 3)].concat())),
        ),
        (
            "a sequence that is too short",
            behind(op_msg(0, &[body(&bare), sequence("documents", &docs, -3)].concat())),
        ),
        ("a sequence of size 0", behind(op_msg(0, &[body(&bare), vec![1, 0, 0, 0, 0]].concat()))),
        (
            "a sequence before its body, with a bad size",
            behind(op_msg(0, &[sequence("documents", &docs, 3), body(&bare)].concat())),
        ),
        (
            "the same sequence twice",
            behind(op_msg(
                0,
                &[body(&bare), sequence("documents", &docs, 0), sequence("documents", &docs, 0)].concat(),
            )),
        ),
        (
            "documents in the body and in a sequence",
            behind(op_msg(0, &[insert(911), sequence("documents", &docs, 0)].concat())),
        ),
        (
            "an insert of no array",
            behind(op_msg(0, &body(&rawdoc! {"insert": "bad", "documents": 5, "$db": "it"}))),
        ),
        ("an insert without documents", behind(op_msg(0, &body(&bare)))),
        (
            "an insert into a number",
            behind(op_msg(0, &body(&rawdoc! {"insert": 5, "documents": [{"_id": 912}], "$db": "it"}))),
        ),
        (
            "an insert into no collection",
            behind(op_msg(0, &body(&rawdoc! {"insert": "", "documents": [{"_id": 913}], "$db": "it"}))),
        ),
        (
            "an update of no array",
            behind(op_msg(0, &body(&rawdoc! {"update": "bad", "updates": "x", "$db": "it"}))),
        ),
        (
            "an update without a filter",
            behind(op_msg(0, &body(&rawdoc! {"update": "bad", "updates": [{"u": {}}], "$db": "it"}))),
        ),
        ("an unknown command", behind(op_msg(0, &body(&rawdoc! {"frobnicate": 1, "$db": "it"})))),
        ("a command of 100,000 characters", behind(op_msg(0, &body(&long_name()?)))),
    ])
}

fn long_name() -> Result<RawDocumentBuf> {
    let mut command = RawDocumentBuf::new();
    command.append(CString::try_from("x".repeat(100_000))?, 1);
    command.append(cstr!("$db"), "it");
    Ok(command)
}
