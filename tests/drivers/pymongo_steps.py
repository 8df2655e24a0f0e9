"""What an application may do with PyMongo: URI DATABASE KIND SIZE (KIND: standalone, rs; SIZE: small, large).

Prints one line for each step: its name and what came of it. The lines must be the same whether URI leads to mongod itself
or to the proxy; times, generated ids and addresses are made equal by whoever compares.
"""

import asyncio
import hashlib
import random
import sys
import threading
import traceback

import bson
import gridfs
import pymongo
from bson import json_util
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import DeleteMany, DeleteOne, IndexModel, InsertOne, ReplaceOne, UpdateMany, UpdateOne
from pymongo import ReadPreference, ReturnDocument, WriteConcern, monitoring
from pymongo.collation import Collation
from pymongo.cursor import CursorType
from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern

URI, DATABASE, KIND, SIZE = sys.argv[1:5]
REPLICA_SET = KIND == "rs"
LARGE = SIZE == "large"
STEPS = []


class Commands(monitoring.CommandListener):
    """Remembers the commands of a step, with the fields that they bore."""

    def __init__(self):
        self.seen = {}

    def started(self, event):
        hidden = ("lsid", "$clusterTime", "$db", "documents", "updates", "deletes")
        # Cursors that were left alone are killed from a thread of the driver's, some time later.
        if event.command_name != "killCursors":
            self.seen[event.request_id] = [event.command_name, [key for key in event.command if key not in hidden]]

    def succeeded(self, event):
        self.seen.get(event.request_id, []).append("ok")

    def failed(self, event):
        self.seen.get(event.request_id, []).append(event.failure.get("code"))


commands = Commands()
client = pymongo.MongoClient(URI, event_listeners=[commands], serverSelectionTimeoutMS=20000)
db = client[DATABASE]


def step(function):
    STEPS.append(function)
    return function


def collection(name, documents=()):
    """An empty collection, or one with the documents."""
    db.drop_collection(name)
    if documents:
        db[name].insert_many(list(documents))
    return db[name]


def told(error):
    details = getattr(error, "details", None)
    labels = sorted(getattr(error, "_error_labels", ()))
    return {"error": type(error).__name__, "code": getattr(error, "code", None), "labels": labels, "says": str(error), "details": details}


def attempt(function, *args, **kwargs):
    """What it returns, or the error as the driver shows it."""
    try:
        return shown(function(*args, **kwargs))
    except PyMongoError as error:
        return told(error)


def shown(result):
    if isinstance(result, pymongo.collection.Collection):
        return result.name
    for field in ("bulk_api_result", "raw_result", "inserted_ids", "inserted_id"):
        if hasattr(result, field):
            return getattr(result, field)
    return result


def names(documents):
    return [document["_id"] for document in documents]


@step
def server():
    hello = client.admin.command("hello")
    info = client.server_info()
    fields = ["isWritablePrimary", "setName", "hosts", "primary", "me", "maxBsonObjectSize", "maxWireVersion", "compression"]
    return [{key: hello.get(key) for key in fields}, list(hello), info["version"], client.topology_description.topology_type_name]


@step
def insert():
    c = collection("insert")
    return [
        attempt(c.insert_one, {"_id": 1, "a": 1}),
        attempt(c.insert_one, {"a": 2}),
        attempt(c.insert_many, [{"_id": 3}, {"_id": 4}]),
        attempt(c.insert_one, {"_id": 1}),
        attempt(c.insert_many, [{"_id": 5}, {"_id": 1}, {"_id": 6}]),
        attempt(c.insert_many, [{"_id": 7}, {"_id": 1}, {"_id": 3}, {"_id": 8}], ordered=False),
        list(c.find({"a": {"$exists": False}}).sort("_id")),
    ]


