// The page of the admin port. Addresses and replies are text of strangers: they enter the document
// as text nodes only, never as markup. The policy that the page is served with forbids the rest.

const PHASES = ["ready", "active", "deferred", "held", "quarantined"];
const STATS_EVERY_MS = 5_000;
const TOP_EVERY_MS = 30_000;
const OUTCOMES_EVERY_MS = 15_000;
/** Points of the chart: one hour. */
const POINTS_MAX = 720;
/** Points of a next hop's line: one hour. */
const SPARK_MAX = 120;
const OUTCOMES = ["delivered", "deferred", "bounced"];
/** Replies that are shown of each outcome. */
const REPLIES_MAX = 10;
/** Lines that a search reads; then it hangs up, which ends the search in the process too. */
const FOUND_MAX = 200;
const QUESTIONS = {
  hold: (id) => `Hold message ${id}?`,
  release: (id) => `Release message ${id}?`,
  retryNow: (id) => `Try message ${id} now?`,
  cancelWithDsn: (id) => `Give message ${id} up, and tell its sender?`,
  cancelSilently: (id) => `Drop message ${id}, and tell nobody?`,
};

const RESULTS = {
  done: "done",
  requested: "will be done as soon as a worker sees it",
  notApplicable: "does not apply in its phase",
};

const DSNS = {
  failedDsn: "DSN of a failure",
  delayedDsn: "DSN of a delay",
  successDsn: "DSN of a delivery",
};

const byId = (id) => document.getElementById(id);

/** An element with attributes and children; a child that is a string becomes a text node. */
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function svg(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

const time = (ms) => (ms === undefined ? "" : new Date(ms).toLocaleString());
const number = (value) => value.toLocaleString();
const cell = (text) => element("td", { class: "text" }, String(text ?? ""));
const numberCell = (value) => element("td", { class: "number" }, number(value));

/** Octets in a unit that leaves at most four digits. */
function size(octets) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  for (; octets >= 10_000 && unit + 1 < units.length; unit += 1) octets /= 1024;
  return `${number(Math.round(octets))} ${units[unit]}`;
}

// --- Asking ---

class Unauthorized extends Error {}

async function ask(path, options = {}) {
  const token = sessionStorage.getItem("token");
  const headers = { ...options.headers, authorization: `Bearer ${token}` };
  const response = await fetch(path, { ...options, headers });
  if (response.status === 401) throw new Unauthorized("this is not the token");
  if (!response.ok) throw new Error((await response.text()) || response.statusText);
  return response;
}

const askJson = async (path) => (await ask(path)).json();

