// The page that verifies a proof: gets a bundle from the service or from a file, checks it here, shows each step.
import { Invalid, checkBundle } from "./bundle_check.js";
import { timeText } from "./zone.js";
import { NotProven, hex, readKeys } from "./seal.js";

const PINNED = "jobledger.keys";
const ROWS_MAX = 500;
const HERE = "verified in this browser";
const SERVICE = "stated by the server";
let source; // { bytes, uncovered: null | "", name }
let page;

const element = (id) => document.getElementById(id);

function cell(text, name = "") {
  const found = document.createElement("td");
  found.className = name;
  found.textContent = text;
  return found;
}

function showStep(name, result, by, detail) {
  const row = element(`step-${name}`);
  row.dataset.result = result;
  row.querySelector(".result").textContent = { ok: "ok", bad: "FAILED", none: "–" }[result];
  row.querySelector(".by").textContent = by;
  row.querySelector(".detail").textContent = detail;
}

function resetSteps(why) {
  for (const row of document.querySelectorAll(".steps tbody tr")) {
    showStep(row.id.slice("step-".length), "none", "not checked", row.dataset.why || why);
  }
}

function showVerdict(kind, text) {
  const verdict = element("proof-verdict");
  verdict.className = `notice ${kind}`;
  verdict.textContent = text;
}

// --- the events

function timeOf(nanoseconds) {
  return timeText(new Date(Number(nanoseconds / 1000000n)));
}

function pathOf(record) {
  const details = document.createElement("details");
  const summary = document.createElement("summary");
  summary.textContent = `${record.proof.length} hashes`;
  const list = document.createElement("ol");
  for (const each of record.proof) {
    const item = document.createElement("li");
    item.textContent = hex(each);
    list.append(item);
  }
  details.append(summary, list);
  return details;
}

function eventRow(record, event) {
  const row = document.createElement("tr");
  const path = cell("", "mono");
  path.append(pathOf(record));
  const leaf = cell(`${hex(record.leaf).slice(0, 16)}…`, "mono");
  leaf.title = hex(record.leaf);
  const what = event ? event.type.replace(/^jobledger\.job\.|\.v1$/g, "") : "not an event of Jobledger";
  const state = event?.data?.State?.StateType;
  row.append(
    cell(String(record.sequence), "num"),
    cell(timeOf(record.time)),
    cell(state ? `${what}: ${state}` : what),
    cell(event?.actor ?? "", "clip"),
    cell(event?.reason ?? "", "reason-cell"),
    leaf,
    path,
  );
  return row;
}

function showEvents({ bundle, story }) {
  const rows = bundle.records.slice(-ROWS_MAX).map((record) => eventRow(record, story.events[bundle.records.indexOf(record)]));
  element("proof-event-rows").replaceChildren(...rows);
  element("proof-events").hidden = false;
  const cut = element("proof-cut");
  cut.hidden = bundle.records.length <= ROWS_MAX;
  cut.textContent = `The last ${ROWS_MAX} of ${bundle.records.length} events are shown; all were checked.`;
}

// --- the checks

async function trustedKeys() {
  const pasted = element("proof-keys").value;
  if (pasted.trim()) return [await readKeys(pasted), true];
  return [await readKeys(page.dataset.keys), false];
}

function showChecks(found, isPinned) {
  showStep("format", "ok", HERE, `${found.bundle.records.length} events of the job ${found.bundle.job}, namespace ${found.bundle.namespace}`);
  for (const { name, ok, text } of found.checks) {
    const isSkipped = text.startsWith("not checked");
    const key = name === "seal" && ok ? (isPinned ? "; the key is one that you trust" : "; the key comes from this server: not independent") : "";
    showStep(name, isSkipped ? "none" : ok ? "ok" : "bad", isSkipped ? "not checked" : HERE, isSkipped ? "the seal is not valid" : text + key);
  }
  if (source.uncovered === "0") showStep("newer", "ok", SERVICE, "the service names no newer event of the job");
  else if (source.uncovered) showStep("newer", "none", SERVICE, `${source.uncovered} newer events of the job are not covered yet: wait for the next seal, and verify again`);
}

