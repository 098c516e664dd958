// The service as this page knows it: its calls, what goes wrong with them, and waiting until it has room.

/** What the service answers instead of an answer (RFC 9457), or that it could not be reached (status 0). */
export class Problem extends Error {
  /**
   * `errors`: the wrong fields, `{field, message}` each. `retryAfter`: seconds after which to try again, or null.
   * `requestId`: by which the service's log knows the request.
   */
  constructor({ status, title, detail, errors = [], retryAfter = null, request_id: requestId }) {
    super(detail || title);
    Object.assign(this, { status, title, detail, errors, retryAfter, requestId });
  }
}

let apiKey = "";

/** The key that is sent along from now on; "" for none. Kept nowhere but here. */
export function useKey(given) {
  apiKey = given.trim();
}

/** Whether a key is sent along. */
export function hasKey() {
  return apiKey !== "";
}

/** Where a path of the service is, also behind a proxy that serves it under a prefix. */
export function address(path) {
  return new URL(path, document.baseURI).href;
}

/** Where a task is asked. */
export function predictAddress(task) {
  return address(`v1/tasks/${encodeURIComponent(task)}/predict`);
}

/** All tasks: `{model, tasks}`. Throws Problem. */
export async function catalogue() {
  return (await call(address("v1/tasks"))).json();
}

/** "ready", or what the service says why it is not. */
export async function readiness() {
  try {
    await call(address("readyz"));
    return "ready";
  } catch (problem) {
    return problem.status === 0 ? "not reachable" : problem.detail || problem.title;
  }
}

/** What a task answers to a request body: `{reply, timing, seconds}`, with the Server-Timing header. Throws Problem. */
export async function predict(task, body, signal) {
  const started = performance.now();
  const response = await call(predictAddress(task), {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  const reply = await response.json();
  const seconds = (performance.now() - started) / 1000;
  return { reply, timing: response.headers.get("Server-Timing") ?? "", seconds };
}

/**
 * What `request` gives, tried again for as long as the service says when to come back (429, and 503 while it warms up).
 * `waiting(problem, seconds)` is told of each wait. Throws any other Problem, and AbortError where `signal` ends it.
 */
export async function patiently(request, waiting, signal) {
  for (;;) {
    try {
      return await request();
    } catch (problem) {
      if (!(problem instanceof Problem) || problem.retryAfter === null) throw problem;
      waiting(problem, problem.retryAfter);
      await pause(problem.retryAfter, signal);
    }
  }
}

/** Returns after so many seconds; throws AbortError where `signal` comes first. */
export function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, 1000 * seconds);
    if (signal?.aborted) stop();
    else signal?.addEventListener("abort", stop, { once: true });
  });
}

async function call(url, options = {}) {
  const headers = { ...options.headers, ...(apiKey && { Authorization: `Bearer ${apiKey}` }) };
  let response;
  try {
    response = await fetch(url, { cache: "no-store", credentials: "same-origin", ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({ status: 0, title: "Not reachable", detail: "The service cannot be reached. Is it running?" });
  }
  if (response.ok) return response;
  throw await problemOf(response);
}

async function problemOf(response) {
  const { status, statusText } = response;
  const retryAfter = secondsOf(response.headers.get("Retry-After"));
  const body = await response.json().catch(() => ({})); // a proxy in between may answer in HTML
  return new Problem({ title: statusText || `Status ${status}`, detail: "", ...body, status, retryAfter });
}

/** The Retry-After header, which is seconds or a date. */
function secondsOf(header) {
  if (!header) return null;
  const seconds = Number.isFinite(Number(header)) ? Number(header) : (Date.parse(header) - Date.now()) / 1000;
  return Number.isFinite(seconds) ? Math.max(seconds, 0.1) : null;
}
