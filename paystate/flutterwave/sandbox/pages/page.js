"use strict";

const POLL_MS = 1000;
const PAYMENTS = 25;
const DELIVERIES = 60;
const TONES = {
  successful: "good", acknowledged: "good", failed: "bad", voided: "bad", refused: "bad",
  unreachable: "bad", overflow: "bad", dropped: "wait", pending: "wait", processing: "wait",
};
const byId = (id) => document.getElementById(id);

async function ask(method, path, body) {
  const options = { method, cache: "no-store" };
  if (body !== undefined) {
    options.body = typeof body === "string" ? body : JSON.stringify(body);
    options.headers = { "Content-Type": "application/json" };
  }
  const response = await fetch(path, options);
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.message || `HTTP ${response.status}`);
  return answer;
}

function say(text, bad = false) {
  const message = byId("message");
  message.textContent = text;
  message.className = bad ? "bad" : "";
}

async function act(method, path, body, done) {
  try {
    await ask(method, path, body);
    say(done);
  } catch (problem) {
    say(problem.message, true);
  }
  await refresh();
}

/* The value of one field as the API takes it; undefined leaves it out. */
function valueOf(field) {
  if (field.type === "checkbox") return field.checked;
  const text = field.value.trim();
  const type = field.dataset.type;
  if (type === "number-or-null") return text === "" ? null : Number(text);
  if (text === "") return undefined;
  if (type === "number") return Number(text);
  return type === "list" ? [text] : text;
}

function bodyOf(form) {
  const body = {};
  const rates = {};
  for (const field of form.elements) {
    if (!field.name) continue;
    const value = valueOf(field);
    if (value === undefined) continue;
    if (field.dataset.rate) rates[field.name] = value;
    else body[field.name] = value;
  }
  if (Object.keys(rates).length) body.rates = rates;
  return body;
}

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

/* Show `items` as rows. A row that stays keeps its element, and with it the keyboard's focus. */
function show(body, items, key, cells, actions) {
  const held = new Map([...body.children].map((row) => [row.dataset.key, row]));
  let at = body.firstElementChild;
  for (const item of items) {
    const name = key(item);
    let row = held.get(name);
    if (row === undefined) {
      row = element("tr");
      row.dataset.key = name;
      for (const _ of cells(item)) row.append(element("td"));
      if (actions) row.append(actions(item));
    }
    held.delete(name);
    cells(item).forEach(([text, tone], index) => {
      const cell = row.children[index];
      if (cell.textContent !== text) cell.textContent = text;
      cell.className = tone || "";
    });
    if (row === at) at = at.nextElementSibling;
    else body.insertBefore(row, at);
  }
  for (const row of held.values()) row.remove();
}

function paymentActions(payment) {
  const cell = element("td");
  const path = `/sandbox/payments/${encodeURIComponent(payment.id)}`;
  const button = (label, what, body) => {
    const made = element("button", label);
    made.type = "button";
    made.setAttribute("aria-label", `${label}: ${payment.id}`);
    const done = `${payment.id}: ${label} done`;
    made.addEventListener("click", () =>
      act("POST", `${path}/${what}?kind=${payment.kind}`, body, done));
    cell.append(made);
  };
  button("succeed", "settle", { status: "successful" });
  button("fail", "settle", { status: "failed" });
  button("succeed silently", "settle", { status: "successful", announce: false });
  button("send again", "announce", {});
  if (payment.kind === "charge") {
    button("refund", "refund", {});
    if (payment.chargebacks.length) button("lose dispute", "chargeback", { status: "lost" });
    else button("dispute", "chargeback", {});
  } else if (payment.api === "v4") button("reverse", "reverse", {});
  return cell;
}

function statusOf(payment) {
  const refunded = payment.refunds.length ? ", refunded" : "";
  const disputed = payment.chargebacks.map((c) => `, chargeback ${c.status}`).join("");
  return payment.status + refunded + disputed + (payment.reversed_at === null ? "" : ", reversed");
}