@step
def types():
    c = collection("types")
    rng = random.Random(1)
    c.insert_one({
        "_id": {"a": 1, "b": [bson.Int64(2), 2.5]},
        "decimal": bson.Decimal128("12345678901234567890.123"),
        "binary": bson.Binary(rng.randbytes(33), 0x80),
        "regex": bson.Regex("^a.*b$", "im"),
        "code": bson.Code("function() { return x }", {"x": 1}),
        "min": bson.MinKey(),
        "max": bson.MaxKey(),
        "stamp": bson.Timestamp(5, 6),
        "nested": {"deep": {"deeper": [[], {}, None, True]}},
        "text": "zażółć gęślą jaźń \U0001f600",
        "big": 2**62,
        "nan": float("nan"),
        "": "an empty name",
    })
    raw = db.get_collection("types", codec_options=CodecOptions(document_class=RawBSONDocument))
    return [list(c.find()), hashlib.sha256(raw.find_one().raw).hexdigest()]


@step
def server_made_id():
    c = collection("server_made_id")
    reply = db.command({"insert": c.name, "documents": [{"a": 1}, {"b": 2, "_id": 7}]})
    return [reply["n"], reply["ok"], [list(document) for document in c.find().sort("_id")]]


@step
def update():
    c = collection("update", [{"_id": i, "n": i, "l": [1, 2, 3]} for i in range(10)])
    return [
        attempt(c.update_one, {"_id": 1}, {"$inc": {"n": 5}}),
        attempt(c.update_one, {"_id": 99}, {"$inc": {"n": 5}}),
        attempt(c.update_one, {"_id": 99}, {"$set": {"n": 5}}, upsert=True),
        attempt(c.update_one, {"x": "no id"}, {"$set": {"n": 5}}, upsert=True),
        attempt(c.update_many, {"n": {"$gte": 5}}, {"$set": {"many": True}}),
        attempt(c.update_many, {}, [{"$set": {"sum": {"$add": ["$n", 1]}}}]),
        attempt(c.replace_one, {"_id": 2}, {"replaced": True}),
        attempt(c.update_one, {"_id": 3}, {"$set": {"l.$[e]": 9}}, array_filters=[{"e": {"$gt": 1}}]),
        attempt(c.update_one, {"_id": 3, "l": 9}, {"$set": {"l.$": 8}}),
        attempt(c.update_one, {"_id": 4}, {"$set": {"_id": 5}}),
        attempt(c.update_one, {"_id": 4}, {"$bad": {"a": 5}}),
        attempt(c.update_one, {"_id": 4}, {"$inc": {"l": 5}}),
        attempt(c.update_one, {"_id": 4}, {"$set": {"a": 1}}, hint="no such index"),
        list(c.find({"_id": {"$lt": 100}}).sort("_id")),
    ]


@step
def delete():
    c = collection("delete", [{"_id": i, "k": i % 3} for i in range(12)])
    return [
        attempt(c.delete_one, {"_id": 1}),
        attempt(c.delete_one, {"_id": 1}),
        attempt(c.delete_many, {"k": 2}),
        attempt(c.delete_many, {"$where": "this.k = "}),
        list(c.find().sort("_id")),
    ]


@step
def find_and_modify():
    c = collection("find_and_modify", [{"_id": i, "n": i} for i in range(5)])
    return [
        attempt(c.find_one_and_update, {"_id": 1}, {"$inc": {"n": 1}}, return_document=ReturnDocument.AFTER),
        attempt(c.find_one_and_update, {"_id": 77}, {"$inc": {"n": 1}}, upsert=True),
        attempt(c.find_one_and_replace, {"_id": 2}, {"r": 1}, projection={"_id": 0}),
        attempt(c.find_one_and_delete, {"n": {"$gte": 3}}, sort=[("n", -1)]),
        attempt(c.find_one_and_update, {"_id": 1}, {"$rename": {"n": "n"}}),
        attempt(c.find_one_and_delete, {"_id": "none"}),
        list(c.find().sort("_id")),
    ]


