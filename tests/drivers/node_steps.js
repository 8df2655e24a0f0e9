'use strict';
// What an application may do with the Node driver: URI DATABASE KIND SIZE (KIND: standalone, rs; SIZE: small, large).
//
// The lines that it prints must be the same whether URI leads to mongod itself or to the proxy; times, generated ids and
// addresses are made equal by whoever compares.
const { setTimeout: sleep } = require('node:timers/promises');
const { createHash } = require('node:crypto');
const { pipeline } = require('node:stream/promises');
const { Readable } = require('node:stream');
const { MongoClient, GridFSBucket, Long, Decimal128, Timestamp, Binary, Int32, ObjectId } = require('mongodb');
const { step, attempt, bytes, run } = require('./steps.js');

const [uri, database, kind, size] = process.argv.slice(2);
const replicaSet = kind === 'rs';
const large = size === 'large';
const client = new MongoClient(uri, { monitorCommands: true, serverSelectionTimeoutMS: 20000 });
const db = client.db(database);

let commands = [];
client.on('commandStarted', it => commands.push([it.commandName, !!it.command.txnNumber]));
client.on('commandFailed', it => commands.push([it.commandName, 'failed', it.failure.code]));

const ids = documents => documents.map(it => it._id);
const range = (from, to) => Array.from({ length: to - from }, (_, i) => from + i);

async function collection(name, documents = []) {
  await db.dropCollection(name).catch(() => undefined);
  if (documents.length) await db.collection(name).insertMany(documents);
  return db.collection(name);
}

step('server', async () => {
  const hello = await db.admin().command({ hello: 1 });
  return [Object.keys(hello), hello.hosts, hello.primary, hello.me, hello.compression, (await db.admin().buildInfo()).version, client.topology.description.type];
});

step('crud', async () => {
  const c = await collection('crud');
  return [
    await attempt(c.insertOne({ _id: 1, long: Long.fromString('9007199254740993'), d: new Decimal128('1.10') })),
    await attempt(c.insertOne({ made: 'by the driver' })),
    await attempt(c.insertMany([{ _id: 2 }, { _id: 1 }, { _id: 3 }])),
    await attempt(c.insertMany([{ _id: 2 }, { _id: 4 }, { _id: 1 }, { _id: 5 }], { ordered: false })),
    await attempt(c.updateOne({ _id: 1 }, { $inc: { n: 1 } })),
    await attempt(c.updateMany({ _id: { $type: 'int' } }, { $set: { seen: true } })),
    await attempt(c.updateOne({ _id: 90 }, { $set: { x: 1 } }, { upsert: true })),
    await attempt(c.replaceOne({ _id: 2 }, { replaced: new Binary(Buffer.from('abc'), 4) })),
    await attempt(c.findOneAndUpdate({ _id: 1 }, { $set: { f: 1 } }, { returnDocument: 'after', includeResultMetadata: true })),
    await attempt(c.findOneAndDelete({ _id: 3 })),
    await attempt(c.deleteMany({ _id: { $gte: 90 } })),
    await attempt(c.updateOne({ _id: 1 }, { $set: { _id: 2 } })),
    await attempt(c.insertOne({ _id: 1 })),
    await c.find({ _id: { $type: 'int' } }, { promoteLongs: false }).sort({ _id: 1 }).toArray(),
    await c.countDocuments(),
    await c.estimatedDocumentCount(),
    await c.distinct('seen'),
  ];
});

