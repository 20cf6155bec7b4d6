// The operators' board: figures every two seconds while it is looked at, payments as they change.
"use strict";

const EVERY_MS = 2000;
const EVENTS_EVERY_MS = 15000;
const ROWS = 50;
const TOAST_MS = 6000;

const byId = (id) => document.getElementById(id);
const TONES = {
  successful: "good", failed: "bad", voided: "off", unknown: "off", pending: "wait", processing: "busy",
};
const ORDER = ["successful", "processing", "pending", "failed", "voided", "unknown"];
const PARTS = {
  database: "Database", cache: "Cache", queue: "Queue", news: "News", worker: "Worker", provider: "Flutterwave",
};
const RULINGS = {
  release: ["Release", "What the event says is applied to the payment, as if Flutterwave had confirmed it."],
  replay: ["Replay", "The worker looks at the event again, and asks Flutterwave where it can."],
  reject: ["Reject", "The event ends without any effect; it holds the payment no longer."],
};

let board = null;
let stream = null;
let timer = 0;
let loading = false;
let eventsAt = 0;
let eventsFor = "";
const rows = new Map();

// --- words ---

const count = (n) => new Intl.NumberFormat("en", n < 10000 ? {} : { notation: "compact", maximumFractionDigits: 1 }).format(n);
const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;
const time = (text) => new Date(text).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });

function duration(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const s = ms / 1000;
  if (s < 90) return `${s < 10 ? s.toFixed(1) : Math.round(s)} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  return s < 129600 ? `${Math.round(s / 3600)} h` : `${Math.round(s / 86400)} days`;
}

function make(tag, attributes = {}, ...inside) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...inside);
  return element;
}

function figure(id, value, more, tone = "") {
  const [, number, unit] = /^([\d.,]+[KMB]?)\s?(.*)$/.exec(value) || [null, value, ""];
  byId(id).replaceChildren(number, ...(unit ? [make("small", {}, ` ${unit}`)] : []));
  if (tone) byId(id).dataset.tone = tone; else delete byId(id).dataset.tone;
  byId(`${id}-more`).textContent = more;
}

function toast(words) {
  byId("said").textContent = words;
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => { byId("said").textContent = ""; }, TOAST_MS);
}

function told(tone, words) {
  const live = byId("live");
  if (live.dataset.tone !== tone) live.dataset.tone = tone;
  if (live.textContent !== words) live.textContent = words;
}

// --- payments ---

const keyOf = (change) => JSON.stringify([change.merchant, change.kind, change.payment_id]);

function chip(status) {
  return make("span", { class: "chip", "data-tone": TONES[status] || "off" }, status);
}

function put(change, isNew) {
  if (change.kind === "reference") return;
  const key = keyOf(change);
  const held = rows.get(key);
  // The version decides, never the time: news and figures may overtake each other.
  if (held && held.change.version >= change.version) return;
  const row = make("tr", isNew ? { class: "new" } : {},
    make("td", {}, chip(change.status)),
    make("td", { class: "id" }, change.payment_id ?? "–", ...(change.kind === "charge" ? [] : [make("span", { class: "kind" }, change.kind)])),
    make("td", { class: "id wide" }, change.tx_ref ?? "–"),
    make("td", { class: "time" }, make("time", { datetime: change.changed_at, title: change.changed_at }, time(change.changed_at))));
  row.dataset.payment = change.payment_id;
  row.dataset.status = change.status;
  row.dataset.at = change.changed_at;
  if (held) held.row.remove();
  rows.set(key, { change, row });
  const body = byId("payments");
  let before = body.firstElementChild;
  while (before && before.dataset.at > change.changed_at) before = before.nextElementSibling;
  body.insertBefore(row, before);
  while (body.children.length > ROWS) {
    const last = body.lastElementChild;
    for (const [name, one] of rows) if (one.row === last) rows.delete(name);
    last.remove();
  }
  byId("payments-none").hidden = true;
}

function listen() {
  if (stream) stream.close();
  const chosen = byId("merchant").value;
  const mine = new EventSource(`/api/changes${chosen ? `?merchant=${encodeURIComponent(chosen)}` : ""}`);
  stream = mine;
  mine.addEventListener("change", (event) => put(JSON.parse(event.data), true));
  mine.addEventListener("open", () => { if (stream === mine) load(); });
  mine.addEventListener("error", () => {
    told("wait", "connecting again");
    if (stream === mine && mine.readyState === EventSource.CLOSED) {
      stream = null;
      setTimeout(() => { if (!stream) listen(); }, EVERY_MS);
    }
  });
}

// --- figures ---

function showFigures() {
  const { inbox, visible, fleet } = board;
  if (visible) {
    figure("visible", duration(visible.p50_ms), visible.events ? `99 % within ${duration(visible.p99_ms)}` : "no webhook yet");
  }
  if (inbox) {
    const waiting = "queue_depth" in board && board.queue_depth !== null ? ` · ${count(board.queue_depth)} queued` : "";
    figure("open", count(inbox.open), (inbox.open ? `oldest ${duration(inbox.oldest_s * 1000)}` : "none waits") + waiting, inbox.oldest_s > 30 ? "bad" : "");
    figure("stuck", count(inbox.held + inbox.dead), `${count(inbox.held)} held · ${count(inbox.dead)} given up`, inbox.held + inbox.dead ? "bad" : "");
  }
  for (const card of document.querySelectorAll(".fleet")) card.hidden = !fleet;
  if (!fleet) return;
  const { lookups, provider_calls: calls, freshness } = fleet;
  const rate = lookups.hit_rate === null ? "–" : `${(Math.floor(lookups.hit_rate * 1000) / 10).toFixed(1)} %`;
  figure("hits", rate, lookups.total ? `of ${plural(lookups.total, "lookup")}` : "no lookup yet");
  figure("saved", count(calls.saved), `${plural(calls.lookup, "lookup")} had to ask`);
  const at = freshness["1s"];
  const others = ["10ms", "100ms", "60s"].map((scale) => `${scale.replace(/(\d+)/, "$1 ")} ${freshness[scale].checked ? freshness[scale].nines.toFixed(1) : "–"}`);
  figure("nines", `${at.nines.toFixed(1)} nines`, at.checked ? others.join(" · ") : "not looked at yet", at.stale ? "bad" : "");
}

function showMix() {
  const statuses = board.statuses || {};
  const seen = ORDER.filter((status) => statuses[status]);
  const all = seen.reduce((sum, status) => sum + statuses[status], 0);
  byId("bar").replaceChildren(...seen.map((status) => {
    const part = make("span", { "data-tone": TONES[status] });
    part.style.flexGrow = statuses[status];
    return part;
  }));
  byId("bar").setAttribute("aria-label", seen.map((status) => `${status} ${statuses[status]}`).join(", ") || "no payments yet");
  byId("legend").replaceChildren(...seen.map((status) => make("li", { "data-tone": TONES[status] },
    make("span", { class: "name" }, status),
    make("span", { class: "count" }, `${count(statuses[status])} · ${Math.round(100 * statuses[status] / all)} %`))));
}

function showParts() {
  const items = Object.entries(PARTS).map(([name, label]) => {
    const state = board.health[name];
    const tone = state === "ok" ? "good" : state === "unknown" ? "wait" : "bad";
    return part(label, state.replaceAll("_", " "), tone);
  });
  if (board.fleet) {
    const roles = board.fleet.processes.map((one) => one.role);
    items.push(part("Heard from", `${plural(roles.filter((r) => r === "web").length, "web server")}, ${plural(roles.filter((r) => r === "worker").length, "worker")}`, "off"));
    items.push(part("Live pages", count(board.fleet.streams), "off"));
    if (board.fleet.violations) items.push(part("Violations found", count(board.fleet.violations), "bad"));
  }
  byId("parts").replaceChildren(...items);
}

const part = (name, state, tone) => make("li", {}, make("span", {}, name), make("span", { class: "state", "data-tone": tone }, state));

function showYou() {
  const { you } = board;
  const scope = you.merchant ? ` · ${you.merchant}` : "";
  byId("you").textContent = you.session ? `${you.name}${scope}${you.operator ? "" : " · read only"}` : "";
  byId("sign-out").hidden = !you.session;
  const select = byId("merchant");
  byId("merchants").hidden = you.merchants.length < 2;
  if (select.options.length === 1) for (const name of you.merchants) select.append(make("option", { value: name }, name));
}

function showHealth() {
  const ill = Object.entries(board.health).filter(([, state]) => state !== "ok" && state !== "unknown");
  if (!stream || stream.readyState !== EventSource.OPEN) told("wait", "connecting");
  else if (ill.length) told("bad", ill.map(([name, state]) => `${PARTS[name]}: ${state.replaceAll("_", " ")}`).join(", "));
  else told("good", "live, all parts well");
}

async function load() {
  if (loading) return;
  loading = true;
  clearTimeout(timer);
  const chosen = byId("merchant").value;
  try {
    const answer = await fetch(`/api/board${chosen ? `?merchant=${encodeURIComponent(chosen)}` : ""}`, { cache: "no-store" });
    if (answer.status === 401) return void location.reload();
    if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
    const found = await answer.json();
    if (chosen !== byId("merchant").value) return;
    board = found;
    for (const change of [...(board.payments || [])].reverse()) put(change, false);
    byId("payments-none").hidden = rows.size > 0;
    showFigures();
    showMix();
    showParts();
    showYou();
    showHealth();
    await loadEvents();
  } catch {
    told("bad", board && board.as_of ? `no answer since ${time(board.as_of)}` : "no answer");
  } finally {
    loading = false;
    if (!document.hidden) timer = setTimeout(load, EVERY_MS);
  }
}

// --- what waits for a person ---

async function loadEvents() {
  const stuck = board.inbox ? board.inbox.held + board.inbox.dead : 0;
  const wanted = JSON.stringify([board.inbox?.held, board.inbox?.dead, byId("merchant").value]);
  if (!board.you.operator) {
    byId("events-none").textContent = stuck ? `${plural(stuck, "event")}. Your token may look, not rule.` : "Nothing is held, and nothing was given up.";
    return;
  }
  if (wanted === eventsFor && Date.now() - eventsAt < EVENTS_EVERY_MS) return;
  const chosen = byId("merchant").value;
  const answer = await fetch(`/api/events?limit=50${chosen ? `&merchant=${encodeURIComponent(chosen)}` : ""}`, { cache: "no-store" });
  if (!answer.ok) return;
  const { events, total } = await answer.json();
  eventsFor = wanted;
  eventsAt = Date.now();
  // What a finger is about to press must not move away under it for nothing.
  const drawn = JSON.stringify(events.map((event) => [event.event, event.state]));
  if (loadEvents.drawn === drawn) return;
  loadEvents.drawn = drawn;
  byId("events").replaceChildren(...events.map(eventItem));
  byId("events-none").hidden = total > 0 && events.length === total;
  byId("events-none").textContent = total > events.length ? `${count(total - events.length)} more: paystate dead-letters lists them.` : "Nothing is held, and nothing was given up.";
}

function eventItem(event) {
  const claim = event.claim || {};
  const says = [claim.status, claim.amount && `${claim.amount} ${claim.currency || ""}`.trim(), claim.tx_ref].filter(Boolean).join(" · ");
  const buttons = Object.keys(RULINGS).map((action) => {
    const button = make("button", { type: "button", "data-action": action, "aria-label": `${RULINGS[action][0]} event ${event.event} of payment ${event.payment_id}` }, RULINGS[action][0]);
    button.addEventListener("click", () => askWhy(action, event));
    return button;
  });
  return make("li", { "data-event": event.event },
    make("div", { class: "head" },
      make("span", { class: "chip", "data-tone": event.state === "dead" ? "bad" : "wait" }, event.state === "dead" ? "given up" : event.state),
      make("span", { class: "id" }, event.payment_id),
      make("span", { class: "age quiet" }, duration(event.age_s * 1000))),
    make("p", { class: "quiet" }, event.meaning, ...(says ? [make("br"), "It says: ", says] : [])),
    make("div", { class: "buttons" }, ...buttons));
}

let asked = null;

function askWhy(action, event) {
  asked = { action, event };
  const [word, what] = RULINGS[action];
  byId("ruling-title").textContent = `${word} event ${event.event} of payment ${event.payment_id}?`;
  byId("ruling-what").textContent = what;
  byId("ruling-do").textContent = word;
  byId("ruling-problem").textContent = "";
  byId("why").value = "";
  byId("ruling").showModal();
  byId("why").focus();
}

async function rule() {
  const { action, event } = asked;
  byId("ruling-do").disabled = true;
  try {
    const answer = await fetch(`/api/events/${event.event}/${action}`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ reason: byId("why").value.replaceAll(/\s+/g, " ") }),
    });
    const body = await answer.json();
    if (!answer.ok) throw new Error(body.detail || `HTTP ${answer.status}`);
    byId("ruling").close();
    toast(`Event ${event.event}: ${{ release: "released", replay: "opened again", reject: "rejected" }[action]}${body.status ? `, the payment is ${body.status}` : ""}.`);
    eventsFor = "";
    load();
  } catch (error) {
    byId("ruling-problem").textContent = error.message;
  } finally {
    byId("ruling-do").disabled = false;
  }
}

byId("ruling-form").addEventListener("submit", (event) => { event.preventDefault(); rule(); });
byId("ruling-cancel").addEventListener("click", () => byId("ruling").close());
byId("merchant").addEventListener("change", () => {
  rows.clear();
  byId("payments").replaceChildren();
  loadEvents.drawn = null;
  eventsFor = "";
  listen();
});
document.addEventListener("visibilitychange", () => { if (!document.hidden) load(); });

listen();
load();
