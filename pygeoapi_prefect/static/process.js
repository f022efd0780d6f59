// The page of a process: a form for its inputs, its execution, and its results.

import { apiRoot, apiUrl, h, humanDuration, jsonOf, newId, Problem, request, t } from "./common.js";
import { preview } from "./previews.js";
import { FieldError, listWidget, makeWidget } from "./widgets.js";

const COMMAND_MAX_CHARACTERS = 20_000;

const description = JSON.parse(document.getElementById("process-description").textContent);
const executionUrl = apiUrl("processes", description.id, "execution");
const form = document.getElementById("execute");
const submit = document.getElementById("submit");
const formStatus = document.getElementById("form-status");
const formProblem = document.getElementById("form-problem");
const outputProblem = document.getElementById("output-problem");
const result = document.getElementById("result");
const fields = new Map();

// The form

function makeField(inputId, input) {
  const title = input.title || inputId;
  const least = input.minOccurs ?? 1;
  const most = input.maxOccurs === "unbounded" ? Infinity : (input.maxOccurs ?? 1);
  const isRequired = least > 0;
  const schema = input.schema ?? {};
  const widget = most > 1 ? listWidget(schema, title, least, most) : makeWidget(schema, title);
  const problem = h("p", { class: "problem", id: newId("problem"), hidden: true });
  const help = h("p", { class: "form-text", id: newId("help") }, input.description ?? schema.description ?? "");
  const mark = h(
    "span",
    { class: isRequired ? "mark-required" : "mark-optional" },
    t(isRequired ? "required" : "optional"),
  );
  const caption = [h("strong", {}, title), " ", h("code", { class: "small" }, inputId), " ", mark];
  const label = widget.control
    ? h("label", { class: "field-label", for: widget.control.id }, ...caption)
    : h("div", { class: "field-label" }, ...caption);
  widget.control?.removeAttribute("aria-label"); // it has a label
  for (const control of widget.element.matches("input, select, textarea")
    ? [widget.element]
    : widget.element.querySelectorAll("input, select, textarea")) {
    control.setAttribute("aria-describedby", `${help.id} ${problem.id}`);
    if (isRequired && control === widget.control) control.setAttribute("aria-required", "true");
  }
  const element = h("div", { class: "field", "data-input-id": inputId }, label, help, widget.element, problem);
  if (schema.default !== undefined && schema.default !== null) widget.write(schema.default);
  else if (isRequired && most === 1 && schema.type === "array") widget.write([]);
  return {
    element,
    write: (value) => widget.write(value),
    size: () => widget.contents().reduce((sum, content) => sum + content.size, 0),
    ready: () => Promise.all(widget.contents().map((content) => content.ready())),
    read: () => {
      const value = widget.read();
      if (value === undefined && isRequired) throw new FieldError(t("This is required."), widget.control);
      return value;
    },
    show: (message, control) => {
      problem.textContent = message ?? "";
      problem.hidden = !message;
      element.classList.toggle("has-problem", Boolean(message));
      for (const invalid of element.querySelectorAll("[aria-invalid]")) invalid.removeAttribute("aria-invalid");
      if (message) (control ?? widget.control)?.setAttribute("aria-invalid", "true");
    },
    focus: (control) => {
      (control ?? widget.control ?? element.querySelector("input, select, textarea, button"))?.focus();
    },
  };
}

for (const [inputId, input] of Object.entries(description.inputs ?? {})) {
  const field = makeField(inputId, input);
  fields.set(inputId, field);
  document.getElementById("inputs").append(field.element);
  field.element.addEventListener("input", () => field.show(null));
  field.element.addEventListener("fault", ({ detail }) => field.show(detail.message, detail.element));
}

/** Read all inputs as they are now; what cannot be read is handed to `refuse`. */
function readInputs(refuse) {
  const inputs = {};
  for (const [inputId, field] of fields) {
    try {
      const value = field.read();
      if (value !== undefined) inputs[inputId] = value;
    } catch (error) {
      if (!(error instanceof FieldError)) throw error;
      refuse(field, error);
    }
  }
  return inputs;
}

/** Wait until all files have been read; those that cannot be are handed to `refuse`. */
async function filesRead(refuse) {
  for (const field of fields.values()) {
    try {
      await field.ready();
    } catch (error) {
      if (!(error instanceof FieldError)) throw error;
      refuse(field, error);
    }
  }
}

