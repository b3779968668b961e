// Selected rows of a table: the box in its head, and their number at its foot. Survives live updates.
export function selectedBoxes() {
  return [...document.querySelectorAll('#job-rows input[name="job"]:checked')];
}

export function showSelection() {
  const boxes = document.querySelectorAll('#job-rows input[name="job"]');
  const count = selectedBoxes().length;
  const all = document.getElementById("select-all");
  const text = document.getElementById("selected-count");
  const stop = document.getElementById("stop-selected");
  if (all) {
    all.checked = count > 0 && count === boxes.length;
    all.indeterminate = count > 0 && count < boxes.length;
  }
  if (text) text.textContent = count ? `${count} selected` : "";
  if (stop) stop.disabled = !count;
}

export function startSelection() {
  document.addEventListener("change", (event) => {
    if (event.target.id === "select-all") {
      for (const box of document.querySelectorAll('#job-rows input[name="job"]')) box.checked = event.target.checked;
    }
    if (event.target.matches?.("#select-all, #job-rows input")) showSelection();
  });
  showSelection();
}
