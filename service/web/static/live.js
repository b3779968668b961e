// Live pages: one stream of signals per tab, and the changed part of the page fetched again, at most once a second.
//
//   off ──connect──► live ◄──► paused (button, "p")      htmx's SSE extension closes the stream while the tab is
//                     │  ▲                               hidden, and resumes it after the last signal.
//                     ▼  │
//               reconnecting ──401──► signed-out
import { refreshJobs } from "./job_rows.js";

const REFRESH_MILLISECONDS = 1000;
const ANNOUNCE_MILLISECONDS = 10000;
const REFRESH = { jobs: refreshJobs, part: refreshPart };

let status;
let isPaused = false;
let waiting = new Set();
let timer = 0;
let sequence = 0;
let announcedAt = 0;
let unannounced = 0;

function show(state, text) {
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

async function refreshPart(element) {
  const answer = await fetch(element.dataset.url, { headers: { "HX-Request": "true" } });
  if (answer.status === 401) return signedOut();
  if (answer.ok) await window.htmx.swap({ target: element, text: await answer.text(), swap: "innerMorph" });
}

async function refresh() {
  timer = 0;
  if (isPaused || document.hidden || !waiting.size) return;
  const changed = waiting;
  waiting = new Set();
  for (const element of document.querySelectorAll("[data-live]")) {
    await REFRESH[element.dataset.live](element, changed, signedOut);
  }
  announce(changed.size);
  showSequence();
  if (waiting.size) schedule();
}

function schedule(delay = REFRESH_MILLISECONDS) {
  if (!timer) timer = setTimeout(refresh, delay);
}

function onSignal(event) {
  const signal = JSON.parse(event.detail.data);
  sequence = Math.max(sequence, signal.sequence);
  const wasIdle = !waiting.size && !timer;
  for (const job of signal.jobs) waiting.add(job);
  if (isPaused) showSequence();
  else schedule(wasIdle ? 100 : REFRESH_MILLISECONDS);
}

function signedOut() {
  show("signed-out", "signed out: reload the page");
  document.getElementById("feed")?.remove();
}

function onError(event) {
  if (event.detail.status === 401 || event.detail.status === 403) signedOut();
  else show("reconnecting", `reconnecting since ${new Date().toISOString().slice(11, 19)} UTC`);
}

function pause() {
  isPaused = !isPaused;
  const button = document.getElementById("live-pause");
  button.setAttribute("aria-pressed", String(isPaused));
  button.textContent = isPaused ? "Resume" : "Pause";
  showSequence();
  if (!isPaused) schedule(0);
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
  document.getElementById("live-pause").addEventListener("click", pause);
  connect();
}
