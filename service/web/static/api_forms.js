// "Try it" in the documents of the API: sends the request of a form, and shows the response as it is.
// A token stays in its field: it is neither stored nor sent anywhere else.
const SHOWN_CHARACTERS = 100000;
const STREAM_MILLISECONDS = 5000;

function targetOf(form) {
  let path = form.dataset.path;
  const query = new URLSearchParams();
  const headers = {};
  for (const field of form.querySelectorAll("[data-in]")) {
    const { in: place, name } = field.dataset;
    if (place === "path") path = path.replace(`{${name}}`, encodeURIComponent(field.value));
    else if (field.value && place === "header") headers[name] = field.value;
    else if (field.value) for (const each of field.value.split("\n")) query.append(name, each);
  }
  return [query.size ? `${path}?${query}` : path, headers];
}

async function textOf(answer, controller) {
  const reader = answer.body?.getReader();
  const decoder = new TextDecoder();
  const timer = setTimeout(() => controller.abort(), STREAM_MILLISECONDS);
  let text = "";
  try {
    while (reader && text.length < SHOWN_CHARACTERS) {
      const { value, done } = await reader.read();
      if (done) return text;
      text += decoder.decode(value, { stream: true });
    }
    controller.abort();
    return `${text.slice(0, SHOWN_CHARACTERS)}\n… (the rest is not shown)`;
  } catch {
    return `${text}\n… (still open after ${STREAM_MILLISECONDS / 1000} s, and closed here)`;
  } finally {
    clearTimeout(timer);
  }
}

async function send(form, output) {
  const [url, headers] = targetOf(form);
  const body = form.querySelector("textarea")?.value;
  const token = document.getElementById("api-token").value.trim();
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body) headers["Content-Type"] = "application/json";
  const controller = new AbortController();
  const request = { method: form.dataset.method, headers, body: body || undefined, credentials: "omit", signal: controller.signal };
  const line = `${request.method} ${url}`;
  output.textContent = `${line}\n…`;
  try {
    const answer = await fetch(url, request);
    const text = await textOf(answer, controller);
    const shown = [...answer.headers].map(([name, value]) => `${name}: ${value}`).join("\n");
    output.textContent = `${line}\n\n${answer.status} ${answer.statusText}\n${shown}\n\n${text}`;
  } catch (error) {
    output.textContent = `${line}\n\nno response: ${error.message}`;
  }
}

export function start() {
  document.getElementById("api-docs").addEventListener("submit", (event) => {
    const form = event.target.closest("form.try");
    if (!form) return;
    event.preventDefault();
    const output = form.querySelector("pre");
    output.hidden = false;
    send(form, output);
  });
}