function readOutputs() {
  const outputs = {};
  for (const choice of form.querySelectorAll("[data-output-id]")) {
    if (!choice.checked) continue;
    const select = choice.closest(".output-choice").querySelector("[data-transmission]");
    const offered = description.outputTransmission ?? ["value"];
    outputs[choice.dataset.outputId] = { transmissionMode: select?.value ?? offered[0] };
  }
  return outputs;
}

function isAsync() {
  return form.elements.mode?.value === "async";
}

function executeRequest(refuse) {
  const body = { inputs: readInputs(refuse) };
  const outputs = readOutputs();
  if (Object.keys(outputs).length) body.outputs = outputs;
  body.response = "document";
  return body;
}

// The same as a command

function shellQuoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** The request as an argument of curl; a large one is in a file, and is not made for this. */
function commandData() {
  const size = [...fields.values()].reduce((sum, field) => sum + field.size(), 0);
  if (size > COMMAND_MAX_CHARACTERS) return "@request.json";
  const body = JSON.stringify(executeRequest(() => {}));
  return body.length > COMMAND_MAX_CHARACTERS ? "@request.json" : shellQuoted(body);
}

function showCommand() {
  const lines = [
    `curl -X POST ${shellQuoted(executionUrl.href)}`,
    "-H 'Content-Type: application/json'",
    ...(isAsync() ? ["-H 'Prefer: respond-async'"] : []),
    `--data ${commandData()}`,
  ];
  document.getElementById("command-text").textContent = lines.join(" \\\n  ");
}

let commandTimer = null;

function changed() {
  clearTimeout(commandTimer);
  commandTimer = setTimeout(showCommand, 150);
}

form.addEventListener("input", changed);
form.addEventListener("change", changed);

document.getElementById("copy-command").addEventListener("click", async () => {
  const status = document.getElementById("copy-status");
  showCommand();
  try {
    await navigator.clipboard.writeText(document.getElementById("command-text").textContent);
    status.textContent = t("Copied");
  } catch {
    window.getSelection().selectAllChildren(document.getElementById("command-text"));
    status.textContent = t("Not copied: the browser does not allow it.");
  }
});

document.getElementById("fill-example")?.addEventListener("click", () => {
  const inputs = description.example?.inputs ?? {};
  for (const [inputId, field] of fields) {
    field.show(null);
    if (inputId in inputs) field.write(inputs[inputId]);
  }
  changed();
});

// Execution

function clearProblems() {
  formProblem.hidden = true;
  outputProblem.hidden = true;
  for (const field of fields.values()) field.show(null);
}

function showFormProblem(message) {
  formProblem.textContent = message;
  formProblem.hidden = false;
}

/** Show what the server has to say next to the inputs that it is about, the rest at the button. */
function showProblem(problem) {
  const others = [];
  const found = new Map();
  for (const { pointer, detail } of problem.errors) {
    const [part, name] = pointer.slice(1).split("/").map(unescaped);
    const field = part === "inputs" ? fields.get(name) : undefined;
    if (field) found.set(field, [...(found.get(field) ?? []), detail]);
    else others.push(name === undefined ? detail : `${name}: ${detail}`);
  }
  for (const [field, details] of found) field.show(details.join("\n"));
  if (found.size) others.unshift(t("Some inputs need attention."));
  showFormProblem(others.join("\n") || problem.message || t("The request was refused."));
  [...found.keys()][0]?.focus();
}

/** A name in a JSON pointer, as it is elsewhere. */
function unescaped(name) {
  return name.replaceAll("~1", "/").replaceAll("~0", "~");
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (submit.disabled) return;
  clearProblems();
  submit.disabled = true;
  try {
    await check();
  } finally {
    submit.disabled = false;
    formStatus.textContent = "";
    // a button that is disabled loses it
    if (document.activeElement === document.body) submit.focus({ preventScroll: true });
  }
});

