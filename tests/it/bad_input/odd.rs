//! Frames that no driver sends, and some of which mongod takes all the same (`wire-facts.md` 1.1 to 1.4, 2.2, 12).

use anyhow::Result;
use bson::raw::{RawDocument, RawDocumentBuf};
use bson::rawdoc;

use super::raw::{
    CHECKSUM_PRESENT, EXHAUST_ALLOWED, MORE_TO_COME, OP_MSG, OP_QUERY, body, checksummed, compressed, frame,
    op_msg, packed, sequence,
};

/// What is odd about them is their name. Each connection is half closed behind them.
pub fn all() -> Result<Vec<(&'static str, Vec<u8>)>> {
    let ping = op_msg(0, &body(&rawdoc! {"ping": 1, "$db": "admin"}));
    let behind = |bytes: Vec<u8>| [bytes, ping.clone()].concat();
    let insert =
        |id: i32| op_msg(0, &body(&rawdoc! {"insert": "bad", "documents": [{"_id": id}], "$db": "it"}));
    let query = |ns: &str, command: &RawDocument| {
        let ns = [ns.as_bytes(), &[0]].concat();
        frame(
            OP_QUERY,
            &[&[0; 4], &ns[..], &[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff], command.as_bytes()].concat(),
        )
    };
    let (of_ping, of_insert) = (&ping[16..], insert(950));
    let of_insert = &of_insert[16..];
    let length = |bytes: &[u8]| i32::try_from(bytes.len());
    let empty = rawdoc! {};
    let bare = body(&rawdoc! {"insert": "bad", "$db": "it"});
    let silent_insert = |id: i32| {
        let command =
            rawdoc! {"insert": "bad", "documents": [{"_id": id}], "writeConcern": {"w": 0}, "$db": "it"};
        op_msg(MORE_TO_COME, &body(&command))
    };
    let silent =
        rawdoc! {"insert": "bad", "documents": [{"_id": 960}], "writeConcern": {"w": 0}, "$db": "it"};
    let find = rawdoc! {"find": "other", "filter": {"_id": -1}, "$db": "it"};
    let hello = rawdoc! {"hello": 1, "$db": "admin"};
    let awaitable = rawdoc! {"hello": 1, "maxAwaitTimeMS": 10, "$db": "admin"};
    let sasl = rawdoc! {"saslStart": 1, "mechanism": "PLAIN", "payload": "x", "$db": "$external"};
    let many: Vec<RawDocumentBuf> = vec![RawDocumentBuf::new(); 100_001];
    Ok(vec![
        // Compressed. 12: noop is refused; nothing need be negotiated; hello and saslStart may be.
        ("a ping by the noop compressor", behind(packed(0, OP_MSG, length(of_ping)?, of_ping))),
        ("an insert by the noop compressor", behind(packed(0, OP_MSG, length(of_insert)?, of_insert))),
        ("an insert by an unknown compressor", behind(packed(4, OP_MSG, length(of_insert)?, of_insert))),
        ("nothing by the noop compressor", behind(packed(0, OP_MSG, 0, &[]))),
        ("an insert, not compressed as it says", behind(packed(3, OP_MSG, length(of_insert)?, of_insert))),
        ("a size of -1", behind(packed(2, OP_MSG, -1, &[1, 2, 3]))),
        ("a size of 2 GiB", behind(packed(3, OP_MSG, i32::MAX, &[1, 2, 3]))),
        ("a hello, compressed", behind(compressed(&op_msg(0, &body(&hello))))),
        (
            "a hello by OP_QUERY, compressed",
            behind(compressed(&query("admin.$cmd", &rawdoc! {"isMaster": 1}))),
        ),
        ("a login, compressed", behind(compressed(&op_msg(0, &body(&sasl))))),
        ("a silent insert, compressed", behind(compressed(&silent_insert(951)))),
        ("a checksum inside", behind(compressed(&checksummed(&insert(952))))),
        (
            "a wrong checksum inside",
            behind(compressed(&op_msg(CHECKSUM_PRESENT, &[body(&find), vec![0; 4]].concat()))),
        ),
        // Checksums with other flags.
        ("a checksum, and no reply", behind(checksummed(&silent_insert(953)))),
        ("a checksum over an insert without _id", {
            let command = rawdoc! {"insert": "bad_ids", "documents": [{"a": 1}], "$db": "it"};
            behind(checksummed(&op_msg(0, &body(&command))))
        }),
        ("a checksum and a stream", behind(checksummed(&op_msg(EXHAUST_ALLOWED, &body(&find))))),
        // 2.1: awaitable fields come together.
        ("a hello that waits for nothing it knows", behind(op_msg(0, &body(&awaitable)))),
        ("a stream of hellos without its fields", behind(op_msg(EXHAUST_ALLOWED, &body(&hello)))),
        // 1.1: OP_QUERY.
        ("OP_QUERY to a collection", behind(query("it.other", &rawdoc! {"_id": 1}))),
        ("OP_QUERY to users", behind(query("admin.system.users", &rawdoc! {}))),
        ("OP_QUERY to no namespace", behind(query("", &rawdoc! {"isMaster": 1}))),
        ("OP_QUERY to a database", behind(query("admin", &rawdoc! {"isMaster": 1}))),
        ("OP_QUERY buildInfo", behind(query("it.$cmd", &rawdoc! {"_isSelf": 1}))),
        ("OP_QUERY ping", behind(query("it.$cmd", &rawdoc! {"ping": 1}))),
        (
            "OP_QUERY insert",
            behind(query("it.$cmd", &rawdoc! {"insert": "bad", "documents": [{"_id": 954}]})),
        ),
        ("OP_QUERY of nothing", behind(query("it.$cmd", &empty))),
        // Sections.
        ("an empty sequence", behind(op_msg(0, &[bare.clone(), sequence("documents", &[], 0)].concat()))),
        (
            "a sequence without a name",
            behind(op_msg(0, &[bare.clone(), sequence("", &[rawdoc! {}], 0)].concat())),
        ),
        (
            "an unknown sequence",
            behind(op_msg(0, &[bare.clone(), sequence("wrong", &[rawdoc! {}], 0)].concat())),
        ),
        ("a security token", behind(op_msg(0, &[bare.clone(), vec![2], empty.as_bytes().to_vec()].concat()))),
        (
            "a sequence for a find",
            behind(op_msg(0, &[body(&find), sequence("documents", &[rawdoc! {}], 0)].concat())),
        ),
        ("a pipeline as a sequence", {
            let command = rawdoc! {"aggregate": "other", "cursor": {}, "$db": "it"};
            behind(op_msg(0, &[body(&command), sequence("pipeline", &[rawdoc! {"$limit": 1}], 0)].concat()))
        }),
        ("$db first", behind(op_msg(0, &body(&rawdoc! {"$db": "it", "insert": "bad"})))),
        (
            "one document too many",
            behind(op_msg(0, &[bare.clone(), sequence("documents", &many, 0)].concat())),
        ),
        ("one too many, compressed", {
            let few = &many[..5_000];
            behind(compressed(&op_msg(
                0,
                &[bare, sequence("documents", few, 0), sequence("updates", few, 0)].concat(),
            )))
        }),
        // 3: no reply is wanted of whatever it is.
        ("a find that wants no answer", behind(op_msg(MORE_TO_COME, &body(&find)))),
        ("a hello that wants none", behind(op_msg(MORE_TO_COME, &body(&hello)))),
        ("a write that wants none and says w: 1", {
            let command = rawdoc! {"insert": "bad", "documents": [{"_id": 955}], "$db": "it"};
            behind(op_msg(MORE_TO_COME, &body(&command)))
        }),
        ("a write of w: 0 that wants an answer", behind(op_msg(0, &body(&silent)))),
        ("the same again", behind(op_msg(0, &body(&silent)))),
        ("a cursor that nobody has", {
            behind(op_msg(
                EXHAUST_ALLOWED,
                &body(&rawdoc! {"getMore": 5_i64, "collection": "other", "$db": "it"}),
            ))
        }),
        ("10,000 requests at once", ping.repeat(10_000)),
        (
            "1,000 silent writes at once",
            behind((0..1_000).flat_map(|id| silent_insert(10_000 + id)).collect()),
        ),
    ])
}
