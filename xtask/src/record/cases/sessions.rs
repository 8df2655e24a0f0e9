//! Retryable writes and transactions.

use bson::spec::BinarySubtype;
use bson::{Binary, Document, doc};

use super::{Case, Servers, case, delete, find, insert, on, three, update, with};

/// Of another session for each case: the server remembers them.
pub(super) fn of_session(session: u8, number: i64) -> Document {
    doc! {"lsid": {"id": Binary { subtype: BinarySubtype::Uuid, bytes: vec![session; 16] }}, "txnNumber": number}
}

pub(super) fn sessions() -> Vec<Case> {
    let twice = |name, session: u8, command: Document| {
        let command = with(command, of_session(session, 1));
        case(name, three(), vec![command.clone(), command])
    };
    let inc = || doc! {"q": {"_id": 1}, "u": {"$inc": {"n": 1}}};
    let insert = |ids: &[i32]| insert(ids.iter().map(|id| doc! {"_id": *id}).collect());
    let overlap = vec![with(insert(&[8]), of_session(23, 1)), with(insert(&[8, 9]), of_session(23, 1))];
    let series = vec![doc! {"create": "items", "timeseries": {"timeField": "at"}}];
    let at = with(
        doc! {"insert": "items", "documents": [{"_id": 1, "at": bson::DateTime::from_millis(5)}]},
        of_session(24, 1),
    );
    let old = vec![with(insert(&[8]), of_session(25, 5)), with(insert(&[9]), of_session(25, 4))];
    on(
        Servers::ReplicaSet,
        vec![
            twice("retried_insert", 17, insert(&[8])),
            twice("retried_update", 18, update(vec![inc()])),
            twice(
                "retried_upsert",
                19,
                update(vec![doc! {"q": {"k": 1}, "u": {"$set": {"n": 1}}, "upsert": true}]),
            ),
            twice("retried_delete", 20, delete(vec![doc! {"q": {"n": 2}, "limit": 1}])),
            twice("retried_find", 21, find(doc! {"query": {"n": 2}, "update": {"$inc": {"n": 1}}})),
            twice(
                "retried_without_effect",
                22,
                update(vec![doc! {"q": {"_id": 77}, "u": {"$inc": {"n": 1}}}]),
            ),
            case("retried_overlap", three(), overlap),
            case("retried_time_series", series, vec![at.clone(), at]),
            case("retried_too_old", three(), old),
            case(
                "many_with_a_number",
                three(),
                vec![with(
                    update(vec![doc! {"q": {}, "u": {"$inc": {"n": 1}}, "multi": true}]),
                    of_session(26, 1),
                )],
            ),
        ],
    )
}

pub(super) fn transactions() -> Vec<Case> {
    let of = |session: u8, command: Document| {
        with(command, with(of_session(session, 1), doc! {"autocommit": false}))
    };
    let first = |session: u8, command: Document| of(session, with(command, doc! {"startTransaction": true}));
    let end = |session: u8, name: &str| of(session, doc! {name: 1, "$db": "admin"});
    let inc = |id: i32| update(vec![doc! {"q": {"_id": id}, "u": {"$inc": {"n": 1}}}]);
    let number = |mut command: Document, number: i64| {
        command.insert("txnNumber", number);
        command
    };
    on(
        Servers::ReplicaSet,
        vec![
            case(
                "transaction",
                three(),
                vec![
                    first(33, inc(1)),
                    of(33, inc(2)),
                    end(33, "commitTransaction"),
                    end(33, "commitTransaction"),
                ],
            ),
            case(
                "transaction_aborted",
                three(),
                vec![first(34, inc(1)), end(34, "abortTransaction"), end(34, "abortTransaction")],
            ),
            case(
                "transaction_with_a_clash",
                three(),
                vec![
                    first(35, inc(1)),
                    of(35, insert(vec![doc! {"_id": 1}])),
                    of(35, inc(2)),
                    end(35, "commitTransaction"),
                ],
            ),
            case(
                "transaction_with_a_refusal",
                three(),
                vec![
                    first(36, inc(1)),
                    of(36, with(inc(2), doc! {"unheardOf": 1})),
                    end(36, "commitTransaction"),
                ],
            ),
            case(
                "transaction_fails_in_find",
                three(),
                vec![
                    first(37, inc(1)),
                    of(37, find(doc! {"query": {"_id": 1}, "update": {"$inc": {"s": 1}}})),
                    end(37, "commitTransaction"),
                ],
            ),
            case(
                "transaction_left_for_another",
                three(),
                vec![
                    first(38, inc(1)),
                    number(first(38, inc(2)), 2),
                    number(end(38, "commitTransaction"), 2),
                    end(38, "commitTransaction"),
                ],
            ),
            case(
                "abort_after_commit",
                three(),
                vec![first(39, inc(1)), end(39, "commitTransaction"), end(39, "abortTransaction")],
            ),
            case(
                "transaction_with_a_concern_at_its_end",
                three(),
                vec![first(40, inc(1)), with(end(40, "commitTransaction"), doc! {"writeConcern": {"w": 2}})],
            ),
            case(
                "drop_in_a_transaction",
                three(),
                vec![first(41, inc(1)), of(41, doc! {"drop": "items"}), end(41, "commitTransaction")],
            ),
            case(
                "create_in_a_transaction",
                three(),
                vec![first(42, doc! {"create": "others"}), of(42, inc(1)), end(42, "commitTransaction")],
            ),
        ],
    )
}

/// Queryable Encryption, which needs transactions inside of the server.
pub(super) fn encrypted() -> Vec<Case> {
    let key = Binary { subtype: BinarySubtype::Uuid, bytes: vec![9; 16] };
    let fields = doc! {
        "escCollection": "enxcol_.items.esc", "eccCollection": "enxcol_.items.ecc",
        "ecocCollection": "enxcol_.items.ecoc",
        "fields": [{"keyId": key, "path": "secret", "bsonType": "string", "queries": [{"queryType": "equality"}]}],
    };
    let information = doc! {"encryptionInformation": {"type": 1, "schema": {"shop.items": fields.clone()}}};
    let one = with(insert(vec![doc! {"_id": 1}]), information.clone());
    let two = with(insert(vec![doc! {"_id": 2}, doc! {"_id": 3}]), information);
    let before = vec![doc! {"create": "items", "encryptedFields": fields}];
    on(Servers::ReplicaSet, vec![case("insert_encrypted", before, vec![one, two])])
}