@step
def bulk():
    c = collection("bulk", [{"_id": i, "n": 0} for i in range(20)])
    operations = [
        InsertOne({"_id": "a"}),
        UpdateOne({"_id": 1}, {"$set": {"n": 1}}),
        UpdateOne({"_id": "new"}, {"$set": {"n": 1}}, upsert=True),
        UpdateMany({"n": 0}, {"$inc": {"n": 2}}),
        ReplaceOne({"_id": 2}, {"x": 1}),
        DeleteOne({"_id": 3}),
        DeleteMany({"_id": {"$in": [4, 5]}}),
        InsertOne({"_id": "a"}),
        InsertOne({"_id": "b"}),
        UpdateOne({"_id": 6}, {"$inc": {"_id": 1}}),
        InsertOne({"_id": 6}),
    ]
    return [
        attempt(c.bulk_write, operations[:7]),
        attempt(c.bulk_write, operations[7:]),
        attempt(c.bulk_write, operations[7:], ordered=False),
        attempt(c.bulk_write, [InsertOne({"_id": i}) for i in range(100, 2600)]),
        attempt(c.bulk_write, [DeleteOne({"_id": i}) for i in range(100, 2600)], ordered=False),
        attempt(client.bulk_write, [pymongo.InsertOne({"_id": 1}, namespace=f"{DATABASE}.bulk")]),
        list(c.find({"n": {"$ne": 2}})),
    ]


@step
def errors():
    c = collection("errors", [{"_id": 1, "u": 1}])
    c.create_index("u", unique=True)
    db.drop_collection("validated")
    db.create_collection("validated", validator={"$jsonSchema": {"required": ["a"], "properties": {"a": {"bsonType": "int"}}}})
    return [
        attempt(c.insert_one, {"_id": 2, "u": 1}),
        attempt(c.update_one, {"_id": 3}, {"$set": {"u": 1}}, upsert=True),
        attempt(c.find_one_and_update, {"_id": 3}, {"$set": {"u": 1}}, upsert=True),
        attempt(db.validated.insert_one, {"a": "text"}),
        attempt(db.validated.insert_many, [{"_id": 1, "a": 1}, {"_id": 2}, {"_id": 3, "a": 3}], ordered=False),
        attempt(db.validated.insert_one, {"_id": 9}, bypass_document_validation=True),
        attempt(db.command, "nosuchcommand"),
        attempt(db.command, "find", "errors", nosuchfield=1),
        attempt(db.command, {"delete": "errors", "deletes": [{"q": {}, "limit": 2}]}),
        attempt(db.command, "insert", "errors", documents=[{"_id": 4}], writeConcern={"w": 7, "wtimeout": 1}),
        attempt(db.command, "getLastError"),
        attempt(db.command, {"insert": "", "documents": [{"a": 1}]}),
        attempt(db["system.nosuch"].insert_one, {"a": 1}),
        attempt(c.find_one, {"$nosuch": 1}),
        # Where the server notices it is a matter of chance, and the text says where.
        attempt(list, c.find({"$where": "sleep(2000) || true"}).max_time_ms(50))["code"],
        attempt(c.with_options(write_concern=WriteConcern(w=5, wtimeout=50)).insert_one, {"_id": 50}),
        attempt(db.create_collection, "errors"),
        attempt(db.command, "create", "errors", capped=True, size=4096),
        attempt(db.command, "drop", "no_such_collection"),
        attempt(c.rename, "validated"),
        attempt(c.create_index, [("u", 1)], name="another"),
        attempt(c.drop_index, "none"),
        attempt(db.command, {"ping": 1, "apiVersion": "9"}),
    ]


@step
def collations():
    c = collection("collations", [{"_id": i, "s": s} for i, s in enumerate(["a", "A", "b", "ä", "10", "9"])])
    weak, numeric = Collation("de", strength=1), Collation("en", numericOrdering=True)
    db.drop_collection("collated")
    db.create_collection("collated", collation={"locale": "en", "strength": 2})
    return [
        list(c.find({"s": "a"}).collation(weak).sort("_id")),
        list(c.find().collation(numeric).sort("s")),
        attempt(c.update_many, {"s": "A"}, {"$set": {"hit": 1}}, collation=weak),
        attempt(c.delete_one, {"s": "B"}, collation=weak),
        attempt(db.collated.insert_many, [{"_id": "a"}, {"_id": "A"}]),
        attempt(c.find_one, {}, collation=Collation("xx_NOSUCH")),
    ]