/** Execute what was entered, or show what is wrong with it. */
async function check() {
  const refused = new Map();
  const refuse = (field, error) => {
    if (refused.has(field)) return;
    field.show(error.message, error.element);
    refused.set(field, error);
  };
  formStatus.textContent = t("Reading files …");
  await filesRead(refuse);
  const body = executeRequest(refuse);
  if (refused.size) {
    const field = [...fields.values()].find((one) => refused.has(one));
    showFormProblem(t("Some inputs need attention."));
    field.focus(refused.get(field).element);
    return;
  }
  if (form.querySelector("[data-output-id]") && !body.outputs) {
    outputProblem.textContent = t("Choose at least one output.");
    outputProblem.hidden = false;
    form.querySelector("[data-output-id]").focus();
    return;
  }
  let text;
  try {
    text = JSON.stringify(body);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // no browser has a text of any length
    showFormProblem(t("This is too much for a browser to send: give large files by their addresses."));
    return;
  }
  await execute(text);
}

async function execute(body) {
  result.hidden = true;
  formStatus.textContent = t("Executing …");
  form.setAttribute("aria-busy", "true");
  const startedAt = performance.now();
  try {
    const response = await request(executionUrl, {
      method: "POST",
      headers: {
        "Content-Type": "application/json",
        Accept: "application/json",
        ...(isAsync() ? { Prefer: "respond-async" } : {}),
      },
      body,
    });
    const answer = response.status === 204 ? {} : await jsonOf(response);
    if (response.status === 201) goToJob(answer);
    else showResults(answer, (performance.now() - startedAt) / 1000);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    showProblem(error);
  } finally {
    form.removeAttribute("aria-busy");
  }
}

function show(summary, ...content) {
  document.getElementById("result-summary").textContent = summary;
  document.getElementById("result-outputs").replaceChildren(...content);
  result.hidden = false;
  result.focus({ preventScroll: true });
  result.scrollIntoView({ block: "start" });
}

/** A job that goes on by itself is followed on its own page. */
function goToJob({ jobID }) {
  const address = apiUrl("jobs", jobID);
  address.search = "f=html";
  window.location.assign(address);
}

async function showResults(answer, seconds) {
  const outputs = Object.entries(answer);
  const summary = t("Done in {duration}.", { duration: humanDuration(seconds) });
  show(summary, ...outputs.map(([outputId, value]) => outputCard(outputId, value)));
}

function outputCard(outputId, value) {
  const { title } = description.outputs?.[outputId] ?? {};
  const body = h("div", { class: "card-body output-preview" });
  const facts = h("span", { class: "text-muted small" }, h("code", {}, outputId));
  const download = h("a", { class: "btn btn-sm btn-outline-primary", download: outputId }, t("Download"));
  sourceOf(outputId, value).then((source) => {
    download.href = source.blob ? URL.createObjectURL(source.blob) : source.url;
    facts.append(` · ${source.mediaType}`);
    return preview(body, { ...source, title: title ?? outputId });
  });
  return h(
    "article",
    { class: "card mb-3 output", "data-id": outputId },
    h(
      "header",
      { class: "card-header output-header" },
      h("div", { class: "output-name" }, h("h3", { class: "h6 mb-0" }, title ?? outputId), facts),
      download,
    ),
    body,
  );
}

async function sourceOf(outputId, value) {
  const isObject = value !== null && typeof value === "object" && !Array.isArray(value);
  if (isObject && typeof value.href === "string") return referenced(value);
  const isQualified = isObject && "value" in value && ("mediaType" in value || "encoding" in value);
  const inline = isQualified ? value.value : value;
  const declared = description.outputs?.[outputId]?.schema?.contentMediaType;
  const isText = typeof inline === "string";
  const mediaType =
    (isQualified && value.mediaType) || (isText && declared) || (isText ? "text/plain" : "application/json");
  const content = isQualified && value.encoding === "base64" ? bytesOf(inline) : isText ? inline : JSON.stringify(inline);
  const blob = new Blob([content], { type: mediaType });
  return { blob, mediaType, size: blob.size };
}

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

/** What a link refers to; on this server, under the name by which the browser knows it. */
async function referenced(link) {
  const [, path] = /\/(jobs\/[^/?#]+\/results\/[^?#]+)$/.exec(link.href) ?? [];
  const url = path ? new URL(path, apiRoot) : new URL(link.href, window.location.href);
  const mediaType = link.type ?? "application/octet-stream";
  if (!path) return { url, mediaType: mediaType.startsWith("image/") ? mediaType : "", size: 1 };
  const head = await request(url, { method: "HEAD" });
  return { url, mediaType, size: Number(head.headers.get("Content-Length") ?? 1) };
}

form.hidden = false;
showCommand();
