/**
 * A client of paystate's news in another language: the rules of its README, with nothing but the
 * `redis` package and `fetch`.
 *
 * - Subscribe first, then read the change log, and take a change only if its version is greater.
 * - Every new subscription, the first one too, means that changes may have been missed: read the log.
 * - No heartbeat for a while: the connection may be half open, so it is dropped.
 * - Read the log every few seconds in any case. The cursor moves by the log's pages and by nothing
 *   else: a change that was heard says nothing of those before it.
 *
 * Each line on stdout is one JSON object: `listening` once, `change` for each change that is taken,
 * `lost` when the wire is gone, `gap` for each gap, and at SIGTERM `held` with everything known.
 *
 * Environment: CACHE_URL, API_URL, API_TOKEN; SILENCE_MS, POLL_MS, CHANNEL.
 */

import process from 'node:process';
import { createClient } from 'redis';

const { CACHE_URL, API_URL, API_TOKEN } = process.env;
const CHANNEL = process.env.CHANNEL ?? 'flw:v1:changes';
const SILENCE_MS = Number(process.env.SILENCE_MS ?? 6000);
const POLL_MS = Number(process.env.POLL_MS ?? 5000);
const ANSWER_MS = 5000;
const MOST_AT_ONCE = 200;
const REFERENCE = 'reference';

const held = new Map();
const highest = new Map(); // what was ever held, kept apart so that a step back is seen
let gaps = 0;
let backwards = 0;
let stopping = false;

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const backoff = (failures) => pause(Math.min(2000, 50 * 2 ** failures) * (0.5 + Math.random() / 2));

function announce(reason) {
  gaps += 1;
  say({ gap: reason });
}

// --- what is held ---

const nameOf = (it) => (it.kind === REFERENCE ? it.tx_ref : it.payment_id);
const keyOf = (it) => `${it.kind}:${it.merchant ?? 'default'}:${nameOf(it)}`;

/** Take a change or an answer unless as late a one is held. Returns whether it was taken. */
function take(it) {
  const key = keyOf(it);
  if (it.version <= (held.get(key)?.version ?? 0)) return false;
  held.set(key, { status: it.status, version: it.version, kind: it.kind, name: nameOf(it) });
  if (it.version < (highest.get(key) ?? 0)) backwards += 1;
  highest.set(key, it.version);
  say({ change: key, status: it.status, version: it.version });
  return true;
}

// --- the HTTP API ---

class Pruned extends Error {}

async function ask(path, body) {
  const response = await fetch(`${API_URL}${path}`, {
    method: body ? 'POST' : 'GET',
    headers: {
      Accept: 'application/json',
      Authorization: `Bearer ${API_TOKEN}`,
      ...(body ? { 'Content-Type': 'application/json' } : {}),
    },
    body: body ? JSON.stringify(body) : undefined,
    redirect: 'error',
    signal: AbortSignal.timeout(ANSWER_MS),
  });
  if (response.status === 410) {
    await response.body?.cancel();
    throw new Pruned();
  }
  if (!response.ok) {
    await response.body?.cancel();
    throw new Error(`http ${response.status}`);
  }
  return response.json();
}

let cursor = null;

/** Read the log from the cursor on; without a cursor, take the one of now. */
async function replay() {
  if (cursor === null) {
    cursor = (await ask('/api/changes')).cursor;
    return;
  }
  let more = true;
  while (more && !stopping) {
    const page = await ask(`/api/changes?after=${encodeURIComponent(cursor)}`);
    for (const change of page.changes) take(change);
    cursor = page.cursor;
    more = page.more;
  }
}

/** The log no longer reaches back to the cursor: read the status of everything that is known. */
async function readAnew() {
  const now = (await ask('/api/changes')).cursor; // before the statuses: what comes later follows
  const known = new Map();
  for (const { kind, name } of held.values()) known.set(kind, [...(known.get(kind) ?? []), name]);
  for (const [kind, names] of known) {
    for (let start = 0; start < names.length; start += MOST_AT_ONCE) {
      const some = names.slice(start, start + MOST_AT_ONCE);
      const question = kind === REFERENCE ? { tx_refs: some } : { ids: some, kind };
      for (const answer of (await ask('/api/payments/status', question)).statuses) take(answer);
    }
  }
  cursor = now;
}

// One reading at a time. A wish that comes during one begins another after it.
let wish = null;
let wake = () => {};

function resync() {
  wish = true;
  wake();
}

async function readForEver() {
  let failures = 0;
  while (!stopping) {
    wish = null;
    try {
      await replay();
      failures = 0;
    } catch (error) {
      failures += 1;
      if (error instanceof Pruned) {
        announce('cursor_pruned');
        await readAnewUntilDone();
      } else {
        await backoff(failures);
      }
      continue;
    }
    if (wish === null) {
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, POLL_MS);
        wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }
}

async function readAnewUntilDone() {
  for (let failures = 1; !stopping; failures += 1) {
    try {
      await readAnew();
      return;
    } catch {
      await backoff(failures);
    }
  }
}

// --- the wire ---

let subscribedBefore = false;
let listening = false;

function hear(text, alive) {
  let news;
  try {
    news = JSON.parse(text);
  } catch {
    return;
  }
  if (news === null || typeof news !== 'object') return;
  if (news.heartbeat === true) {
    alive();
    return;
  }
  if (!Number.isInteger(news.version)) return;
  alive();
  const known = held.get(keyOf(news))?.version;
  if (known !== undefined && news.previous_version > known) {
    announce('version_gap');
    resync();
  }
  take(news);
}

/** Listen on one connection; returns why it ended. */
async function listen() {
  // No reconnection of its own: each connection is a new client, so that none is missed.
  const client = createClient({
    url: CACHE_URL,
    socket: { connectTimeout: SILENCE_MS, reconnectStrategy: false },
  });
  let timer;
  try {
    return await new Promise((resolve) => {
      const alive = () => {
        clearTimeout(timer);
        timer = setTimeout(() => resolve('silence'), SILENCE_MS);
      };
      client.on('error', () => resolve('connection'));
      client.on('end', () => resolve('connection'));
      alive(); // the greeting has no longer than a heartbeat: a frozen server takes connections
      client
        .connect()
        .then(() => client.subscribe(CHANNEL, (text) => hear(text, alive)))
        .then(() => {
          if (!client.isOpen) return;
          alive();
          if (subscribedBefore) announce('resubscribed');
          else say({ listening: true });
          subscribedBefore = true;
          listening = true;
          resync();
        })
        .catch(() => resolve('connection'));
    });
  } finally {
    clearTimeout(timer);
    client.destroy();
  }
}

async function listenForEver() {
  let failures = 0;
  while (!stopping) {
    listening = false;
    const why = await listen().catch(() => 'connection');
    if (listening) say({ lost: why });
    failures = listening ? 0 : failures + 1;
    await backoff(failures);
  }
}

process.on('SIGTERM', () => {
  stopping = true;
  const plain = {};
  for (const [key, { status, version }] of held) plain[key] = { status, version };
  process.stdout.write(`${JSON.stringify({ held: plain, gaps, backwards })}\n`, () => process.exit(0));
});

// A cursor first: whatever happens from here on is in the log after it.
for (let failures = 0; cursor === null && !stopping; failures += 1) {
  await replay().catch(() => backoff(failures));
}
await Promise.all([readForEver(), listenForEver()]);
