'use strict';
// What an application may do with Mongoose: URI DATABASE KIND SIZE (KIND: standalone, rs; SIZE: small, large).
//
// As in node_steps.js, the lines must be the same whether URI leads to mongod itself or to the proxy.
const mongoose = require('mongoose');
const { step, attempt, run } = require('./steps.js');

const [uri, database] = process.argv.slice(2);
const { Schema } = mongoose;

const hooked = [];
const author = new Schema({ name: { type: String, required: true, trim: true }, born: Number }, { timestamps: true });
author.pre('save', function () { hooked.push(['pre save', this.name, this.isNew]); });
author.post('save', it => { hooked.push(['post save', it.name]); });
author.post('findOneAndUpdate', it => { hooked.push(['post findOneAndUpdate', it?.name]); });
author.pre('updateOne', function () { hooked.push(['pre updateOne', this.getFilter()]); });
author.post('deleteOne', { document: true, query: false }, it => { hooked.push(['post deleteOne', it.name]); });
author.virtual('books', { ref: 'Book', localField: '_id', foreignField: 'by' });
author.methods.shout = function () { return this.name.toUpperCase(); };

const book = new Schema({
  title: { type: String, unique: true },
  by: { type: Schema.Types.ObjectId, ref: 'Author' },
  tags: [String],
  pages: { type: Number, min: 1, default: 10 },
  price: Schema.Types.Decimal128,
  reviews: [{ stars: Number, text: String }],
  extra: { type: Map, of: Number },
  cover: Buffer,
});
const event = new Schema({ at: Number }, { discriminatorKey: 'kind' });

const connection = mongoose.createConnection();
const Author = connection.model('Author', author);
const Book = connection.model('Book', book);
const Event = connection.model('Event', event);
const Click = Event.discriminator('Click', new Schema({ x: Number }));
const Sale = Event.discriminator('Sale', new Schema({ amount: Number }));
const plain = it => (it?.toObject ? it.toObject({ versionKey: true, virtuals: true }) : it);

let commands = [];

step('buffering', async () => {
  // Asked before there is a connection: answered when there is one.
  const early = Author.countDocuments().exec();
  await connection.openUri(uri, { dbName: database, monitorCommands: true, serverSelectionTimeoutMS: 20000 });
  connection.getClient().on('commandStarted', it => commands.push(it.commandName));
  const counted = await early;
  await connection.dropDatabase();
  await Promise.all([Author, Book, Event].map(it => it.init().then(() => it.createIndexes())));
  commands = [];
  return [counted, connection.readyState];
});

step('documents', async () => {
  const ann = await Author.create({ name: '  Ann ', born: 1970 });
  const invalid = await attempt(Author.create({ born: 'never' }));
  ann.born = 1971;
  await ann.save();
  await Author.updateOne({ name: 'Ann' }, { $inc: { born: 1 } });
  const changed = await Author.findOneAndUpdate({ name: 'Ann' }, { $set: { 'nick': 'x', born: 5 } }, { returnDocument: 'after' });
  const stale = await Author.findById(ann._id);
  const upserted = await Author.findOneAndUpdate({ name: 'Bob' }, { born: 3 }, { upsert: true, returnDocument: 'after', setDefaultsOnInsert: true });
  return [plain(ann).name, ann.shout(), invalid, changed.born, stale.born, upserted.name, hooked.splice(0), await Author.countDocuments()];
});

step('versions', async () => {
  const [one] = await Book.create([{ title: 'Versions', tags: ['a', 'b'] }]);
  const other = await Book.findById(one._id);
  one.tags.splice(0, 1);
  one.markModified('tags');
  await one.save();
  other.tags.set(1, 'z');
  return [plain(one).tags, one.__v, await attempt(other.save())];
});

step('populate', async () => {
  const ann = await Author.findOne({ name: 'Ann' });
  await Book.insertMany([
    { title: 'One', by: ann._id, price: '9.99', reviews: [{ stars: 5 }], extra: { a: 1 }, cover: Buffer.from('cover') },
    { title: 'Two', by: ann._id, pages: 100 },
  ]);
  const duplicate = await attempt(Book.create({ title: 'One' }));
  const one = await Book.findOne({ title: 'One' }).populate('by', 'name -_id');
  const full = await Author.findOne({ name: 'Ann' }).populate({ path: 'books', select: 'title pages -_id -by', options: { sort: { title: 1 } } });
  return [duplicate, one.by.name, String(one.price), one.extra.get('a'), one.cover.toString(), full.books.map(it => [it.title, it.pages])];
});

step('arrays', async () => {
  const one = await Book.findOne({ title: 'One' });
  one.reviews.push({ stars: 1, text: 'no' });
  one.tags.addToSet('new', 'new');
  one.reviews[0].stars = 4;
  await one.save();
  await Book.updateOne({ title: 'One', 'reviews.stars': 1 }, { $set: { 'reviews.$.text': 'well' } });
  const again = await Book.findOne({ title: 'One' }).lean();
  return [again.tags, again.reviews.map(({ stars, text }) => [stars, text]), again.__v];
});

step('discriminators', async () => {
  await Click.create({ at: 1, x: 2 });
  await Sale.create([{ at: 2, amount: 3 }, { at: 3, amount: 4 }]);
  return [
    (await Event.find().sort('at')).map(it => [it.constructor.modelName, it.kind, it.at]),
    await Sale.countDocuments(),
    await Sale.aggregate([{ $group: { _id: null, sum: { $sum: '$amount' } } }]),
    await attempt(Sale.updateMany({}, { $inc: { amount: 1 } })).then(it => it.modifiedCount),
  ];
});

step('many', async () => {
  await Event.bulkWrite([
    { insertOne: { document: { at: 10 } } },
    { updateOne: { filter: { at: 10 }, update: { at: 11 } } },
    { deleteOne: { filter: { at: 1 } } },
  ]);
  const some = (await Event.find({ at: { $gt: 2 } })).map(it => Object.assign(it, { at: it.at + 100 }));
  await Event.bulkSave(some);
  const seen = [];
  for await (const it of Event.find().sort('at').cursor({ batchSize: 1 })) seen.push(it.at);
  const removed = await Event.deleteMany({ at: { $gt: 100 } });
  const ann = await Author.findOne({ name: 'Ann' });
  await ann.deleteOne();
  return [seen, removed, hooked.splice(0), await Event.exists({ at: 999 }), await Event.distinct('at')];
});

step('transaction', () =>
  attempt(async () => {
    await connection.transaction(async session => {
      await Author.create([{ name: 'In a transaction' }], { session });
      await Book.updateMany({}, { pages: 7 }, { session });
    });
    return [await Author.countDocuments(), await Book.distinct('pages')];
  }),
);

step('connecting again', async () => {
  await connection.close();
  const closed = await attempt(Author.countDocuments().exec());
  await connection.openUri(uri, { dbName: database });
  return [closed, await Author.countDocuments(), await Book.countDocuments()];
});

async function main() {
  await run(() => commands.splice(0).filter(it => it !== 'getMore'));
  await connection.dropDatabase();
  await connection.close();
}

main().catch(error => {
  console.error(error);
  process.exitCode = 1;
});
