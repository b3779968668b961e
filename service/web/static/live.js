// Live pages: one stream of signals per tab, and the changed part of the page fetched again, at most once a second.
// Pages about other things than jobs, which no event announces, fetch their part at an interval while they are visible.
//
//   off ──connect──► live ◄──► paused (button, "p")      htmx's SSE extension closes the stream while the tab is
//                     │  ▲                               hidden, and resumes it after the last signal.
//                     ▼  │
//               reconnecting ──401──► signed-out
import { refreshAges } from "./ages.js";
import { refreshJobs } from "./job_rows.js";
import { clock } from "./zone.js";

const REFRESH_MILLISECONDS = 1000;
const ANNOUNCE_MILLISECONDS = 10000;
const RETRY_MILLISECONDS = 5000;
const REFRESH = { jobs: refreshJobs, part: refreshPart };

let status;
let isPaused = false;
let waiting = new Set();
let timer = 0;
let isRefreshing = false;
let refreshedAt = 0;
let sequence = 0;
let announcedAt = 0;
let unannounced = 0;

function show(state, text) {
  const wasLost = ["reconnecting", "signed-out"].includes(status.dataset.state);
  const isLost = ["reconnecting", "signed-out"].includes(state);
  if (isLost !== wasLost) document.getElementById("announcer").textContent = isLost ? text : "live again";
  status.dataset.state = state;
  document.getElementById("live-text").textContent = text;
}

function showSequence() {
  if (isPaused) show("paused", waiting.size ? `paused, ${waiting.size} changed` : "paused");
  else show("live", `live, sequence ${sequence.toLocaleString("en-US")}`);
}

function announce(count) {
  unannounced += count;
  if (Date.now() - announcedAt < ANNOUNCE_MILLISECONDS) return;
  announcedAt = Date.now();
  document.getElementById("announcer").textContent = unannounced === 1 ? "1 job changed" : `${unannounced} jobs changed`;
  unannounced = 0;
}

// What the reader chose or typed in a part survives its replacement.
function changedFields(element) {
  const fields = [...element.querySelectorAll("input, select, textarea")];
  const isChanged = (each) =>
    each.checked !== each.defaultChecked ||
    (each.defaultValue ?? each.value) !== each.value ||
    [...(each.options ?? [])].some((option) => option.selected !== option.defaultSelected);
  const own = fields.filter((each) => each.type !== "hidden");
  return own.some(isChanged) ? own.map(({ name, type, value, checked }) => ({ name, type, value, checked })) : [];
}

function restoreFields(element, fields) {
  for (const { name, type, value, checked } of fields) {
    for (const each of element.querySelectorAll(`[name="${CSS.escape(name)}"]`)) {
      if (each.type !== type) continue;
      if (each.type !== "radio" && each.type !== "checkbox") each.value = value;
      else if (each.value === value) each.checked = checked;
    }
  }
}

async function refreshPart(element) {
  const answer = await fetch(element.dataset.url, { headers: { "HX-Request": "true" } });
  if (answer.status === 401 || answer.status === 403) signedOut();
  if (!answer.ok) return answer.status;
  const fields = changedFields(element);
  const cursor = element.querySelector("tr.cursor")?.id;
  await window.htmx.swap({ target: element, text: await answer.text(), swap: "innerMorph" });
  restoreFields(element, fields);
  if (cursor) document.getElementById(cursor)?.classList.add("cursor");
  refreshAges(element);
  sequence = Number(answer.headers.get("jobledger-sequence")) || sequence;
  return answer.status;
}

async function refresh() {
  timer = 0;
  if (isPaused || document.hidden || !waiting.size) return;
  const changed = waiting;
  waiting = new Set();
  isRefreshing = true;
  const isComplete = await refreshAll(changed).catch(() => false);
  isRefreshing = false;
  refreshedAt = Date.now();
  if (status.dataset.state === "signed-out") return;
  if (isComplete) {
    announce(changed.size);
    showSequence();
  } else {
    for (const job of changed) waiting.add(job);
    reconnecting();
  }
  if (waiting.size) schedule(isComplete ? REFRESH_MILLISECONDS : RETRY_MILLISECONDS);
}

async function refreshAll(changed) {
  let isComplete = true;
  for (const element of document.querySelectorAll("[data-live]")) {
    const code = await REFRESH[element.dataset.live](element, changed, signedOut);
    if (code >= 400) isComplete = false;
  }
  return isComplete;
}

function schedule(delay) {
  if (timer || isRefreshing) return;
  const least = refreshedAt + REFRESH_MILLISECONDS - Date.now();
  timer = setTimeout(refresh, Math.max(delay, least));
}

function onSignal(event) {
  const signal = JSON.parse(event.detail.data);
  sequence = Math.max(sequence, signal.sequence);
  for (const job of signal.jobs) waiting.add(job);
  if (isPaused) showSequence();
  else schedule(100);
}

function signedOut() {
  show("signed-out", "signed out: reload the page");
  document.getElementById("feed")?.remove();
}

function onError(event) {
  if (event.detail.status === 401 || event.detail.status === 403) signedOut();
  else reconnecting();
}

function reconnecting() {
  if (status.dataset.state !== "reconnecting") show("reconnecting", `reconnecting since ${clock()}`);
}

async function poll() {
  timer = 0;
  if (isPaused || document.hidden) return;
  try {
    const code = await refreshPart(document.getElementById("live-part"));
    if (status.dataset.state === "signed-out") return;
    if (code === 404) return show("signed-out", "gone: it was deleted");
    if (code >= 400) reconnecting();
    else showSequence();
  } catch {
    reconnecting();
  }
  pollAfter(Number(status.dataset.poll) * 1000);
}

function pollAfter(delay) {
  if (status.dataset.state === "signed-out") return;
  clearTimeout(timer);
  timer = setTimeout(poll, delay);
}

function startPolling() {
  startPause(() => pollAfter(0));
  document.addEventListener("visibilitychange", () => { if (!document.hidden) pollAfter(0); });
  showSequence();
  pollAfter(Number(status.dataset.poll) * 1000);
}

function startPause(resume) {
  const button = document.getElementById("live-pause");
  button.addEventListener("click", () => {
    if (status.dataset.state === "signed-out") return;
    isPaused = !isPaused;
    button.setAttribute("aria-pressed", String(isPaused));
    button.textContent = isPaused ? "Resume" : "Pause";
    showSequence();
    if (!isPaused) resume();
  });
}

function connect() {
  const feed = document.createElement("div");
  feed.id = "feed";
  feed.hidden = true;
  const after = `after=${encodeURIComponent(status.dataset.after)}`;
  const url = status.dataset.feed;
  feed.setAttribute("hx-sse:connect", `${url}${url.includes("?") ? "&" : "?"}${after}`);
  feed.setAttribute("hx-swap", "none");
  feed.addEventListener("signal", onSignal);
  feed.addEventListener("htmx:sse:after:connection", showSequence);
  feed.addEventListener("htmx:sse:error", onError);
  feed.addEventListener("htmx:response:error", onError);
  document.body.append(feed);
  window.htmx.process(feed);
}

export function startLive() {
  status = document.getElementById("live");
  if (!status) return;
  sequence = Number(status.dataset.after);
  if (status.dataset.poll) return startPolling();
  startPause(() => schedule(0));
  connect();
}
