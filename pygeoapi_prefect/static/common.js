// What scripts of all pages share: settings and texts of the page, elements, requests.
// Nothing here makes markup of data: text goes in as text.

const settings = JSON.parse(document.getElementById("page-settings").textContent);
const texts = JSON.parse(document.getElementById("page-texts").textContent);

export const map = settings.map;
export const apiRoot = new URL(settings.apiRoot, window.location.href);

/** Address of a resource of the API: `apiUrl("jobs", id)`. */
export function apiUrl(...parts) {
  return new URL(parts.map(encodeURIComponent).join("/"), apiRoot);
}

/** A text in the language of the page, with {names} replaced. */
export function t(text, values = {}) {
  return (texts[text] ?? text).replace(/{(\w+)}/g, (whole, name) => values[name] ?? whole);
}

let ids = 0;

export function newId(prefix) {
  ids += 1;
  return `${prefix}-${ids}`;
}

/** An element: `h("a", {href, class: "x", onclick}, "text", child)`. */
export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export function humanSize(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit === 0 ? value : value.toFixed(value < 10 ? 1 : 0)} ${units[unit]}`;
}

export function humanDuration(seconds) {
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  const whole = Math.round(seconds);
  const parts = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return parts[0] ? `${parts[0]} h ${parts[1]} min` : `${parts[1]} min ${parts[2]} s`;
}

/** A time as people here read it; the exact one is its title. */
export function timeElement(iso) {
  const time = new Date(iso);
  return h("time", { datetime: iso, title: iso }, localTime(time));
}

export function localTime(time) {
  return time.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
}

/** Show times of the page in the time zone of its reader. */
export function localiseTimes(root) {
  for (const element of root.querySelectorAll("time[datetime]")) {
    element.replaceWith(timeElement(element.getAttribute("datetime")));
  }
}

/** What is wrong, as the server says it; `errors` are {pointer, detail} of parts of a request. */
export class Problem extends Error {
  constructor(status, detail, errors = []) {
    super(detail);
    this.status = status;
    this.errors = errors;
  }
}

/** Send a request, and return its response. Throws `Problem` where it fails. */
export async function request(url, options = {}) {
  let response;
  try {
    response = await fetch(url, { cache: "no-store", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, t("The server cannot be reached."));
  }
  if (!response.ok) throw await problemOf(response);
  return response;
}

async function problemOf(response) {
  const text = await textOf(response);
  try {
    const { detail, description, title, errors } = JSON.parse(text);
    return new Problem(response.status, String(detail ?? description ?? title ?? text), errors);
  } catch {
    return new Problem(response.status, `${response.status} ${response.statusText}`.trim());
  }
}

export async function requestJson(url, options = {}) {
  const response = await request(url, {
    ...options,
    headers: { Accept: "application/json", ...options.headers },
  });
  return jsonOf(response);
}

/** The JSON that a response is. Throws `Problem` where it is something else, or breaks off. */
export async function jsonOf(response) {
  const text = await textOf(response);
  try {
    return JSON.parse(text);
  } catch {
    throw new Problem(response.status, t("The answer of the server is not understood."));
  }
}

async function textOf(response) {
  try {
    return await response.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, t("The server cannot be reached."));
  }
}

/** Fetch a page again, and return it as a document, in which no script runs. */
export async function requestPage(url) {
  const response = await request(url, { headers: { Accept: "text/html" } });
  return new DOMParser().parseFromString(await textOf(response), "text/html");
}

/** Wait, longer while the page is not looked at; an event may end the wait. */
export function pause(milliseconds) {
  return new Promise((resolve) => {
    let timer = null;
    const done = () => {
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", seen);
      resolve();
    };
    const seen = () => {
      if (!document.hidden) done();
    };
    document.addEventListener("visibilitychange", seen);
    timer = setTimeout(done, document.hidden ? milliseconds * 10 : milliseconds);
  });
}