step('bulk', async () => {
  const c = await collection('bulk', range(0, 10).map(_id => ({ _id, n: 0 })));
  const operations = [
    { insertOne: { document: { _id: 'a' } } },
    { updateOne: { filter: { _id: 1 }, update: { $set: { n: 1 } } } },
    { updateMany: { filter: { n: 0 }, update: { $inc: { n: 3 } } } },
    { replaceOne: { filter: { _id: 'new' }, replacement: { r: 1 }, upsert: true } },
    { deleteOne: { filter: { _id: 2 } } },
    { insertOne: { document: { _id: 'a' } } },
    { deleteMany: { filter: { _id: { $in: [3, 4] } } } },
  ];
  const told = result => ({ ...result.result, insertedIds: result.insertedIds, upsertedIds: result.upsertedIds });
  return [
    await attempt(async () => told(await c.bulkWrite(operations.slice(0, 5)))),
    await attempt(async () => told(await c.bulkWrite(operations.slice(5)))),
    await attempt(async () => told(await c.bulkWrite(operations.slice(5), { ordered: false }))),
    await attempt(c.initializeUnorderedBulkOp().find({ n: 3 }).upsert().updateOne({ $set: { m: 1 } }).execute()),
    await attempt(client.bulkWrite([{ name: 'insertOne', namespace: `${database}.bulk`, document: { _id: 'client' } }])),
    await c.find({ n: { $ne: 3 } }).toArray(),
  ];
});

step('errors', async () => {
  const c = await collection('errors', [{ _id: 1, u: 1 }]);
  await c.createIndex({ u: 1 }, { unique: true });
  await collection('validated');
  await db.createCollection('validated', { validator: { $jsonSchema: { required: ['a'] } } });
  return [
    await attempt(c.insertOne({ _id: 2, u: 1 })),
    await attempt(db.collection('validated').insertOne({ b: 1 })),
    await attempt(db.command({ nosuch: 1 })),
    await attempt(db.command({ find: 'errors', nosuch: 1 })),
    await attempt(c.find({ $nosuch: 1 }).toArray()),
    // Where the server notices it is a matter of chance, and the text says where.
    (await attempt(c.find({ $where: 'sleep(2000) || true' }, { maxTimeMS: 50 }).toArray())).code,
    await attempt(c.insertOne({ _id: 70 }, { writeConcern: { w: 5, wtimeoutMS: 50 } })),
    await attempt(db.createCollection('errors', { capped: true, size: 4096 })),
    await attempt(c.dropIndex('none')),
    await attempt(c.createIndex({ u: 1 }, { name: 'another' })),
    await attempt(db.command({ create: 'sys$tem' })),
    await attempt(db.renameCollection('nothing', 'here')),
  ];
});

step('cursors', async () => {
  const c = await collection('cursors', range(0, 500).map(_id => ({ _id })));
  const early = c.find({}, { batchSize: 7 });
  const first = [];
  for await (const { _id } of early) if (first.push(_id) === 20) break;
  const streamed = await c.find({}, { batchSize: 100 }).stream().map(it => it._id).toArray();
  const abandoned = c.find({}, { batchSize: 2 });
  await abandoned.next();
  const { id } = abandoned;
  await abandoned.close();
  return [
    first,
    streamed.length,
    await attempt(db.command({ getMore: id, collection: 'cursors' })),
    await c.find().collation({ locale: 'en' }).sort({ _id: -1 }).skip(3).limit(2).hint('_id_').comment('x').toArray(),
    (await c.find({ _id: { $gt: 3 } }).explain('queryPlanner')).queryPlanner.winningPlan,
  ];
});

step('tailable', async () => {
  await collection('tailable');
  const c = await db.createCollection('tailable', { capped: true, size: 1 << 20 });
  await c.insertMany([{ _id: 1 }, { _id: 2 }]);
  const cursor = c.find({}, { tailable: true, awaitData: true, maxAwaitTimeMS: 2000 });
  const seen = [await cursor.next(), await cursor.next()];
  const [late] = await Promise.all([cursor.next(), sleep(50).then(() => c.insertOne({ _id: 3 }))]);
  await cursor.close();
  commands = [];
  return [...seen, late];
});