function showResult(found, isPinned) {
  const { bundle, story, seal } = found;
  const last = bundle.records.at(-1);
  if (!found.ok) return showVerdict("bad", "Not proven: a check failed. Nothing that this bundle states can be relied on.");
  const what = `${bundle.records.length} events of ${story.name || bundle.job}, up to sequence ${last.sequence}, are in the log of ${seal.size} events; the last state that they report is ${story.state}, revision ${story.revision}`;
  if (isPinned) return showVerdict("good", `Proven with a key that you trust: ${what}.`);
  return showVerdict("warn", `The bundle is consistent, but the key comes from the same server, so this is not independent: ${what}. Paste a key that reached you by another way.`);
}

async function verify() {
  resetSteps("a check before it did not pass");
  element("proof-events").hidden = true;
  let keys;
  let isPinned;
  try {
    [keys, isPinned] = await trustedKeys();
  } catch (error) {
    if (!(error instanceof NotProven)) throw error;
    return showVerdict("bad", `Not checked: ${error.message}.`);
  }
  try {
    const found = await checkBundle(source.bytes, keys, source.isFile ? "" : page.dataset.job);
    showChecks(found, isPinned);
    showEvents(found);
    return showResult(found, isPinned);
  } catch (error) {
    if (!(error instanceof Invalid)) throw error;
    showStep("format", "bad", HERE, error.message);
    return showVerdict("bad", `Not proven: ${error.message}.`);
  }
}

async function problemOf(answer) {
  const text = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector(".problem p")?.textContent;
  return answer.status === 401 ? "you are signed out; reload the page" : text || `the service answered ${answer.status}`;
}

async function verifyFromService() {
  showVerdict("", "Getting the bundle…");
  const answer = await fetch(page.dataset.bundle).catch(() => null);
  if (!answer?.ok) {
    resetSteps("there is no bundle");
    return showVerdict("bad", `Not checked: ${answer ? await problemOf(answer) : "the service cannot be reached; drop a bundle file instead"}`);
  }
  const bytes = new Uint8Array(await answer.arrayBuffer());
  source = { bytes, uncovered: answer.headers.get(page.dataset.uncoveredHeader), isFile: false };
  return verify();
}

async function verifyFile(file) {
  source = { bytes: new Uint8Array(await file.arrayBuffer()), uncovered: null, isFile: true };
  element("proof-drop").textContent = `Checked from the file ${file.name}, without the service.`;
  return verify();
}

// --- keys

function showKeyState(text) {
  element("proof-key-state").textContent = text;
}

async function pin() {
  try {
    const keys = await readKeys(element("proof-keys").value);
    localStorage.setItem(PINNED, keys.map((key) => key.text).join("\n"));
    showKeyState(keys.length ? `${keys.length === 1 ? "1 key" : `${keys.length} keys`} kept in this browser` : "no key: those of this service are used");
  } catch (error) {
    showKeyState(error.message);
  }
  if (source) await verify();
}

function unpin() {
  element("proof-keys").value = "";
  return pin();
}

function listen() {
  element("proof-file").addEventListener("change", (event) => event.target.files[0] && verifyFile(event.target.files[0]));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files[0]) verifyFile(event.dataTransfer.files[0]);
  });
  element("proof-again")?.addEventListener("click", verifyFromService);
  element("proof-pin").addEventListener("click", pin);
  element("proof-unpin").addEventListener("click", unpin);
}

export function start() {
  page = element("proof");
  if (!page) return;
  if (!window.isSecureContext || !crypto.subtle) {
    resetSteps("browsers verify signatures only on pages over HTTPS, or of localhost");
    showVerdict("warn", "This page was loaded without TLS, so the browser cannot check signatures. Use HTTPS, or the commands below.");
    return;
  }
  resetSteps("no bundle yet");
  element("proof-keys").value = localStorage.getItem(PINNED) ?? "";
  listen();
  if (page.dataset.bundle) verifyFromService();
  else showVerdict("", "Choose a bundle file, or drop it on this page.");
}
