"""Says what drivers say: every kind of conversation once. Arguments: address, kind of server."""
import sys

import gridfs
from pymongo import CursorType, DeleteOne, InsertOne, MongoClient, UpdateOne
from pymongo.errors import BulkWriteError, OperationFailure
from pymongo.write_concern import WriteConcern

address, kind = sys.argv[1:]
is_set = kind == "replica set"


def work(client):
    db = client.bytes
    things = db.python
    things.insert_many([{"_id": i, "n": i, "text": "x" * 3000} for i in range(500)])
    things.insert_one({"big": "y" * 4_000_000})
    things.update_one({"n": 1}, {"$set": {"a.b": [1, {"c": None}]}}, upsert=True)
    things.find_one_and_update({"n": 2}, {"$inc": {"n": 1000}})
    assert len(list(things.find({"n": {"$gte": 0}}, batch_size=50))) == 500
    assert len(list(things.find({}, cursor_type=CursorType.EXHAUST, batch_size=100))) == 501
    try:
        things.bulk_write([InsertOne({"_id": 1}), UpdateOne({"_id": 3}, {"$set": {"n": 0}}), DeleteOne({"_id": 4})], ordered=False)
    except BulkWriteError as error:
        assert error.code == 65
    # As no driver sends it: without an _id.
    db.command({"insert": "bare", "documents": [{"n": 1}, {"_id": 7}, {"n": 2, "text": "z" * 100_000}]})
    silent = things.with_options(write_concern=WriteConcern(w=0))
    for i in range(30):
        silent.update_one({"_id": i}, {"$set": {"silent": i}})
    silent.insert_one({"silent": True})
    silent.delete_one({"_id": 0})
    list(things.aggregate([{"$match": {"n": {"$lt": 10}}}, {"$out": "out"}]))
    try:
        db.command("nonsense")
    except OperationFailure as error:
        assert error.code == 59
    files = gridfs.GridFS(db)
    name = files.put(b"0123456789" * 100_000)
    assert files.get(name).length == 1_000_000
    files.delete(name)
    if is_set:
        with things.watch(max_await_time_ms=200) as stream:
            things.insert_one({"watched": True})
            assert stream.next()["operationType"] == "insert"
        with client.start_session() as session, session.start_transaction():
            things.insert_one({"in": "transaction"}, session=session)
            things.update_one({"_id": 9}, {"$inc": {"n": 1}}, session=session)
    things.drop()
    client.drop_database("bytes")


for options in ["", "&compressors=zlib", "&serverMonitoringMode=poll", "&directConnection=true", "&w=0"]:
    with MongoClient(f"mongodb://{address}/?appName=transparency{options}") as client:
        if options == "&w=0":
            client.bytes.silent.insert_one({"n": 1})
            client.admin.command("ping")
        else:
            work(client)