step('aggregation', async () => {
  const c = await collection('aggregation', range(0, 30).map(_id => ({ _id, g: _id % 4 })));
  const group = { $group: { _id: '$g', n: { $sum: 1 } } };
  return [
    await c.aggregate([group, { $sort: { _id: 1 } }]).toArray(),
    await c.aggregate([group, { $out: 'out' }]).toArray(),
    await c.aggregate([group, { $merge: { into: 'merged' } }]).toArray(),
    await db.collection('out').find().sort({ _id: 1 }).toArray(),
    await db.collection('merged').countDocuments(),
    await attempt(c.aggregate([{ $nosuch: 1 }]).toArray()),
    (await c.aggregate([{ $unionWith: 'out' }], { batchSize: 5 }).toArray()).length,
  ];
});

step('ddl', async () => {
  const c = await collection('ddl', [{ _id: 1, a: 1 }]);
  const result = [
    await attempt(c.createIndexes([{ key: { a: 1 } }, { key: { b: -1 }, unique: true, sparse: true }])),
    (await c.indexes()).map(it => it.name),
    await attempt(c.dropIndex('a_1')),
    (await c.rename('ddl2', { dropTarget: true })).collectionName,
    await attempt(db.command({ collMod: 'ddl2', validationLevel: 'off' })),
    await attempt(db.collection('ddl2').drop()),
    (await db.listCollections({ name: /^ddl/ }).toArray()).map(it => it.name),
  ];
  return result.map(it => (it && it.$clusterTime ? { ok: it.ok } : it));
});

step('administration', async () => {
  const stats = await db.stats();
  const { databases } = await db.admin().listDatabases({ nameOnly: true, filter: { name: database } });
  return [Object.keys(stats), stats.db, databases, (await db.admin().ping()).ok, (await db.admin().validateCollection('crud')).valid];
});

step('unacknowledged', async () => {
  const single = new MongoClient(uri, { maxPoolSize: 1 });
  try {
    await collection('unacknowledged', [{ _id: 0 }]);
    const c = single.db(database).collection('unacknowledged');
    const silent = { writeConcern: { w: 0 } };
    const results = [
      await attempt(c.insertOne({ _id: 1 }, silent)),
      await attempt(c.insertOne({ _id: 1, twice: true }, silent)),
      await attempt(c.updateOne({ _id: 0 }, { $set: { u: 1 } }, silent)),
      await attempt(c.insertMany(range(2, 40).map(_id => ({ _id })), { ...silent, ordered: false })),
      await attempt(c.deleteOne({ _id: 3 }, silent)),
    ];
    return [results.map(it => it.acknowledged ?? it), await c.find().sort({ _id: 1 }).toArray()];
  } finally {
    await single.close();
  }
});

step('sessions and transactions', async () => {
  const c = await collection('transactions', [{ _id: 0, n: 0 }]);
  const work = body =>
    attempt(() =>
      client.withSession(session =>
        session.withTransaction(async () => {
          const result = await body(session);
          return result;
        }),
      ),
    );
  const conflict = attempt(async () => {
    const [one, two] = [client.startSession(), client.startSession()];
    try {
      one.startTransaction();
      two.startTransaction();
      await c.updateOne({ _id: 0 }, { $inc: { n: 1 } }, { session: one });
      await c.updateOne({ _id: 0 }, { $inc: { n: 1 } }, { session: two });
    } finally {
      if (one.inTransaction()) await one.abortTransaction().catch(() => undefined);
      await one.endSession();
      await two.endSession();
    }
  });
  return [
    await conflict,
    await work(async session => {
      await c.insertOne({ _id: 1 }, { session });
      await c.updateMany({}, { $inc: { n: 1 } }, { session });
      return c.countDocuments({}, { session });
    }),
    await work(async session => {
      await c.insertOne({ _id: 2 }, { session });
      await c.insertOne({ _id: 1 }, { session });
    }),
    await attempt(() => client.withSession({ causalConsistency: true }, session => c.findOne({ _id: 1 }, { session }))),
    await c.find().sort({ _id: 1 }).toArray(),
  ];
});