@step
def cursors():
    c = collection("cursors", [{"_id": i} for i in range(1000)])
    partly = c.find(batch_size=10)
    first = [next(partly)["_id"] for _ in range(25)]
    gone = partly.cursor_id
    partly.close()
    small = c.find(batch_size=3).limit(100)
    raw = b"".join(c.find_raw_batches(batch_size=300))
    return [
        first,
        attempt(db.command, "getMore", gone, collection="cursors"),
        db.command("killCursors", "cursors", cursors=[gone])["cursorsNotFound"] == [gone],
        sum(names(small)),
        hashlib.sha256(raw).hexdigest(),
        [c.count_documents({"_id": {"$gt": 500}}), c.estimated_document_count(), len(c.distinct("_id"))],
        list(c.find({"_id": {"$lt": 100}}, {"_id": 1}).sort("_id", -1).skip(5).limit(3).comment("hi").hint("_id_")),
    ]


@step
def exhaust():
    c = collection("exhaust", [{"_id": i, "fill": "x" * 500} for i in range(3000)])
    seen = names(c.find(cursor_type=CursorType.EXHAUST, batch_size=50))
    early = c.find(cursor_type=CursorType.EXHAUST, batch_size=50)
    some = [next(early)["_id"] for _ in range(120)]
    early.close()
    return [seen == list(range(3000)), some[-1], c.count_documents({})]


@step
def tailable():
    db.drop_collection("tailable")
    c = db.create_collection("tailable", capped=True, size=1 << 20)
    c.insert_many([{"_id": i} for i in range(3)])
    cursor = c.find(cursor_type=CursorType.TAILABLE_AWAIT, batch_size=1).max_await_time_ms(2000)
    seen = [next(cursor)["_id"] for _ in range(3)]
    later = threading.Timer(0.05, lambda: c.insert_one({"_id": "late"}))
    later.start()
    seen.append(next(cursor)["_id"])
    later.join()
    quick = c.find(cursor_type=CursorType.TAILABLE)
    seen.append(names([document for document in quick]))
    seen.append(quick.alive)
    cursor.close(), quick.close()
    return seen


@step
def aggregation():
    c = collection("aggregation", [{"_id": i, "g": i % 3, "v": i} for i in range(30)])
    grouped = [{"$group": {"_id": "$g", "sum": {"$sum": "$v"}}}, {"$sort": {"_id": 1}}]
    db.drop_collection("out"), db.drop_collection("merged")
    return [
        list(c.aggregate(grouped)),
        list(c.aggregate([*grouped, {"$out": "out"}])),
        list(c.aggregate([{"$match": {"g": 0}}, {"$merge": {"into": "merged", "whenMatched": "replace"}}])),
        attempt(c.aggregate, [{"$match": {"g": 0}}, {"$merge": {"into": "merged", "whenMatched": "fail"}}]),
        attempt(list, c.aggregate([{"$out": {"db": DATABASE, "coll": "out"}}], batchSize=0)),
        list(db.out.find().sort("_id").limit(4)),
        names(db.merged.find().sort("_id")),
        list(c.aggregate([{"$lookup": {"from": "out", "localField": "_id", "foreignField": "_id", "as": "o"}}, {"$limit": 2}])),
        len(list(c.aggregate([{"$unionWith": "out"}], batchSize=7))),
        list(db.aggregate([{"$documents": [{"x": 1}]}])),
        attempt(c.aggregate, [{"$nosuch": 1}]),
    ]


@step
def map_reduce():
    c = collection("map_reduce", [{"_id": i, "k": i % 2} for i in range(6)])
    job = {"mapReduce": c.name, "map": "function() { emit(this.k, 1) }", "reduce": "function(k, v) { return Array.sum(v) }"}
    return [sorted(db.command({**job, "out": {"inline": 1}})["results"], key=str), db.command({**job, "out": "reduced"})["result"], list(db.reduced.find().sort("_id"))]