function showPayments(payments) {
  show(byId("payments"), payments, (p) => `${p.kind}:${p.id}`, (p) => [
    [p.id], [`${p.api} ${p.kind}`], [p.tx_ref], [`${p.amount} ${p.currency}`],
    [statusOf(p), TONES[p.status]],
  ], paymentActions);
}

function showDeliveries(deliveries) {
  show(byId("deliveries"), deliveries.reverse(), (d) => String(d.number), (d) => [
    [new Date(d.at * 1000).toLocaleTimeString()],
    [d.family + (d.form_encoded ? " (form)" : "")],
    [d.payment_id], [d.status], [d.faults.join(", ")],
    [`${d.attempt}${d.copy > 1 ? " (copy)" : ""}`],
    [d.code === null ? d.outcome : `${d.code} ${d.outcome}`, TONES[d.outcome]],
  ]);
}

function showState(state) {
  byId("summary").textContent =
    `Seed ${state.seed}, ${state.payments} payments, webhooks go to ` +
    `${state.receiver.url || "nobody"}. APIs: ${state.api.fault}` +
    (state.api.cooling_s > 0 ? `, cooling off for ${Math.ceil(state.api.cooling_s)} s` : "") + ".";
  const script = state.script;
  const problems = script.problems.map((p) => ` Step ${p.step}: ${p.problem}.`).join("");
  byId("progress").textContent = script.steps
    ? `${script.playing ? "Playing" : "Played"}: ${script.done} of ${script.steps}.${problems}`
    : "";
}

function option(name) {
  const made = element("option", name.replaceAll("_", " "));
  made.value = name;
  return made;
}

function fill(state) {
  byId("families").append(...state.families.map(option));
  byId("api-faults").append(...state.api_faults.map(option));
  for (const select of document.querySelectorAll(".webhook-faults")) {
    select.append(...state.webhook_faults.map(option));
  }
  for (const [name, share] of Object.entries(state.webhooks.rates)) {
    const label = element("label", `${name.replaceAll("_", " ")} `);
    const input = element("input");
    Object.assign(input, { name, type: "number", min: 0, max: 1, step: 0.01, value: share });
    Object.assign(input.dataset, { type: "number", rate: "1" });
    label.append(input);
    byId("rates").append(label);
  }
  for (const name of ["retries", "retry_interval_s", "max_delay_s"]) {
    byId("policy").elements[name].value = state.webhooks[name];
  }
  byId("policy").elements.form_encoded.checked = state.webhooks.form_encoded;
  document.querySelector("input[name=url]").value = state.receiver.url || "";
}

let filled = false;

async function refresh() {
  try {
    const [state, payments, deliveries] = await Promise.all([
      ask("GET", "/sandbox/state"),
      ask("GET", `/sandbox/payments?limit=${PAYMENTS}`),
      ask("GET", `/sandbox/deliveries?limit=${DELIVERIES}`),
    ]);
    if (!filled) fill(state);
    filled = true;
    showState(state);
    showPayments(payments.payments);
    showDeliveries(deliveries.deliveries);
  } catch {
    byId("summary").textContent = "The sandbox does not answer.";
  }
}

async function poll() {
  if (!filled || !document.hidden) await refresh();
  setTimeout(poll, POLL_MS);
}

for (const form of document.querySelectorAll("form[data-post]")) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const title = form.querySelector("h2").textContent;
    const body = bodyOf(form);
    if (form.dataset.post === "/sandbox/receiver" && body.url === undefined) body.url = null;
    act("POST", form.dataset.post, body, `${title}: done`);
  });
}
byId("script").addEventListener("submit", (event) => {
  event.preventDefault();
  act("POST", "/sandbox/script", event.target.elements.steps.value, "Script: playing");
});
byId("stop").addEventListener("click", () =>
  act("DELETE", "/sandbox/script", undefined, "Script: stopped"));
poll();
