"""A shop's traffic over PyMongo: URI CLIENTS WRITES SEED. Prints how many commands of each kind it sent."""

import collections
import random
import sys
import threading

import bson
import pymongo
from pymongo import DeleteOne, InsertOne, ReturnDocument, UpdateOne

URI, CLIENTS, WRITES, SEED = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
counts = collections.Counter()
failures = []


def thing(rng):
    return {
        "name": f"thing {rng.randrange(1000)}",
        "price": bson.Decimal128(str(rng.randrange(10_000) / 100)),
        "stock": rng.randrange(100),
        "tags": [rng.choice("abc") for _ in range(rng.randrange(4))],
        "weight": rng.random(),
        "nested": {"a": {"b": [1, 2.5, None, True]}},
        "blob": bson.Binary(rng.randbytes(rng.randrange(20)), 0x80),
        "big": bson.Int64(rng.getrandbits(60)),
    }


def shopper(number, writes):
    rng = random.Random(SEED * 1000 + number)
    db = pymongo.MongoClient(URI).pyshop
    things, carts, notes = db.things, db.carts, db[f"notes{number}"]
    for step in range(writes):
        key, mine = rng.randrange(20_000), f"{number}-{step}"
        kind = rng.choices(
            ["insert", "many", "update", "upsert", "replace", "fam", "delete", "bulk", "unordered", "unacked", "predicate"],
            [20, 5, 25, 8, 8, 8, 8, 6, 6, 2, 1],
        )[0]
        counts[kind] += 1
        if kind == "insert":
            things.insert_one({"_id": mine, **thing(rng)})
        elif kind == "many":
            things.insert_many([thing(rng) for _ in range(rng.randrange(1, 20))])
        elif kind == "update":
            carts.update_one({"_id": key}, {"$inc": {"n": 1}, "$push": {"l": {"$each": [step], "$slice": -5}}})
        elif kind == "upsert":
            carts.update_one({"_id": key}, {"$set": {"at": step}, "$inc": {"n": 1}}, upsert=True)
        elif kind == "replace":
            carts.replace_one({"_id": key}, thing(rng), upsert=True)
        elif kind == "fam":
            carts.find_one_and_update(
                {"_id": key}, {"$inc": {"m": 2}}, upsert=rng.random() < 0.5, return_document=ReturnDocument.AFTER
            )
        elif kind == "delete":
            carts.delete_one({"_id": key})
        elif kind in ("bulk", "unordered"):
            operations = [
                InsertOne({"_id": f"{mine}-b", **thing(rng)}),
                UpdateOne({"_id": f"{mine}-b"}, {"$set": {"seen": True}}),
                DeleteOne({"_id": f"{mine}-c"}),
                InsertOne({"_id": f"{mine}-d", "x": 1}),
            ]
            things.bulk_write(operations, ordered=kind == "bulk")
        elif kind == "unacked":
            unacknowledged = notes.with_options(write_concern=pymongo.WriteConcern(w=0))
            unacknowledged.insert_one({"_id": mine, "w": 0})
        else:
            notes.insert_many([{"_id": f"{mine}-{i}", "kind": i % 3, "n": 0} for i in range(6)])
            notes.update_many({"kind": 1}, {"$inc": {"n": 1}})
            notes.update_one({"kind": 2, "n": 0}, {"$set": {"n": 5}})
            notes.delete_many({"kind": 0, "n": {"$gte": 2}})


def guarded(number, writes):
    try:
        shopper(number, writes)
    except Exception as error:  # reported by the main thread
        failures.append(error)


threads = [threading.Thread(target=guarded, args=(n, WRITES // CLIENTS)) for n in range(CLIENTS)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
if failures:
    raise failures[0]
print(dict(counts))