@step
def ddl():
    db.drop_collection("ddl"), db.drop_collection("ddl2")
    c = db.create_collection("ddl")
    models = [IndexModel("a"), IndexModel([("b", -1)], unique=True, sparse=True), IndexModel([("t", "text")], name="words")]
    result = [
        attempt(c.create_indexes, models),
        attempt(c.create_index, "ttl", expireAfterSeconds=100000),
        list(c.list_indexes()),
        attempt(db.command, "collMod", "ddl", index={"name": "ttl_1", "expireAfterSeconds": 200000}),
        attempt(c.drop_index, "a_1"),
        attempt(c.rename, "ddl2"),
        sorted(db.ddl2.index_information()),
        attempt(db.create_collection, "view", viewOn="ddl2", pipeline=[{"$match": {"x": 1}}]),
        attempt(db.view.insert_one, {"a": 1}),
        sorted((it["name"], it["type"]) for it in db.list_collections(filter={"name": {"$in": ["ddl", "ddl2", "view"]}})),
        attempt(db.command, "convertToCapped", "ddl2", size=100000),
        db.ddl2.options(),
        attempt(db.validate_collection, "ddl2")["valid"],
    ]
    db.drop_collection("view")
    return result


@step
def administration():
    stats = db.command("dbStats")
    other = client[DATABASE + "_other"]
    other.c.insert_one({"_id": 1})
    listed = DATABASE + "_other" in client.list_database_names()
    dropped = client.drop_database(other.name)
    users = [
        db.command("createUser", "reader", pwd="secret", roles=["read"])["ok"],
        attempt(db.command, "createUser", "reader", pwd="secret", roles=["read"]),
        [user["user"] for user in db.command("usersInfo")["users"]],
        db.command("dropUser", "reader")["ok"],
    ]
    return [
        stats["db"],
        sorted(stats),
        listed,
        dropped,
        users,
        client.admin.command("whatsmyuri")["ok"],
        sorted(client.admin.command("serverStatus")["opcounters"]),
        client.admin.command("connectionStatus")["authInfo"]["authenticatedUsers"],
        client.admin.command("getParameter", 1, featureCompatibilityVersion=1)["featureCompatibilityVersion"],
        db.command("profile", -1)["was"],
    ]


@step
def explain():
    c = collection("explain", [{"_id": i, "a": i} for i in range(10)])
    c.create_index("a")
    plan = c.find({"a": {"$gt": 3}}).explain()
    update = {"update": "explain", "updates": [{"q": {"a": 1}, "u": {"$set": {"b": 1}}}]}
    written = db.command("explain", update, verbosity="executionStats")["executionStats"]
    return [plan["queryPlanner"]["winningPlan"], plan["executionStats"]["nReturned"], written["totalDocsExamined"], c.find_one({"a": 1})]


@step
def unacknowledged():
    c = collection("unacknowledged", [{"_id": 0}])
    silent = c.with_options(write_concern=WriteConcern(w=0))
    # One connection only, so that the reading sees the writing.
    with pymongo.MongoClient(URI, maxPoolSize=1) as single:
        silent = single[DATABASE].get_collection(c.name, write_concern=WriteConcern(w=0))
        results = [
            attempt(silent.insert_one, {"_id": 1}),
            attempt(silent.insert_one, {"_id": 1, "twice": True}),
            attempt(silent.insert_many, [{"_id": i} for i in range(2, 40)], ordered=False),
            attempt(silent.update_one, {"_id": 2}, {"$set": {"u": 1}}),
            attempt(silent.update_many, {"_id": {"$gt": 30}}, {"$set": {"u": 2}}),
            attempt(silent.delete_one, {"_id": 3}),
            attempt(silent.bulk_write, [InsertOne({"_id": 41}), DeleteOne({"_id": 4})], ordered=False),
        ]
        return [[getattr(it, "acknowledged", it) for it in results], list(single[DATABASE][c.name].find().sort("_id"))]


