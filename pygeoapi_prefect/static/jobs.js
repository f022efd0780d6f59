// The list of jobs: its filter, and how it keeps itself up to date.

import { localiseTimes, localTime, pause, requestPage, t } from "./common.js";

const REFRESH_MILLISECONDS = 3000;
const REFRESH_MAX_MILLISECONDS = 30_000;

const filter = document.getElementById("filter");
const from = document.getElementById("filter-from");
const until = document.getElementById("filter-until");
const interval = document.getElementById("filter-datetime");
const list = document.getElementById("job-list");
const refreshStatus = document.getElementById("refresh-status");
const autoRefresh = document.getElementById("auto-refresh");

/** A time as `datetime-local` inputs have it: here, and without a zone. */
function inputTime(text) {
  const time = new Date(text);
  if (Number.isNaN(time.getTime())) return "";
  return new Date(time.getTime() - time.getTimezoneOffset() * 60_000).toISOString().slice(0, 19);
}

function showInterval() {
  const [start, end = start] = interval.value.split("/");
  from.value = start && start !== ".." ? inputTime(start) : "";
  until.value = end && end !== ".." ? inputTime(end) : "";
}

filter.addEventListener("submit", (event) => {
  event.preventDefault();
  const utc = (value) => (value ? new Date(value).toISOString().replace(/\.\d+/, "") : "..");
  const query = new URLSearchParams(new FormData(filter));
  query.delete("status");
  const statuses = new FormData(filter).getAll("status");
  if (statuses.length) query.set("status", statuses.join(","));
  query.delete("datetime");
  if (from.value || until.value) query.set("datetime", `${utc(from.value)}/${utc(until.value)}`);
  if (!query.get("processID")) query.delete("processID");
  window.location.search = query.toString();
});

let shown = list.innerHTML;

function show(page) {
  const fresh = page.getElementById("job-list");
  if (fresh === null || fresh.innerHTML === shown) return;
  shown = fresh.innerHTML;
  // who reads the list by keyboard stays where they are
  const focused = document.activeElement?.closest("#job-list a")?.getAttribute("href");
  list.replaceChildren(...document.adoptNode(fresh).childNodes);
  localiseTimes(list);
  if (focused) list.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
}

let round = 0;

async function keepFresh() {
  round += 1;
  const mine = round;
  let wait = REFRESH_MILLISECONDS;
  for (;;) {
    await pause(wait);
    if (!autoRefresh.checked || mine !== round) return;
    if (document.hidden) continue;
    try {
      show(await requestPage(window.location.href));
      refreshStatus.textContent = t("Updated at {time}", { time: localTime(new Date()) });
      wait = REFRESH_MILLISECONDS;
    } catch {
      refreshStatus.textContent = t("The server cannot be reached. Trying again …");
      wait = Math.min(wait * 2, REFRESH_MAX_MILLISECONDS);
    }
  }
}

const KEY = "pygeoapi-prefect.auto-refresh";

function remember(value) {
  try {
    window.localStorage.setItem(KEY, value);
  } catch {
    // a browser that keeps nothing starts with the default each time
  }
}

function remembered() {
  try {
    return window.localStorage.getItem(KEY);
  } catch {
    return null;
  }
}

autoRefresh.checked = remembered() !== "off";
autoRefresh.addEventListener("change", () => {
  remember(autoRefresh.checked ? "on" : "off");
  if (autoRefresh.checked) keepFresh();
  else refreshStatus.textContent = "";
});
document.getElementById("auto-refresh-control").hidden = false;
showInterval();
localiseTimes(list);
keepFresh();