/** Calls `each` with at most `max` objects of a stream of lines; tells whether that was all. */
async function askLines(path, options, max, each, hangUp = new AbortController()) {
  const response = await ask(path, { ...options, signal: hangUp.signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (let count = 0; ; ) {
    const { value, done } = await reader.read();
    if (done) return true;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (count === max) {
        hangUp.abort();
        return false;
      }
      const item = JSON.parse(line);
      if (item.error !== undefined) throw new Error(item.error);
      each(item);
      count += 1;
    }
  }
}

/** Does something that asks, and says what went wrong. */
async function trying(place, work) {
  try {
    await work();
  } catch (error) {
    // We hung up ourselves, for something newer.
    if (error.name === "AbortError") return;
    if (error instanceof Unauthorized) leave(error.message);
    else place.textContent = `${error.message}`;
  }
}

// --- In and out ---

let timers = [];

function enter() {
  byId("enter").hidden = true;
  byId("inside").hidden = false;
  byId("leave").hidden = false;
  timers = [
    every(STATS_EVERY_MS, refreshStats), every(TOP_EVERY_MS, refreshTop),
    every(OUTCOMES_EVERY_MS, refreshOutcomes),
  ];
  showChosen();
}

/** Begins at once; a round is left out while the last one waits for its answer. */
function every(ms, work) {
  let isBusy = false;
  const round = async () => {
    if (isBusy) return;
    isBusy = true;
    await work();
    isBusy = false;
  };
  round();
  return setInterval(round, ms);
}

/** Forgets the token, and what was shown by it. */
function leave(why) {
  timers.forEach(clearInterval);
  sessionStorage.removeItem("token");
  search.abort();
  points.length = 0;
  sparks.clear();
  const tables = ["by-next-hop", "by-reason", "found", ...OUTCOMES.map((name) => `outcomes-${name}`)];
  for (const id of tables) byId(id).tBodies[0].replaceChildren();
  for (const id of ["stats", "store", "chart", "way", "found-count", "acted"]) {
    byId(id).replaceChildren();
  }
  byId("inside").hidden = true;
  byId("leave").hidden = true;
  byId("enter").hidden = false;
  byId("said").textContent = why;
  byId("token").focus();
}

// --- Jobs by phase ---

const points = [];

function refreshStats() {
  return trying(byId("said"), async () => {
    const stats = await askJson("/v1/stats");
    points.push({ at: Date.now(), ...stats });
    if (points.length > POINTS_MAX) points.shift();
    drawChart();
    fillStats(stats);
    byId("said").textContent = `as of ${new Date().toLocaleTimeString()}`;
  });
}

function drawChart() {
  const [from, to] = [points[0].at, points.at(-1).at];
  const most = Math.max(1, ...points.flatMap((point) => PHASES.map((phase) => point[phase])));
  const x = (at) => (to === from ? 0 : (600 * (at - from)) / (to - from));
  const y = (jobs) => 155 - (150 * jobs) / most;
  const lines = PHASES.map((phase) => {
    const place = (point) => `${x(point.at).toFixed(1)},${y(point[phase]).toFixed(1)}`;
    return svg("polyline", { class: phase, points: points.map(place).join(" ") });
  });
  const grid = [0.25, 0.5, 0.75].map((part) => {
    const height = y(most * part);
    return svg("line", { class: "grid", x1: 0, x2: 600, y1: height, y2: height });
  });
  byId("chart").replaceChildren(...grid, ...lines);
  byId("chart-from").textContent = new Date(from).toLocaleTimeString();
  const end = new Date(to).toLocaleTimeString();
  byId("chart-to").textContent = `top: ${number(most)} jobs · ${end}`;
}

function fillStats(stats) {
  const tiles = PHASES.map((phase) => {
    const key = svg("svg", { class: "key", viewBox: "0 0 32 10", "aria-hidden": "true" });
    key.append(svg("line", { class: phase, x1: 0, x2: 32, y1: 5, y2: 5 }));
    const count = element("dd", { "data-phase": phase }, number(stats[phase]));
    return element("div", {}, element("dt", {}, key, phase), count);
  });
  byId("stats").replaceChildren(...tiles);
  byId("store").replaceChildren(...pairs({
    messages: `${number(stats.messages)}, ${size(stats.contentBytes)}`,
    store: `${size(stats.storeBytes)} of ${size(stats.storeLimitBytes)}`,
    "oldest ready": time(stats.oldestReady),
  }));
}

/** The terms and descriptions of a list; those that say nothing are left out. */
function pairs(facts) {
  const known = Object.entries(facts).filter(([, value]) => value !== undefined && value !== "");
  return known.flatMap(([name, value]) => {
    return [element("dt", {}, name), element("dd", {}, String(value))];
  });
}

// --- Waiting ---

/** Jobs of each next hop, by the time at which they were counted. */
const sparks = new Map();

function refreshTop() {
  return trying(byId("said"), async () => {
    const hops = await askJson("/v1/top?by=nextHop");
    remember(hops.rows);
    fillTop(byId("by-next-hop"), hops, (name) => [finderOf(name), sparkOf(name)]);
    const reasons = await askJson("/v1/top?by=reason&phase=deferred");
    fillTop(byId("by-reason"), reasons, (name) => [cell(name)]);
  });
}

/** A next hop that is not among the first is forgotten. */
function remember(rows) {
  const at = Date.now();
  const before = new Map(sparks);
  sparks.clear();
  for (const { name, jobs } of rows) {
    sparks.set(name, [...(before.get(name) ?? []), { at, jobs }].slice(-SPARK_MAX));
  }
}

function sparkOf(name) {
  const line = sparks.get(name);
  const [from, to] = [line[0].at, line.at(-1).at];
  const most = Math.max(1, ...line.map(({ jobs }) => jobs));
  const place = ({ at, jobs }) => {
    const x = to === from ? 0 : (100 * (at - from)) / (to - from);
    return `${x.toFixed(1)},${(19 - (18 * jobs) / most).toFixed(1)}`;
  };
  const drawn = svg("svg", { class: "spark", viewBox: "0 0 100 20", preserveAspectRatio: "none" });
  drawn.setAttribute("aria-hidden", "true");
  const points = line.length === 1 ? [line[0], { ...line[0], at: from }] : line;
  drawn.append(svg("polyline", { points: points.map(place).join(" ") }));
  return element("td", {}, drawn);
}

function fillTop(table, top, cells) {
  const rows = top.rows.map((row) => tableRow(...cells(row.name), numberCell(row.jobs)));
  const wide = top.rows.length === 0 ? [] : cells(top.rows[0].name).slice(1).map(() => cell(""));
  if (top.other > 0) rows.push(tableRow(cell("all others"), ...wide, numberCell(top.other)));
  if (top.rows.length === 0) rows.push(tableRow(cell("none")));
  if (!top.complete) {
    const bound = `only the ${number(top.lookedAt)} oldest were looked at`;
    rows.push(tableRow(cell(bound)));
  }
  table.tBodies[0].replaceChildren(...rows);
}

const tableRow = (...cells) => element("tr", {}, ...cells);

// --- Attempts ---

function refreshOutcomes() {
  return trying(byId("said"), async () => {
    const { rows, minutes, unheard } = await askJson("/v1/outcomes");
    const span = minutes < 60 ? `in ${minutes} min, since the start` : "in the last hour";
    byId("outcomes-span").textContent = span + missing(unheard);
    for (const name of OUTCOMES) {
      fillOutcomes(byId(`outcomes-${name}`), rows.filter((row) => row.outcome === name));
    }
  });
}

const missing = (unheard) =>
  unheard > 0 ? `; ${unheard} of the processes did not answer, or not so that it can be read` : "";

function fillOutcomes(table, rows) {
  const sum = (some) => some.reduce((count, row) => count + row.recipients, 0);
  table.caption.querySelector("b").textContent = number(sum(rows));
  const shown = rows.slice(0, REPLIES_MAX);
  const lines = shown.map((row) => tableRow(cell(row.reason), numberCell(row.recipients)));
  const rest = sum(rows.slice(REPLIES_MAX));
  if (rest > 0) lines.push(tableRow(cell("all others"), numberCell(rest)));
  if (rows.length === 0) lines.push(tableRow(cell("none")));
  table.tBodies[0].replaceChildren(...lines);
}

/** A cell that finds the jobs of a next hop, such as `smtp:example.net`. */
function finderOf(nextHop) {
  const button = element("button", { type: "button" }, nextHop);
  button.addEventListener("click", () => {
    byId("find").reset();
    byId("find-domain").value = nextHop.slice(nextHop.indexOf(":") + 1);
    find();
  });
  return element("td", { class: "text" }, button);
}

// --- Find ---

function find() {
  const message = byId("find-message").value.trim();
  if (message !== "") {
    location.hash = `message=${encodeURIComponent(message)}`;
    return undefined;
  }
  const query = new URLSearchParams();
  const filters = { sender: "find-sender", recipientDomain: "find-domain", phase: "find-phase" };
  for (const [name, id] of Object.entries(filters)) {
    const value = byId(id).value.trim();
    // The null sender is an empty text for the API.
    if (value !== "") query.set(name, value === "<>" ? "" : value);
  }
  return trying(byId("found-count"), () => list(query));
}

/** Of the search that goes on: a newer one ends it. */
let search = new AbortController();

async function list(query) {
  search.abort();
  const mine = new AbortController();
  search = mine;
  const body = byId("found").tBodies[0];
  body.replaceChildren();
  byId("found").hidden = true;
  byId("found-count").textContent = "looking…";
  const isAll = await askLines(`/v1/jobs?${query}`, {}, FOUND_MAX, (job) => {
    if (search === mine) body.append(foundRow(job));
    byId("found").hidden = false;
  }, mine);
  const count = body.rows.length;
  const more = isAll ? "" : ", the oldest; there are more: narrow the search";
  const jobs = `${number(count)} ${count === 1 ? "job" : "jobs"}${more}`;
  const found = count === 0 ? "no such mail in the queue" : jobs;
  byId("found-count").textContent = found;
}

function foundRow(job) {
  const link = linkTo(job.id);
  const more = job.recipientsPending - job.recipients.length;
  const to = job.recipients.join(", ") + (more > 0 ? ` and ${more} more` : "");
  return element(
    "tr", {}, element("td", {}, link), cell(job.phase), cell(time(job.arrival)),
    numberCell(job.attempts), cell(`<${job.sender}>`), cell(to), cell(job.lastReply),
  );
}

// --- One message ---

const chosen = () => new URLSearchParams(location.hash.slice(1)).get("message");

function showChosen() {
  const id = chosen();
  byId("message").hidden = id === null;
  if (id === null) return undefined;
  byId("acted").textContent = "";
  byId("message-title").textContent = `Message ${id}`;
  byId("message-title").focus();
  return showWay(id);
}

function showWay(id) {
  if (id !== chosen()) return undefined;
  byId("way").replaceChildren();
  return trying(byId("acted"), async () => {
    const { message, dsns, unheard } = await askJson(`/v1/messages/${encodeURIComponent(id)}/trace`);
    if (id !== chosen()) return;
    byId("acts").hidden = message.jobs.every((traced) => traced.ended !== undefined);
    byId("way").replaceChildren(...arrival(message), ...message.jobs.map(describe));
    byId("way").append(...dsns.flatMap(describeDsn));
    if (message.jobs.length === 0 && message.cause === undefined) {
      const gone = "It is neither in the queue nor in the history; the log may have it.";
      byId("way").append(element("p", {}, gone));
    }
    if (unheard > 0) byId("way").append(element("p", {}, `There may be more${missing(unheard)}.`));
  });
}

/** How the message came: all of its jobs have that. */
function arrival({ cause, jobs }) {
  const list = element("dl", { class: "facts" });
  if (cause !== undefined) {
    const of = linkTo(cause.job);
    list.append(element("dt", {}, DSNS[cause.kind]), element("dd", {}, "for ", of));
  }
  const job = jobs.find((traced) => traced.job !== undefined)?.job;
  if (job !== undefined) list.append(...pairs(facts(job)));
  return [list];
}

function facts({ envelope, size: octets }) {
  const { smtp } = envelope.origin;
  return {
    came: smtp === undefined ? "we made it" : `${smtp.client} to ${smtp.listener ?? "smtp"}`,
    session: smtp && `${smtp.protocol}, ${smtp.tls ?? "no TLS"}, HELO ${smtp.helo}`,
    login: envelope.identity ?? undefined,
    from: envelope.reverse_path === "" ? "<>" : envelope.reverse_path,
    accepted: time(envelope.arrival),
    expires: time(envelope.expires),
    size: size(octets),
    tenant: envelope.tenant,
    trace: envelope.trace_parent?.split("-")[1],
  };
}

function linkTo(job) {
  const message = job.split(".")[0];
  return element("a", { href: `#message=${encodeURIComponent(message)}` }, job);
}

function describe({ id, ended, job }) {
  if (job === undefined) {
    const when = `${id}: dropped by an operator, ${time(ended.at)}`;
    return element("article", {}, element("h3", {}, when));
  }
  const phase = ended === undefined ? job.phase : "ended";
  const badge = element("span", { class: `badge is-${phase}` }, phase);
  const list = element("dl", { class: "facts" }, ...pairs({
    job: id,
    ended: time(ended?.at),
    "next attempt": time(job.nextAttempt ?? undefined),
    attempts: number(job.attempts),
    "forwarded by": job.forward?.delivered_to ?? job.forward?.deliveredTo,
    quarantined: job.quarantineReason ?? undefined,
  }));
  const title = element("h3", {}, `to ${job.nextHop}`, badge);
  return element("article", {}, title, list, wide(recipients(job)), wide(attempts(job)));
}

function describeDsn({ id, cause, jobs }) {
  const title = element("h3", {}, `${DSNS[cause.kind]}: `, linkTo(id));
  return [element("article", {}, title, ...jobs.map(describe))];
}

const wide = (table) => element("div", { class: "wide" }, table);

const said = ({ code, status, text }) => [code, status, text].filter(Boolean).join(" ");

function recipients(job) {
  const rows = job.recipients.map(({ recipient, status, last }) => {
    const reply = last === undefined ? "" : `${last.remote ?? "we"}: ${said(last.reply)}`;
    return [cell(recipient.address), cell(status), cell(reply)];
  });
  return tableOf("recipients", ["Address", "Status", "Last reply"], rows);
}

function attempts(job) {
  const rows = job.history.map((attempt) => [
    numberCell(attempt.number), cell(time(attempt.at)), numberCell(attempt.tookMs),
    cell(attempt.relay ?? "no host reached"), cell(attempt.tls),
    cell(`${attempt.delivered} / ${attempt.deferred} / ${attempt.bounced}`),
    cell(said(attempt.reply)),
  ]);
  const head =
    ["No", "At", "ms", "Host", "TLS", "Delivered / deferred / bounced", "Reply"];
  return tableOf("last attempts", head, rows);
}

function tableOf(caption, head, rows) {
  const cells = head.map((name) => element("th", { scope: "col" }, name));
  return element(
    "table", {}, element("caption", {}, caption),
    element("thead", {}, element("tr", {}, ...cells)),
    element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row))),
  );
}

function act(action) {
  const id = chosen();
  if (!confirm(QUESTIONS[action](id))) return undefined;
  return trying(byId("acted"), async () => {
    const request = {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ action, filter: { message: id } }),
    };
    const results = [];
    await askLines("/v1/actions", request, Infinity, (acted) => {
      results.push(`${acted.job}: ${RESULTS[acted.result]}`);
    });
    await showWay(id);
    if (id !== chosen()) return;
    byId("acted").textContent = results.join("; ") || "nothing to do: it is not in the queue";
  });
}

// --- Begin ---

byId("enter").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", byId("token").value.trim());
  byId("token").value = "";
  enter();
});
byId("leave").addEventListener("click", () => leave("the token is forgotten"));
byId("find").addEventListener("submit", (event) => {
  event.preventDefault();
  find();
});
for (const button of byId("acts").querySelectorAll("button")) {
  button.addEventListener("click", () => act(button.dataset.action));
}
window.addEventListener("hashchange", showChosen);
if (sessionStorage.getItem("token") === null) leave("");
else enter();