@step
def sessions():
    c = collection("sessions")
    with client.start_session(causal_consistency=True) as session:
        c.insert_one({"_id": 1}, session=session)
        seen = c.find_one({"_id": 1}, session=session)
        secondary = c.with_options(read_preference=ReadPreference.SECONDARY_PREFERRED)
        preferred = secondary.find_one({"_id": 1}, session=session)
        read = c.with_options(read_concern=ReadConcern("majority")).find_one({"_id": 1}, session=session) if REPLICA_SET else None
    with client.start_session() as session:
        cursor = c.find({}, session=session)
        listed = list(cursor)
    linear = attempt(c.with_options(read_concern=ReadConcern("linearizable")).find_one) if REPLICA_SET else None
    return [seen, read, listed, preferred, linear, attempt(client.start_session, snapshot=True) is None]


@step
def retryable():
    """The same statement twice, as after a lost reply: it counts once."""
    c = collection("retryable")
    write = {"insert": c.name, "documents": [{"_id": 1}], "txnNumber": bson.Int64(1)}
    update = {"update": c.name, "updates": [{"q": {"_id": 1}, "u": {"$inc": {"n": 1}}}], "txnNumber": bson.Int64(2)}
    with client.start_session() as session:
        replies = [attempt(db.command, it, session=session) for it in (write, write, update, update)]
    hidden = ("$clusterTime", "operationTime", "opTime", "electionId")
    return [{key: it[key] for key in it if key not in hidden} for it in replies] + [list(c.find())]


@step
def transactions():
    c = collection("transactions", [{"_id": 0, "n": 0}])
    other = collection("transactions2", [{"_id": 0}])
    result = []

    def work(session):
        c.insert_one({"_id": 1}, session=session)
        other.update_one({"_id": 0}, {"$set": {"in": True}}, session=session)
        return c.count_documents({}, session=session)

    with client.start_session() as session:
        result.append(attempt(session.with_transaction, work))

    def aborted():
        with client.start_session() as session, session.start_transaction():
            c.insert_one({"_id": 2}, session=session)
            session.abort_transaction()

    def conflict():
        with client.start_session() as one, client.start_session() as two:
            one.start_transaction(), two.start_transaction()
            c.update_one({"_id": 0}, {"$inc": {"n": 1}}, session=one)
            try:
                c.update_one({"_id": 0}, {"$inc": {"n": 1}}, session=two)
            finally:
                one.commit_transaction()

    def duplicate():
        with client.start_session() as session, session.start_transaction():
            c.insert_one({"_id": 5}, session=session)
            c.insert_one({"_id": 0}, session=session)

    def twice():
        with client.start_session() as session:
            session.start_transaction(write_concern=WriteConcern("majority"))
            c.insert_one({"_id": 6}, session=session)
            session.commit_transaction()
            session.commit_transaction()

    return result + [attempt(it) for it in (aborted, conflict, duplicate, twice)] + [list(c.find().sort("_id")), list(other.find())]


@step
def change_streams():
    c = collection("watched")

    def watch():
        with c.watch(full_document="updateLookup", max_await_time_ms=500) as stream:
            c.insert_one({"_id": 1})
            c.update_one({"_id": 1}, {"$set": {"a": 1}})
            c.replace_one({"_id": 1}, {"b": 1})
            c.delete_one({"_id": 1})
            events = [next(stream) for _ in range(4)]
            token, empty = stream.resume_token, stream.try_next()
        c.insert_one({"_id": 2})
        with c.watch(resume_after=token) as stream:
            events.append(next(stream))
        keep = ("operationType", "ns", "documentKey", "fullDocument", "updateDescription")
        return [empty, [{key: it[key] for key in keep if key in it} for it in events]]

    def of_database():
        with db.watch([{"$match": {"operationType": {"$in": ["create", "drop", "insert"]}}}]) as stream:
            db.watched2.insert_one({"_id": 1})
            db.drop_collection("watched2")
            return [[it["operationType"], it["ns"]] for it in (next(stream), next(stream))]

    return [attempt(watch), attempt(of_database)]


