// The page that never needs refreshing: a stream of events; where there is none, a long poll.
"use strict";

const page = document.getElementById("page");
const live = document.getElementById("live");
const liveWords = document.getElementById("live-words");
const said = document.getElementById("said");
const here = location.pathname;

// A proxy that holds events back lets nothing through: then the long poll works.
const SILENT_MS = 5000;
const WAIT_S = 25;
const FIRST_AGAIN_MS = 500;
const MOST_AGAIN_MS = 15000;
const STREAM_AGAIN_MS = 60000;

let version = Number(page.dataset.version);
let stream = null;
let silent = 0;
let polling = null;
let seenAt = version >= 0 ? new Date() : null;

const over = () => ["expired", "invalid"].includes(page.dataset.state);
// Nothing comes after it; a failed payment may still turn out to have gone through.
const settled = () => page.dataset.state === "successful";

function show(state) {
  if (page.dataset.state === state) return;
  page.dataset.state = state;
  const heading = page.querySelector(`[data-for="${CSS.escape(state)}"] h1`);
  if (heading) {
    said.textContent = heading.textContent;
    document.title = heading.textContent;
  }
}

function apply(view) {
  seenAt = new Date();
  // The version decides, never the time: news may overtake each other.
  if (view.version > version || (view.version === version && page.dataset.state === "unavailable")) {
    version = view.version;
    show(view.held && !view.terminal ? "held" : view.status);
  }
  told(true);
  if (settled()) stop();
}

function told(isLive) {
  live.hidden = over();
  live.dataset.live = isLive ? "yes" : "no";
  const time = seenAt && seenAt.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
  if (settled()) liveWords.textContent = `Confirmed · ${time}`;
  else if (isLive) liveWords.textContent = "Live · this page changes by itself";
  else liveWords.textContent = time ? `Connecting again · last seen at ${time}` : "Connecting";
}

function expire() {
  stop();
  if (page.dataset.state !== "successful") show("expired");
  told(false);
}

function stop() {
  clearTimeout(silent);
  if (stream) stream.close();
  stream = null;
  if (polling) polling.abort();
  polling = null;
}

function listen() {
  stop();
  if (!("EventSource" in window)) return void poll();
  const mine = new EventSource(`${here}/events`);
  stream = mine;
  silent = setTimeout(() => { if (stream === mine) { stop(); poll(); } }, SILENT_MS);
  mine.addEventListener("status", (event) => {
    clearTimeout(silent);
    apply(JSON.parse(event.data));
  });
  mine.addEventListener("expired", expire);
  mine.addEventListener("error", () => {
    told(false);
    // Closed is what the browser does not mend; it connects again by itself otherwise.
    if (stream === mine && mine.readyState === EventSource.CLOSED) { stop(); poll(); }
  });
}

async function poll() {
  const mine = new AbortController();
  polling = mine;
  const until = Date.now() + STREAM_AGAIN_MS;
  let again = FIRST_AGAIN_MS;
  let heard = false; // until then it asks without waiting: whoever looks should see that it is live
  while (polling === mine && Date.now() < until) {
    try {
      const wait = version < 0 || !heard ? "" : `?wait=${WAIT_S}&after_version=${version}`;
      const answer = await fetch(`${here}/status${wait}`, { signal: mine.signal, cache: "no-store" });
      if (answer.status === 410) return void expire();
      if (answer.status === 403) { stop(); show("invalid"); return void told(false); }
      if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
      apply(await answer.json());
      again = FIRST_AGAIN_MS;
      heard = true;
    } catch (error) {
      if (polling !== mine) return;
      heard = false;
      told(false);
      await new Promise((wake) => setTimeout(wake, again));
      again = Math.min(again * 2, MOST_AGAIN_MS);
    }
  }
  if (polling === mine) listen();
}

if (!over()) {
  const heading = page.querySelector(`[data-for="${CSS.escape(page.dataset.state)}"] h1`);
  if (heading) document.title = heading.textContent;
  told(false);
  if (settled()) told(true); else listen();
  // Out of the back-forward cache, or on line again: what is shown may be old.
  addEventListener("pageshow", (event) => { if (event.persisted && !settled() && !over()) listen(); });
  addEventListener("online", () => { if (!settled() && !over()) listen(); });
}
