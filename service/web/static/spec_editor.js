// The editor of a spec: line numbers, marks at the lines of problems, and files that are dropped on it.
// The text is a plain <textarea>; htmx sends it to be checked while it is typed.
const FORMATS = { toml: "toml" };

function showGutter(editor, text) {
  const marks = new Map();
  for (const each of document.querySelectorAll("#check [data-line]")) {
    marks.set(Number(each.dataset.line), each.textContent.trim());
  }
  const gutter = editor.querySelector(".gutter");
  const lines = text.value.split("\n").length;
  const rows = [];
  for (let line = 1; line <= lines; line += 1) {
    const row = document.createElement("div");
    row.textContent = line;
    if (marks.has(line)) {
      row.className = "marked";
      row.title = marks.get(line);
    }
    rows.push(row);
  }
  gutter.replaceChildren(...rows);
  gutter.scrollTop = text.scrollTop;
}

async function take(file, text) {
  document.getElementById("format").value = FORMATS[file.name.split(".").pop().toLowerCase()] ?? "";
  text.value = await file.text();
  text.dispatchEvent(new Event("input", { bubbles: true }));
}

function goToLine(text, line) {
  const lines = text.value.split("\n");
  const start = lines.slice(0, line - 1).join("\n").length + (line > 1 ? 1 : 0);
  text.focus();
  text.setSelectionRange(start, start + (lines[line - 1] ?? "").length);
}

export function startSpecEditor() {
  const editor = document.getElementById("editor");
  if (!editor) return;
  const text = editor.querySelector("textarea");
  const show = () => showGutter(editor, text);
  text.addEventListener("input", show);
  text.addEventListener("scroll", show);
  editor.addEventListener("dragover", (event) => event.preventDefault());
  editor.addEventListener("drop", (event) => {
    const [file] = event.dataTransfer.files;
    if (!file) return;
    event.preventDefault();
    take(file, text);
  });
  const check = document.getElementById("check");
  new MutationObserver(show).observe(check, { childList: true, subtree: true });
  check.addEventListener("click", (event) => {
    const item = event.target.closest("[data-line]");
    if (!item || !event.target.matches("a.line")) return;
    event.preventDefault();
    goToLine(text, Number(item.dataset.line));
  });
  show();
}