@step
def files():
    rng = random.Random(7)
    content = rng.randbytes(20_000_000 if LARGE else 1_500_000)
    bucket = gridfs.GridFSBucket(db, "fs", chunk_size_bytes=255 * 1024)
    name = bucket.upload_from_stream("big", content, metadata={"of": "us"})
    again = bucket.open_download_stream(name).read()
    db.fs.files.update_one({"_id": name}, {"$set": {"seen": True}})
    stream = bucket.open_download_stream_by_name("big")
    stream.seek(700_000)
    part = stream.read(10)
    chunks = db.fs.chunks.count_documents({})
    bucket.rename(name, "renamed")
    found = [it.filename for it in bucket.find({})]
    bucket.delete(name)
    left = [db.fs.files.count_documents({}), db.fs.chunks.count_documents({})]
    try:
        bucket.open_download_stream(name)
        missing = None
    except gridfs.NoFile:
        missing = "NoFile"
    return [again == content, part == content[700_000:700_010], chunks, found, left, missing]


@step
def large():
    if not LARGE:
        return None
    c = collection("large")
    rng = random.Random(3)
    overhead = len(bson.encode({"_id": 1, "b": b""}))
    biggest = {"_id": 1, "b": rng.randbytes(16 * 1024 * 1024 - overhead)}
    result = [attempt(c.insert_one, biggest), c.find_one({"_id": 1}) == biggest]
    result.append(attempt(c.update_one, {"_id": 1}, {"$set": {"a": 1}}))
    result.append(attempt(c.replace_one, {"_id": 1}, {"b": biggest["b"] + b"1"}))
    mega = rng.randbytes(1_000_000)
    c.insert_many([{"_id": i, "b": mega} for i in range(10, 57)])
    result.append([len(document["b"]) for document in c.find({"_id": {"$gte": 10}})])
    many = [{"_id": i} for i in range(100_000, 200_001)]
    result.append(len(c.insert_many(many, ordered=False).inserted_ids))
    result.append(attempt(db.command, {"insert": c.name, "documents": [{"_id": i} for i in range(100_001)]}))
    result.append(c.delete_many({}).deleted_count)
    return result


@step
def concurrency():
    c = collection("concurrency")

    def work(number):
        for i in range(30):
            c.insert_one({"_id": f"{number}-{i}"})
            c.update_one({"_id": "all"}, {"$inc": {"n": 1}}, upsert=True)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    c.insert_one({"_id": "all", "n": 0})
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [c.count_documents({}), c.find_one({"_id": "all"})]


@step
def asynchronous():
    async def work():
        async with pymongo.AsyncMongoClient(URI) as other:
            c = other[DATABASE].asynchronous
            await c.drop()
            await asyncio.gather(*(c.insert_one({"_id": i}) for i in range(40)))
            return [document["_id"] async for document in c.find().sort("_id").batch_size(7)]

    return asyncio.run(work())


@step
def compression():
    """Compressed bytes did arrive where a compressor was asked for."""
    wanted = client.options.pool_options._compression_settings.compressors
    counted = client.admin.command("serverStatus")["network"]["compression"]
    for name in wanted:
        assert counted[name]["decompressor"]["bytesIn"] > 0, name
    return wanted


for function in STEPS:
    commands.seen = {}
    try:
        result = function()
    except Exception as error:
        result = {"raised": type(error).__name__, "says": str(error), "where": traceback.format_exc().splitlines()}
    sent = list(commands.seen.values()) if function.__name__ not in ("concurrency", "tailable") else None
    print(function.__name__, json_util.dumps(result, json_options=json_util.CANONICAL_JSON_OPTIONS), sep="\t", flush=True)
    print(function.__name__ + " sent", json_util.dumps(sent), sep="\t", flush=True)
client.drop_database(DATABASE)
client.close()
print("end")
