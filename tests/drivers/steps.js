'use strict';
// What the Node scripts share: steps that print one line each, and errors as the driver shows them.
const { EJSON } = require('bson');

const steps = [];

/** Adds a step; they run in order, and each prints its name and what came of it. */
exports.step = (name, run) => steps.push([name, run]);

/** What a promise yields, or the error with all that an application can see of it. */
exports.attempt = async work => {
  try {
    return shown(await (typeof work === 'function' ? work() : work));
  } catch (error) {
    return told(error);
  }
};

function shown(result) {
  return result === undefined ? null : result;
}

function told(error) {
  return {
    error: error.name,
    code: error.code,
    codeName: error.codeName,
    labels: [...(error.errorLabels ?? [])].sort(),
    says: error.message,
    writeErrors: error.writeErrors?.map?.(it => [it.index, it.code, it.errmsg]),
    keyValue: error.keyValue,
    info: error.errInfo,
    result: error.result?.insertedCount,
  };
}

/** A stream of random numbers that is the same at each run. */
exports.bytes = (length, seed) => {
  const buffer = Buffer.alloc(length);
  for (let i = 0, state = seed >>> 0 || 1; i < length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    buffer[i] = state >>> 24;
  }
  return buffer;
};

/** Runs all steps; `sent` yields the names of the commands since it was called last. */
exports.run = async sent => {
  for (const [name, run] of steps) {
    let result;
    try {
      result = await run();
    } catch (error) {
      result = { raised: told(error), where: error.stack };
    }
    console.log(`${name}\t${EJSON.stringify(result ?? null, { relaxed: false })}`);
    const commands = sent();
    if (!name.startsWith('concurrent')) console.log(`${name} sent\t${JSON.stringify(commands)}`);
  }
  console.log('end');
};
