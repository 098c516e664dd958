// A batch on its way: many inputs in requests of some, a few requests at a time, every input answered or refused.

import { patiently, predict } from "./service.js";

const INPUTS_AT_ONCE = 32;
const REQUESTS_AT_ONCE = 2;
const TOO_MUCH = [413, 504];

/**
 * Answers the inputs that have no result yet. `results`: by place `{answer}` or `{problem}`, in words; filled in.
 * `told.done()` after each request, `told.waiting(problem, seconds)` while there is no room. Throws what stops it all:
 * AbortError, or a Problem that is no input's fault.
 */
export async function run(task, inputs, results, told, signal) {
  const left = inputs.map((_, place) => place).filter((place) => !results[place]);
  const size = Math.min(INPUTS_AT_ONCE, task.limits.max_inputs);
  const requests = [];
  while (left.length > 0) requests.push(left.splice(0, size));
  // What ends one line ends the others, and with it their requests.
  const ended = new AbortController();
  const within = AbortSignal.any([signal, ended.signal]);
  const line = async () => {
    while (requests.length > 0) await answer(requests.shift());
  };
  try {
    await Promise.all(Array.from({ length: REQUESTS_AT_ONCE }, line));
  } finally {
    ended.abort();
  }

  async function answer(places) {
    const body = { inputs: places.map((place) => inputs[place]), errors: "per_item" };
    try {
      const { reply } = await patiently(() => predict(task.name, body, within), told.waiting, within);
      places.forEach((place, at) => (results[place] = resultOf(reply.answers[at])));
      told.done();
    } catch (problem) {
      if (!TOO_MUCH.includes(problem.status)) throw problem;
      if (places.length === 1) {
        results[places[0]] = { problem: problem.message };
        return told.done();
      }
      // Too much for one request: by halves it may not be.
      const half = Math.ceil(places.length / 2);
      await answer(places.slice(0, half));
      await answer(places.slice(half));
    }
  }
}

/** What became of an input, by what stands in its place. */
function resultOf(answer) {
  if (!answer.error) return { answer };
  const { detail, errors } = answer.error;
  return { problem: errors?.[0]?.message ?? detail };
}