step('change streams', async () => {
  const c = await collection('watched', [{ _id: 0 }]);
  return attempt(async () => {
    const stream = c.watch([], { fullDocument: 'updateLookup', maxAwaitTimeMS: 300 });
    try {
      await stream.tryNext();
      await c.insertOne({ _id: 1 });
      await c.updateOne({ _id: 1 }, { $set: { a: 1 } });
      await c.deleteOne({ _id: 1 });
      const events = [];
      while (events.length < 3) events.push(await stream.next());
      return events.map(it => [it.operationType, it.documentKey, it.fullDocument, it.updateDescription]);
    } finally {
      await stream.close();
      commands = commands.filter(it => it[0] !== 'getMore' && it[0] !== 'killCursors');
    }
  });
});

step('files', async () => {
  const content = bytes(large ? 12_000_000 : 700_000, 5);
  const bucket = new GridFSBucket(db, { bucketName: 'files', chunkSizeBytes: 100_000 });
  const upload = bucket.openUploadStream('big', { metadata: { of: 'us' } });
  await pipeline(Readable.from([content]), upload);
  const parts = await bucket.openDownloadStream(upload.id).toArray();
  const again = Buffer.concat(parts);
  const part = Buffer.concat(await bucket.openDownloadStreamByName('big', { start: 150_000, end: 150_010 }).toArray());
  const chunks = await db.collection('files.chunks').countDocuments();
  await bucket.rename(upload.id, 'renamed');
  const found = (await bucket.find().toArray()).map(it => [it.filename, it.length, it.metadata]);
  await bucket.delete(upload.id);
  const missing = await attempt(bucket.openDownloadStream(new ObjectId('0'.repeat(24))).toArray());
  return [again.equals(content), part.equals(content.subarray(150_000, 150_010)), chunks, found, missing, await attempt(bucket.drop())];
});

step('large', async () => {
  if (!large) return null;
  const c = await collection('large');
  const mega = bytes(1_000_000, 9);
  await c.insertMany(range(0, 47).map(_id => ({ _id, mega })));
  const hash = createHash('sha256');
  for await (const document of c.find()) hash.update(document.mega.buffer);
  const biggest = { _id: 'biggest', b: bytes(16 * 1024 * 1024 - 33, 3) };
  return [
    hash.digest('hex'),
    await attempt(c.insertOne(biggest)),
    await attempt(c.insertOne({ _id: 'too big', b: Buffer.alloc(16 * 1024 * 1024) })),
    await attempt(c.updateOne({ _id: 'biggest' }, { $set: { more: 'x'.repeat(100) } })),
    await c.countDocuments(),
    (await c.insertMany(range(1000, 101_001).map(_id => ({ _id })), { ordered: false })).insertedCount,
    await attempt(c.deleteMany({})),
  ];
});

step('concurrent', async () => {
  const c = await collection('concurrent', [{ _id: 'all', n: 0 }]);
  await Promise.all(range(0, 200).map(async i => {
    await c.insertOne({ _id: i });
    await c.updateOne({ _id: 'all' }, { $inc: { n: new Int32(1) } });
  }));
  return [await c.countDocuments(), await c.findOne({ _id: 'all' })];
});

step('compression', async () => {
  // Compressed bytes did arrive where a compressor was asked for.
  const { network } = await db.admin().command({ serverStatus: 1 });
  const wanted = (client.options.compressors ?? []).filter(it => it !== 'none');
  const missing = wanted.filter(it => !(Number(network.compression[it].decompressor.bytesIn) > 0));
  if (missing.length) throw new Error(`nothing came compressed: ${missing}`);
  return wanted;
});

async function main() {
  await client.connect();
  await db.dropDatabase();
  await run(() => commands.splice(0));
  await db.dropDatabase();
  await client.close();
}

main().catch(error => {
  console.error(error);
  process.exitCode = 1;
});
