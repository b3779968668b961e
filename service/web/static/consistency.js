// Verifies that one seal extends another: both signatures, and the hashes that the service provides.
import { NotProven, fromBase64, isExtension, openSeal, readKeys } from "./seal.js";

function show(kind, text) {
  const verdict = document.getElementById("consistency-verdict");
  verdict.className = `notice ${kind}`;
  verdict.textContent = text;
}

export async function start() {
  const { proof, keys, from, to } = document.getElementById("consistency").dataset;
  if (!window.isSecureContext || !crypto.subtle) return;
  if (!from || !to) return show("warn", "Not checked: one of these seals is not on this page of the list. Use the command: jobledger audit consistency.");
  const pinned = localStorage.getItem("jobledger.keys") ?? "";
  const whose = pinned ? "keys that you trust" : "keys from this server, so this is not independent";
  try {
    const trusted = await readKeys(pinned || keys);
    const [old, fresh] = [await openSeal(from, trusted), await openSeal(to, trusted)];
    if (old.origin !== fresh.origin) throw new NotProven("the seals are of different logs");
    const hashes = proof.split(" ").filter(Boolean).map(fromBase64);
    if (!(await isExtension(old, fresh, hashes))) throw new NotProven("the hashes do not lead from one root to the other: two histories were sealed, or the service has another log");
    show(pinned ? "good" : "warn", `Verified in this browser: the ${fresh.size} events of B begin with the ${old.size} of A, unchanged. Checked with ${whose}.`);
  } catch (error) {
    if (!(error instanceof NotProven)) throw error;
    show("bad", `Not proven: ${error.message}.`);
  }
}
