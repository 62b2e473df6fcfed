// The page of the admin port. Addresses and replies are text of strangers: they enter the document
// as text nodes only, never as markup. The policy that the page is served with forbids the rest.

const PHASES = ["ready", "active", "deferred", "held", "quarantined"];
const STATS_EVERY_MS = 5_000;
const TOP_EVERY_MS = 30_000;
/** Points of the chart: one hour. */
const POINTS_MAX = 720;
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
  timers = [every(STATS_EVERY_MS, refreshStats), every(TOP_EVERY_MS, refreshTop)];
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
  for (const id of ["stats", "by-next-hop", "by-reason", "found"]) {
    byId(id).tBodies[0].replaceChildren();
  }
  for (const id of ["chart", "jobs", "found-count", "acted"]) byId(id).replaceChildren();
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
  byId("chart").replaceChildren(...lines);
  byId("chart-from").textContent = new Date(from).toLocaleTimeString();
  const end = new Date(to).toLocaleTimeString();
  byId("chart-to").textContent = `top: ${number(most)} jobs · ${end}`;
}

function fillStats(stats) {
  const rows = PHASES.map((phase) => {
    const key = svg("svg", { class: "key", viewBox: "0 0 32 10", "aria-hidden": "true" });
    key.append(svg("line", { class: phase, x1: 0, x2: 32, y1: 5, y2: 5 }));
    return element("tr", {}, element("th", { scope: "row" }, key, phase), numberCell(stats[phase]));
  });
  const more = [
    ["messages", `${number(stats.messages)}, ${size(stats.contentBytes)}`],
    ["store", `${size(stats.storeBytes)} of ${size(stats.storeLimitBytes)}`],
    ["oldest ready", time(stats.oldestReady)],
  ].map(([name, text]) => {
    const value = element("td", { class: "number" }, text);
    return element("tr", {}, element("th", { scope: "row" }, name), value);
  });
  byId("stats").tBodies[0].replaceChildren(...rows, ...more);
}

// --- Most jobs ---

function refreshTop() {
  return trying(byId("said"), async () => {
    fillTop(byId("by-next-hop"), await askJson("/v1/top?by=nextHop"), finderOf);
    fillTop(byId("by-reason"), await askJson("/v1/top?by=reason&phase=deferred"), cell);
  });
}

function fillTop(table, top, nameCell) {
  const rows = top.rows.map((row) => element("tr", {}, nameCell(row.name), numberCell(row.jobs)));
  if (top.other > 0) rows.push(element("tr", {}, cell("all others"), numberCell(top.other)));
  if (top.rows.length === 0) rows.push(element("tr", {}, cell("none")));
  if (!top.complete) {
    const bound = `only the ${number(top.lookedAt)} oldest were looked at`;
    rows.push(element("tr", {}, cell(bound)));
  }
  table.tBodies[0].replaceChildren(...rows);
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
  const found = count === 0 ? "no such mail in the queue" : `${count} jobs${more}`;
  byId("found-count").textContent = found;
}

function foundRow(job) {
  const message = job.id.split(".")[0];
  const link = element("a", { href: `#message=${encodeURIComponent(message)}` }, job.id);
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
  return showJobs(id);
}

function showJobs(id) {
  if (id !== chosen()) return undefined;
  byId("jobs").replaceChildren();
  return trying(byId("acted"), async () => {
    const jobs = await askJson(`/v1/messages/${encodeURIComponent(id)}`);
    if (id !== chosen()) return;
    byId("acts").hidden = jobs.length === 0;
    byId("jobs").replaceChildren(...jobs.flatMap(describe));
    if (jobs.length === 0) {
      const gone = "It is not in the queue; what became of it is in the log.";
      byId("jobs").append(element("p", {}, gone));
    }
  });
}

function describe(job) {
  const { envelope } = job;
  const facts = {
    from: envelope.reverse_path === "" ? "<>" : envelope.reverse_path,
    arrived: time(envelope.arrival),
    expires: time(envelope.expires),
    "next attempt": time(job.nextAttempt),
    attempts: number(job.attempts),
    size: size(job.size),
    tenant: envelope.tenant,
    login: envelope.identity,
    client: envelope.origin.smtp?.client ?? "we made it",
    trace: envelope.trace_parent?.split("-")[1],
    quarantined: job.quarantineReason,
  };
  const list = element("dl");
  for (const [name, value] of Object.entries(facts)) {
    if (value === undefined || value === "") continue;
    list.append(element("dt", {}, name), element("dd", {}, String(value)));
  }
  const title = element("h3", {}, `${job.id} to ${job.nextHop}: ${job.phase}`);
  return [title, list, wide(recipients(job)), wide(attempts(job))];
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
    await showJobs(id);
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
